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

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["FULL", "ghost_norm", "prefers_ghost", "sum_error"]

# Every product that only norms and clipped sums see is computed in full precision: on
# accelerators the default would round what the clip has bounded (TF32, bfloat16).
FULL = lax.Precision.HIGHEST


def prefers_ghost(rows: int, depth: int, columns: int) -> bool:
    """Whether the ghost norm is the better way, from shapes alone.

    Built gradients are kept for the clipped sum, so they save the second
    contraction; they are preferred as long as they take at most twice the memory
    of the inputs and output gradients they are made from. With one row the ghost
    norm is just `|a|^2 |g|^2`.
    """
    return rows == 1 or depth * columns > 2 * rows * (depth + columns)


def ghost_norm(
    a: Float[Array, "groups rows depth"], g: Float[Array, "groups rows columns"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Squared norm of `sum_t a_t g_t^T` over all groups, and a bound on its rounding error.

    The double sum can cancel: two rows with opposite gradients may leave a small
    norm between large terms, and the rounding of those terms would then hide it.
    The second number bounds that error, so that a clip that adds it never lets an
    example through with more than its norm.
    """
    # Tiny inputs with huge gradients make an ordinary gradient, though the squares of the
    # first vanish in float32 and those of the second overflow: both are scaled to 1.
    scale_a, scale_g = _largest(a), _largest(g)
    a, g, scale = a / scale_a, g / scale_g, jnp.square(scale_a * scale_g)
    if a.shape[1] == 1:
        products = jnp.sum(a * a, axis=(1, 2)) * jnp.sum(g * g, axis=(1, 2))
    else:
        products = jnp.einsum("gsd,gtd->gst", a, a, precision=FULL)
        products *= jnp.einsum("gsp,gtp->gst", g, g, precision=FULL)
    error = sum_error(a.shape[-1], a.dtype) + sum_error(g.shape[-1], g.dtype)
    slack = error * jnp.sum(jnp.abs(products))
    return scale * jnp.maximum(jnp.sum(products), 0), scale * slack


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
