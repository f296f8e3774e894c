"""What a matrix product gives the engine: two ways to an example's gradient norm.

A parameter of shape `[groups, depth, columns]` that multiplies `rows` inputs
has, for one example, the gradient `sum_t a_t g_t^T` per group, with `a` of shape
`[groups, rows, depth]` the inputs and `g` of shape `[groups, rows, columns]` the
gradients of the outputs. Its squared norm can be had

- by building it: `rows * depth * columns` multiplications, or
- without building it ("ghost norm", Li et al. 2022, arXiv 2110.05679): the sum
  over `s, t` of `(a_s . a_t)(g_s . g_t)`: `rows^2 * (depth + columns)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hushgrad.gradients.rules.rule import Factors

__all__ = ["FULL", "ghost_norm", "prefers_ghost", "sum_error"]

# Every product that only norms and clipped sums see is computed in full precision: on
# accelerators the default would round what the clip has bounded (TF32, bfloat16).
FULL = lax.Precision.HIGHEST


def prefers_ghost(rows: int, built: int, held: int) -> bool:
    """Whether the ghost norm is the better way, from shapes alone.

    Built gradients are kept for the clipped sum, so they save the second
    contraction; they are preferred as long as they take at most twice the memory
    of the inputs and output gradients they are made from. With one row the ghost
    norm is just `|a|^2 |g|^2`.

    Args:
      rows: of the factors, of all uses together.
      built: numbers in one gradient (depth x columns).
      held: numbers in the factors, of one group.
    """
    return rows == 1 or built > 2 * held


def ghost_norm(uses: Sequence[Factors]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Squared norm of `sum_t a_t g_t^T` over all groups, and a bound on its rounding error.

    A parameter that is used several times has one pair of factors for each use; the
    gradient is the sum over all of them, so products of different uses count too.

    The double sum can cancel: two rows with opposite gradients may leave a small
    norm between large terms, and the rounding of those terms would then hide it.
    The second number bounds that error, so that a clip that adds it never lets an
    example through with more than its norm.
    """
    scaled = [_unit(use) for use in uses]
    largest = functools.reduce(jnp.maximum, [size for _, size in scaled])
    total, absolute = jnp.zeros_like(largest), jnp.zeros_like(largest)
    for i, (first, size) in enumerate(scaled):
        for j, (second, other) in enumerate(scaled[: i + 1]):
            weight = (size / largest) * (other / largest) * (1 if i == j else 2)
            products = _products(first, second, same=i == j)
            total += weight * jnp.sum(products)
            absolute += weight * jnp.sum(jnp.abs(products))
    error = max(_error(use) for use in uses)
    scale = jnp.square(largest)
    return scale * jnp.maximum(total, 0), scale * error * absolute


def _unit(use: Factors) -> tuple[Factors, Float[Array, ""]]:
    """The factors with largest magnitude one, and the product of their magnitudes."""
    # Tiny inputs with huge gradients make an ordinary gradient, though the squares of the
    # first vanish in float32 and those of the second overflow: both are scaled to 1.
    left, right = use
    size = _largest(right)
    right = right / size
    if not _one_hot(left):
        scale = _largest(left)
        left, size = left / scale, size * scale
    return Factors(left, right), size


def _products(first: Factors, second: Factors, same: bool) -> Array:
    """`(a_s . a_t)(g_s . g_t)` for every row s of the first and t of the second."""
    if same and first.right.shape[1] == 1:
        squares = jnp.sum(jnp.square(first.right), axis=(1, 2))
        if _one_hot(first.left):
            return squares
        return squares * jnp.sum(jnp.square(first.left), axis=(1, 2))
    return _gram(first.left, second.left) * _gram(first.right, second.right)


def _gram(first: Array, second: Array) -> Float[Array, "groups rows others"]:
    """Inner products of all rows of both; integers stand for one-hot rows."""
    if _one_hot(first) and _one_hot(second):
        return (first[:, :, None] == second[:, None, :]).astype(jnp.float32)
    if _one_hot(first):
        return jnp.swapaxes(_gram(second, first), 1, 2)
    if _one_hot(second):
        # A row read out of bounds has number -1; its right factor is zero already.
        picked = jnp.take_along_axis(first, jnp.maximum(second, 0)[:, None, :], axis=2)
        return picked
    return jnp.einsum("gsd,gtd->gst", first, second, precision=FULL)


def _one_hot(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def _error(use: Factors) -> float:
    left, right = use
    error = sum_error(right.shape[-1], right.dtype)
    return error if _one_hot(left) else error + sum_error(left.shape[-1], left.dtype)


def sum_error(terms: int, dtype: jnp.dtype) -> float:
    """Relative rounding error to reckon with in a sum of so many positive terms.

    It grows with the root of their number (Higham & Mary 2019), divided by 8 since
    sums are made in several lanes; measured errors stay below.
    """
    return float(jnp.finfo(dtype).eps) * (2 + math.sqrt(terms) / 8)


def _largest(x: Array) -> Float[Array, ""]:
    """Largest magnitude, or 1 where there is none or all are zero."""
    largest = jnp.max(jnp.abs(x), initial=0)
    return jnp.where(largest == 0, 1, largest)
