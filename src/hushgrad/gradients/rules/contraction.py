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
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hushgrad.gradients.rules.rule import Factors

__all__ = ["FULL", "SAFE", "Ghost", "balanced", "ghost_norm", "prefers_ghost", "sum_error"]

# Up to this norm of a row, what is lost where squares of small numbers vanish is far below
# the smallest clip.
SAFE = 1e6


# Every product that only norms and clipped sums see is computed in full precision: on
# accelerators the default would round what the clip has bounded (TF32, bfloat16).
FULL = lax.Precision.HIGHEST


# What a number that is built, kept and read again costs, in multiplications: measured 50 to
# 100 on a CPU, where memory is fresh on every call; a GPU's bandwidth gives about the same.
_KEPT = 80


def prefers_ghost(rows: int, built: int, held: int, copied: int = 0) -> bool:
    """Whether the ghost norm is the better way, from shapes alone.

    It costs `rows * held` multiplications; building the gradients costs as many as the
    sum that then follows from them for little, and memory: it is preferred where that is
    cheaper, as long as it takes at most twice the memory of what it is made from. With one
    row the ghost norm is just `|a|^2 |g|^2`.

    Args:
      rows: of the factors, of all uses together.
      built: numbers in one gradient (depth x columns).
      held: numbers in the factors, of one group.
      copied: numbers that have to be written to make the factors (patches of images).
    """
    if rows == 1 or built > 2 * held:
        return True
    # A small gradient is built: its norm has no cancellation to allow for.
    return 2 * built >= held and rows * held + _KEPT * copied <= _KEPT * built


class Ghost(NamedTuple):
    """A ghost norm.

    Attributes:
      squared: the squared norm.
      slack: a bound on its rounding error.
      size: the largest norm of a row of a factor, infinite if its square overflows.
    """

    squared: Float[Array, ""]
    slack: Float[Array, ""]
    size: Float[Array, ""]


def ghost_norm(uses: Sequence[Factors]) -> Ghost:
    """Squared norm of `sum_t a_t g_t^T` over all groups, and a bound on its rounding error.

    A parameter that is used several times has one pair of factors for each use; the
    gradient is the sum over all of them, so products of different uses count too.

    The double sum can cancel: two rows with opposite gradients may leave a small
    norm between large terms, and the rounding of those terms would then hide it.
    The slack bounds that error, so that a clip that adds it never lets an example
    through with more than its norm. It also bounds what is lost where squares of small
    numbers vanish, which is little as long as `size` is at most `SAFE`.
    """
    dtype = uses[0].right.dtype
    total = absolute = size = jnp.zeros((), dtype)
    for i, first in enumerate(uses):
        for j, second in enumerate(uses[: i + 1]):
            left, right, products = _products(first, second, same=i == j)
            weight = 1 if i == j else 2
            total += weight * jnp.sum(products)
            absolute += weight * jnp.sum(jnp.abs(products))
            if i == j:
                size = functools.reduce(jnp.maximum, [size, _diagonal(left), _diagonal(right)])
    size = jnp.sqrt(size)
    squared = jnp.maximum(total, 0)
    error = max(_error(use) for use in uses)
    lost = sum(_vanishing(use) for use in uses) * size
    slack = error * absolute + lost * lost + 2 * lost * jnp.sqrt(squared)
    return Ghost(squared, slack, size)


