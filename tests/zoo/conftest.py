"""Models from the libraries that own them: exact, and on the fast path."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports Keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hushgrad as hg

# Programs here run once, on a few numbers: the time is the compiler's.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
_CLIP = 0.5


@functools.cache
def _options() -> dict[str, Any]:
    """Those of the options that this version of the compiler has."""
    found = {}
    for name, value in _QUICK.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda x: x, compiler_options={name: value})(0)
            found[name] = value
    return found


def compiled(function: Callable) -> Callable:
    """`jax.jit` for a function that is called once."""
    return jax.jit(function, compiler_options=_options())


def reference(
    loss: Callable, params: Any, batch: tuple, dtype: Any = np.float64
) -> tuple[list[np.ndarray], np.ndarray]:
    """Every example's gradient by `vmap(grad)`, and its norm."""

    def cast(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    with jax.enable_x64(dtype == np.float64):
        params, data = jax.tree.map(cast, (params, batch))
        grads = compiled(jax.vmap(jax.grad(loss), (None, *(0 for _ in data))))(params, *data)
        leaves = [np.asarray(g, np.float64) for g in jax.tree.leaves(grads)]
    size = leaves[0].shape[0]
    return leaves, np.sqrt(sum((g.reshape(size, -1) ** 2).sum(1) for g in leaves))


@pytest.fixture(scope="session")
def check_model() -> Callable:
    """Asserts norms, the clipped sum and the share of parameters on the fast path."""

    def check(
        loss: Callable,
        params: Any,
        *batch: Any,
        share: float = 1.0,
        tol: float = 1e-5,
        wide: Callable | None = None,
        narrow: bool = False,
    ):
        """Checks one model on one batch.

        `wide` is the same loss in float64, for libraries that cast to a type of their own.
        `narrow` compares with float32, where float64 would be another program: it draws
        other random numbers.
        """
        grads, norms = reference(wide or loss, params, batch, np.float32 if narrow else np.float64)
        assert np.all(norms > 1e-4), "the test sees no gradient"
        out = compiled(hg.clipped_grad(loss, _CLIP))(params, *batch)
        np.testing.assert_allclose(out.norms, norms, rtol=tol)
        coefficients = np.minimum(1, _CLIP / norms)
        sums = [np.einsum("b,b...->...", coefficients, each) for each in grads]
        # Relative to what one example may add: a sum can cancel to nothing.
        scale = max(min(_CLIP, norms.max()), *(np.abs(want).max(initial=0) for want in sums))
        for got, want in zip(jax.tree.leaves(out.grads), sums, strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=0, atol=tol * scale)
        assert int(out.nonfinite) == 0
        example = jax.tree.map(lambda x: x[0], batch)
        explained = hg.explain(loss, params, *example)
        slow = {row.name: row.why for row in explained.rows if not row.fast}
        assert explained.fast_share == pytest.approx(share, abs=5e-3), slow
        return out

    return check
