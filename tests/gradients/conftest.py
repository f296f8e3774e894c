"""What the engine is checked against: one gradient per example, in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hushgrad as hg


def reference(loss: Callable, params: Any, batch: tuple, clip: float) -> tuple[Any, np.ndarray]:
    """Clipped sum and norms by `vmap(grad)`, everything in float64."""

    def widen(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    with jax.enable_x64(True):
        wide, data = jax.tree.map(widen, (params, batch))
        grads = jax.vmap(jax.grad(loss), (None, *(0 for _ in data)))(wide, *data)
        leaves = [np.asarray(g) for g in jax.tree.leaves(grads)]
        size = leaves[0].shape[0]
        norms = np.sqrt(sum((g.reshape(size, -1) ** 2).sum(1) for g in leaves))
        scale = np.minimum(1, clip / np.maximum(norms, 1e-300))
        total = jax.tree.map(lambda g: np.einsum("b,b...->...", scale, np.asarray(g)), grads)
    return total, norms


@pytest.fixture(scope="session")
def check_exact() -> Callable:
    """Asserts norms and clipped sum; 1e-5 relative, for sums at least to one clipped gradient."""

    def check(loss: Callable, params: Any, *batch: Any, clip: float = 1.0, tol: float = 1e-5):
        out = jax.jit(hg.clipped_grad(loss, clip))(params, *batch)
        total, norms = reference(loss, params, batch, clip)
        np.testing.assert_allclose(out.norms, norms, rtol=tol, atol=tol * 1e-3)
        # Relative to what one example may add: a sum can cancel to nothing.
        largest = max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(total))
        scale = max(largest, min(clip, norms.max()))
        for got, want in zip(jax.tree.leaves(out.grads), jax.tree.leaves(total), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=0, atol=tol * max(scale, 1e-6))
        assert int(out.nonfinite) == 0
        return out

    return check
