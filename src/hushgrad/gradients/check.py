"""`check`: the engine against one gradient per example, on a user's own model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PyTree

from hushgrad.errors import InputError
from hushgrad.gradients.clipped import clipped_grad
from hushgrad.gradients.inputs import batch_size, flat_params, parameter_name

__all__ = ["Checked", "check"]

_CHUNK = 8  # gradients that the reference holds at a time


@dataclasses.dataclass(frozen=True)
class Checked:
    """How far the engine and `vmap(grad)` are apart.

    Attributes:
      norms: largest relative difference of an example's gradient norm.
      sums: for each parameter, the norm of the difference of the clipped sums, over
        that of the reference.
      examples: how many were compared.
    """

    norms: float
    sums: dict[str, float]
    examples: int

    @property
    def largest(self) -> float:
        """The largest of all: about 1e-6 in float32, 1e-15 in float64, 1e-2 in bfloat16."""
        return max([self.norms, *self.sums.values()])

    def __str__(self) -> str:
        worst = max(self.sums, key=lambda name: self.sums[name])
        return (
            f"{self.examples} examples against one gradient each: norms differ by at most "
            f"{self.norms:.1e} relative, clipped sums by {self.sums[worst]:.1e} ({worst})"
        )


def check(loss: Callable[..., Any], params: PyTree, batch: tuple[Any, ...]) -> Checked:
    """Compares `clipped_grad` with one gradient per example on a batch.

    ```python
    print(hg.check(loss, params, (x[:32], y[:32])))
    ```

    Both run in the precision of the parameters, the clip at the median norm, so that
    about half of the examples are scaled.

    Args:
      loss: `loss(params, *example) -> scalar` for one example.
      params: any pytree of arrays.
      batch: the loss's other arguments, with a leading batch axis.

    Raises:
      InputError: if the loss cannot be used in `clipped_grad`, or a gradient is not
        finite.
    """
    size = batch_size(tuple(batch))
    leaves, _ = flat_params(params)
    trained = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
    norms = _norms(loss, params, batch, trained)
    if not size or not np.all(np.isfinite(norms)) or not np.any(norms > 0):
        raise InputError(
            "check needs examples with finite gradients, not all zero, got norms "
            f"{np.asarray(norms)[:8]}; look at the loss, or choose another batch"
        )
    clip = float(np.median(norms[norms > 0]))
    out = jax.jit(clipped_grad(loss, clip))(params, *batch)
    wanted = _clipped_sum(
        loss, params, batch, trained, np.minimum(1, clip / np.maximum(norms, 1e-30))
    )
    named = [parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    found = jax.tree.leaves(out.grads)
    total = np.sqrt(sum(float(np.sum(np.square(w))) for w in wanted))
    chosen = [(n, f) for n, f, t in zip(named, found, trained, strict=True) if t]
    sums = {
        name: float(np.linalg.norm(np.asarray(f, np.float64) - w))
        / (float(np.linalg.norm(w)) + 1e-6 * total)
        for (name, f), w in zip(chosen, wanted, strict=True)
    }
    gap = np.abs(np.asarray(out.norms, np.float64) - norms) / np.maximum(norms, 1e-12 * norms.max())
    return Checked(float(gap.max()), sums, size)


def _gradients(loss: Callable[..., Any], params: PyTree, trained: list[bool]) -> Callable[..., Any]:
    """One example's gradient, as a flat list of the trained parameters'."""
    leaves, treedef = jax.tree.flatten(params)

    def of_trained(chosen: list[Any], example: Any) -> Any:
        rest = iter(chosen)
        full = [next(rest) if t else x for t, x in zip(trained, leaves, strict=True)]
        return loss(jax.tree.unflatten(treedef, full), *example)

    chosen = [jnp.asarray(x) for t, x in zip(trained, leaves, strict=True) if t]

    def one(example: Any) -> list[Any]:
        grads = jax.grad(of_trained)(chosen, example)
        return [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in grads]

    return one


def _norms(loss: Any, params: Any, batch: Any, trained: list[bool]) -> np.ndarray:
    one = _gradients(loss, params, trained)

    def squared(example: Any) -> Any:
        return sum(jnp.sum(jnp.square(g)) for g in one(example))

    run = jax.jit(lambda batch: lax.map(squared, batch, batch_size=_CHUNK))
    return np.sqrt(np.asarray(run(tuple(batch)), np.float64))


def _clipped_sum(
    loss: Any, params: Any, batch: Any, trained: list[bool], coefficients: np.ndarray
) -> list[np.ndarray]:
    one = _gradients(loss, params, trained)

    def add(sums: list[Any], row: Any) -> tuple[list[Any], None]:
        example, c = row
        return [s + c.astype(g.dtype) * g for s, g in zip(sums, one(example), strict=True)], None

    @jax.jit
    def run(batch: Any, coefficients: Any) -> list[Any]:
        first = jax.tree.map(lambda x: x[0], batch)
        zeros = [jnp.zeros(g.shape, g.dtype) for g in jax.eval_shape(one, first)]
        return lax.scan(add, zeros, (batch, coefficients))[0]

    sums = run(jax.tree.map(jnp.asarray, tuple(batch)), jnp.asarray(coefficients))
    return [np.asarray(s, np.float64) for s in sums]