def balanced(uses: Sequence[Factors]) -> tuple[list[Factors], Float[Array, ""]]:
    """Factors of the same products, up to one scale, with both sides of each row alike.

    Tiny inputs with huge gradients make an ordinary gradient, though the squares of the
    first vanish in float32 and those of the second overflow. What matters is the product
    of both sides of a row: each side gets its root, and the largest of all becomes one.
    """
    shared, sizes = [], []
    for left, right in uses:
        one_hot = _one_hot(left)
        a = jnp.ones(left.shape, right.dtype) if one_hot else _row_size(left)
        g = _row_size(right)
        root = jnp.sqrt(a) * jnp.sqrt(g)
        scaled = None if one_hot else left / jnp.where(a > 0, a, 1)[..., None]
        shared.append((left, scaled, right / jnp.where(g > 0, g, 1)[..., None], root))
        sizes.append(jnp.max(root, initial=0))
    largest = functools.reduce(jnp.maximum, sizes)
    scale = jnp.where(largest == 0, 1, largest)
    out = []
    for left, scaled, right, root in shared:
        weight = (root / scale)[..., None]
        if scaled is None:  # a one-hot row cannot be scaled: its partner takes it all
            out.append(Factors(left, right * jnp.square(weight)))
        else:
            out.append(Factors(scaled * weight, right * weight))
    return out, jnp.square(jnp.square(scale))


def _row_size(x: Array) -> Float[Array, "groups rows"]:
    return jnp.max(jnp.abs(x), axis=-1, initial=0)


def _products(first: Factors, second: Factors, same: bool) -> tuple[Array | None, Array, Array]:
    """Inner products of all left rows, of all right rows, and their products."""
    if same and first.right.shape[1] == 1:
        right = jnp.sum(jnp.square(first.right), axis=2)[..., None]
        if _one_hot(first.left):
            return None, right, right
        left = jnp.sum(jnp.square(first.left), axis=2)[..., None]
        return left, right, left * right
    left = _gram(first.left, second.left)
    right = _gram(first.right, second.right)
    return (None if _one_hot(first.left) else left), right, left * right


def _diagonal(gram: Array | None) -> Float[Array, ""]:
    """The largest squared norm of a row; one for one-hot rows."""
    if gram is None:
        return jnp.ones(())
    return jnp.max(jnp.diagonal(gram, axis1=1, axis2=2), initial=0)


def _vanishing(use: Factors) -> float:
    """How much norm is lost, for each unit of a row's norm, where squares vanish."""
    left, right = use
    rows, columns = right.shape[0] * right.shape[1], right.shape[-1]
    depth = 1 if _one_hot(left) else left.shape[-1]
    return 2 * rows * math.sqrt(float(jnp.finfo(right.dtype).tiny) * max(depth, columns))


def _gram(first: Array, second: Array) -> Float[Array, "groups rows others"]:
    """Inner products of all rows of both; integers stand for one-hot rows."""
    if _one_hot(first) and _one_hot(second):
        return (first[:, :, None] == second[:, None, :]).astype(jnp.float32)
    if _one_hot(first):
        return jnp.swapaxes(_gram(second, first), 1, 2)
    if _one_hot(second):
        # A row read out of bounds has number -1; its right factor is zero already.
        return jnp.take_along_axis(first, jnp.maximum(second, 0)[:, None, :], axis=2)
    return jnp.einsum("gsd,gtd->gst", first, second, precision=FULL)


def _one_hot(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def _error(use: Factors) -> float:
    left, right = use
    error = _product_error(right.shape[-1], right.dtype)
    return error if _one_hot(left) else error + _product_error(left.shape[-1], left.dtype)


def _product_error(terms: int, dtype: jnp.dtype) -> float:
    """Relative rounding error of an inner product of so many terms, whatever the order.

    Half a unit of rounding for each (Jeannerod & Rump 2013). Small products are summed one
    term after the other on some processors, where equal terms come close to a quarter of that.
    """
    return float(jnp.finfo(dtype).eps) / 2 * (terms + 2)


def sum_error(terms: int, dtype: jnp.dtype) -> float:
    """Relative rounding error to reckon with in a sum of so many positive terms.

    It grows with the root of their number (Higham & Mary 2019), divided by 8 since
    sums are made in several lanes; measured errors stay below.
    """
    return float(jnp.finfo(dtype).eps) * (2 + math.sqrt(terms) / 8)
