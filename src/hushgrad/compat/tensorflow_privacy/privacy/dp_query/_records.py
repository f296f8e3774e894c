"""Records, which are pytrees of arrays: their zeros, sums and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from hushgrad.errors import InputError

__all__ = [
    "StructureError",
    "add",
    "clip_by_global_norm",
    "matched",
    "rounded_down",
    "widened_zeros",
    "without_nonfinite",
    "zeros",
]

# Above every rounding error of a norm over up to 2^40 coordinates, summed in halves.
_SLACK = 2.0**-18


class StructureError(InputError, TypeError):
    """A record is not built like the others."""


def zeros(template: PyTree) -> PyTree:
    """Zeros of the template's shapes and types; leaves are arrays, numbers or specs."""
    return jax.tree.map(lambda leaf: jnp.zeros(*_spec(leaf)), template)


def widened_zeros(template: PyTree) -> PyTree:
    """Zeros in which sums of clipped records are exact enough: float32 or wider."""
    return jax.tree.map(lambda leaf: jnp.zeros(_spec(leaf)[0], _wide(_spec(leaf)[1])), template)


def matched(function: Callable[..., Any], first: PyTree, *others: PyTree) -> PyTree:
    """`function` over the leaves of trees of one structure and equal shapes.

    A leaf that stood for several by broadcasting would weigh more than its norm says, and
    noise that did would be the same for all of them.

    Raises:
      StructureError: if trees differ in structure or leaves in shape.
    """
    leaves, structure = jax.tree.flatten(first)
    rows = [leaves]
    for other in others:
        try:
            rows.append(structure.flatten_up_to(other))
        except (TypeError, ValueError) as error:
            raise StructureError(
                f"record must be built like the sample state: {structure}, got "
                f"{jax.tree.structure(other)} ({error})"
            ) from error
    for each in zip(*rows, strict=True):
        shapes = [_shape(leaf) for leaf in each if leaf is not None]
        if any(shape != shapes[0] for shape in shapes):
            raise StructureError(f"record must have the sample state's shapes, got {shapes}")
    return structure.unflatten([function(*each) for each in zip(*rows, strict=True)])


def add(total: PyTree, more: PyTree) -> PyTree:
    """The sum of two trees; where the second has None, the first stays.

    Raises:
      StructureError: if trees differ in structure or leaves in shape.
    """
    return matched(lambda x, y: x if y is None else jnp.add(x, y), total, more)


def clip_by_global_norm(
    record: PyTree, bound: float | Float[Array, ""]
) -> tuple[PyTree[Float[Array, "..."]], Float[Array, ""]]:
    """The record, scaled down to a norm of at most `bound`, and the norm it had.

    Formal guarantee: the Euclidean norm over all leaves of what is returned is at most
    `bound`, rounding included. A record with NaN or an infinity becomes zero, and its
    norm infinite.

    Args:
      record: any pytree of real arrays.
      bound: zero or more.

    Returns:
      The clipped record in float32 or wider, and the norm before.

    Raises:
      InputError: if a leaf is complex.
    """
    for leaf in jax.tree.leaves(record):
        if jnp.issubdtype(_spec(leaf)[1], jnp.complexfloating):
            raise InputError(f"record must hold real numbers, got {_spec(leaf)[1]}")
    if not isinstance(bound, Tracer):
        bound = rounded_down(bound)
    return _clipped(record, bound)


def rounded_down(bound: Any) -> float:
    """The largest number of at most `bound` that float32 has.

    As params they bound the same under `jit`, where a float becomes the nearest float32.
    """
    narrow = np.float32(bound)
    if float(narrow) > float(bound):
        narrow = np.nextafter(narrow, np.float32(0))
    return float(narrow)


def without_nonfinite(record: PyTree, of: PyTree) -> PyTree:
    """`record`, or zeros if `of` or itself has a NaN or an infinity anywhere."""
    leaves = [*jax.tree.leaves(record), *jax.tree.leaves(of)]
    finite = jnp.stack([jnp.all(jnp.isfinite(jnp.asarray(leaf))) for leaf in leaves]).all()
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), record)


@jax.jit
def _clipped(record: PyTree, bound: Any) -> tuple[PyTree, Array]:
    record = jax.tree.map(lambda leaf: jnp.asarray(leaf, _wide(_spec(leaf)[1])), record)
    leaves = jax.tree.leaves(record)
    norm = _norm(leaves)
    finite = jnp.isfinite(norm)
    if sum(leaf.size for leaf in leaves) == 1:
        # One number is exact without room for rounding.
        scaled = jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), record)
    else:
        at_most = norm * (1 + _SLACK)
        scale = jnp.where(at_most > bound, bound / jnp.where(at_most > 0, at_most, 1), 1)
        scaled = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), record)
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), scaled), norm


def _norm(leaves: list[Array]) -> Array:
    """Infinite where a leaf is not finite; squares neither overflow nor vanish."""
    if not leaves:
        return jnp.zeros(())
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]).max()
    usable = jnp.isfinite(largest) & (largest > 0)
    unit = jnp.where(usable, largest, 1)
    squares = jnp.stack([_sum(((leaf / unit) ** 2).ravel()) for leaf in leaves])
    return jnp.where(jnp.isfinite(largest), unit * jnp.sqrt(_sum(squares)), jnp.inf)


def _sum(terms: Array) -> Array:
    """In halves: the error is a rounding for each of log2(n) levels, in every case."""
    while terms.size > 1:
        terms = jnp.pad(terms, (0, terms.size % 2))
        terms = terms[: terms.size // 2] + terms[terms.size // 2 :]
    return terms[0] if terms.size else jnp.zeros((), terms.dtype)


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(jnp.shape(leaf)) if not jax.tree.structure(leaf).num_nodes > 1 else (-1,)


def _spec(leaf: Any) -> tuple[tuple[int, ...], Any]:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return tuple(leaf.shape), jax.dtypes.canonicalize_dtype(leaf.dtype)
    array = np.asarray(leaf)
    return array.shape, jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)
