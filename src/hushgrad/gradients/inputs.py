"""Parameters and examples as flat lists, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from hushgrad.errors import InputError
from hushgrad.gradients.program import Program
from hushgrad.gradients.state import watched
from hushgrad.gradients.trace import trace

__all__ = ["batch_mask", "batch_size", "flat_params", "parameter_name", "traced"]


def flat_params(params: PyTree) -> tuple[list[Array], Any]:
    """The leaves as arrays, and the tree.

    Raises:
      InputError: if there is no leaf, or one is complex.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise InputError(f"params must hold at least one array, got {params!r}")
    for path, leaf in leaves:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise InputError(
                f"params{jax.tree_util.keystr(path)} is complex; keep real and imaginary parts as "
                "two parameters"
            )
    return [jnp.asarray(leaf) for _, leaf in leaves], jax.tree.structure(params)


def parameter_name(path: Any) -> str:
    """Where a parameter stands, readable: `blocks.0.norm.scale`."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "params"


def traced(
    loss: Callable[..., Any],
    params: PyTree,
    example: Sequence[PyTree],
    has_aux: bool = False,
) -> tuple[Program, Any]:
    """The program of one example's loss, and the tree of what it returns beside it.

    Args:
      loss: `loss(params, *example)`.
      params: arrays, or their shapes and dtypes.
      example: the other arguments, likewise, without a batch axis.
      has_aux: the loss returns a pair.
    """
    leaves, treedef = jax.tree.flatten(params)
    data, structure = jax.tree.flatten(tuple(example))
    aux: list[Any] = []

    def flat(parameters: Sequence[Any], values: Sequence[Any]) -> Any:
        args = jax.tree.unflatten(structure, list(values))
        out = loss(jax.tree.unflatten(treedef, list(parameters)), *args)
        if not has_aux:
            return out
        if not isinstance(out, tuple) or len(out) != 2:
            raise InputError(
                f"with has_aux=True loss must return a pair (loss, aux), got {type(out).__name__}"
            )
        more, tree = jax.tree.flatten(out[1])
        aux.append(tree)
        return out[0], more

    with watched(loss):
        program = trace(flat, [_shape(x) for x in leaves], [_shape(x) for x in data], has_aux)
    return program, aux[0] if aux else None


def batch_size(batch: Sequence[Any]) -> int:
    """The common length of all arrays of a batch."""
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(batch)):
        name = "batch" + jax.tree_util.keystr(path)
        if jnp.ndim(leaf) == 0:
            raise InputError(f"{name} must have a leading batch axis, got a scalar")
        sizes[name] = jnp.shape(leaf)[0]
    if not sizes:
        raise InputError("batch is empty: pass the loss's data arguments after params")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise InputError(f"all batch arrays must have the same length, got {listed}")
    return next(iter(sizes.values()))


def batch_mask(mask: Any, size: int) -> Bool[Array, " batch"]:
    """The mask as an array; all true by default."""
    if mask is None:
        return jnp.ones(size, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (size,) or mask.dtype != bool:
        raise InputError(
            f"mask must be boolean of shape ({size},), got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype if hasattr(x, "dtype") else np.result_type(x))
