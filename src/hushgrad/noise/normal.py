"""Normal deviates whose tails are not cut where privacy would notice.

`jax.random.normal` turns 23 random bits into a float32 normal, so nothing beyond
5.4 standard deviations ever appears. A sum over many coordinates and steps comes
near enough to that edge to matter at the deltas that privacy is stated for. Here
a Box-Muller transform of 64 bits reaches 9.4 standard deviations; what is cut off
has probability 5e-20 per pair.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from hushgrad.noise.chacha import random_bits

__all__ = ["COUNT_STREAM", "standard_normal"]

# Of the noise on a step's count of clipped gradients; leaves have the streams from 0 up.
COUNT_STREAM = 2**32 - 1


def standard_normal(
    key: UInt32[Array, "8"],
    stream: int,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    draw: int | Int[Array, ""] = 0,
) -> Float[Array, "..."]:
    """Independent standard normals, a pure function of its arguments.

    Args:
      key: 256 secret bits, used for nothing else.
      stream: streams of one key with different numbers are independent.
      shape: of the result.
      dtype: float32 or float64.
      draw: draws of one stream with different numbers are independent.
    """
    size = math.prod(shape)
    pairs = -(-size // 2)
    nonce = jnp.stack([jnp.asarray(word, jnp.uint32) for word in (stream, draw, 0)])
    bits = random_bits(key, nonce, 4 * pairs).reshape(4, pairs)
    near_one = bits[1] >= jnp.uint32(1 << 31)
    # The uniform u in (0, 1] where it is at most 1/2, else 1 - u: the second word matters
    # where the first is small, in the tail and near zero.
    folded = jnp.where(near_one, ~bits[:2], bits[:2]).astype(dtype)
    side = folded[1] * 2.0**-32 + (folded[0] + jnp.where(near_one, 0, 1)) * 2.0**-64
    radius = jnp.sqrt(-2 * jnp.where(near_one, jnp.log1p(-side), jnp.log(side)))
    low_angle, high_angle = bits[2].astype(dtype), bits[3].astype(dtype)
    angle = 2 * math.pi * (high_angle * 2.0**-32 + low_angle * 2.0**-64)
    normals = jnp.concatenate([radius * jnp.cos(angle), radius * jnp.sin(angle)])
    return normals[:size].reshape(shape)
