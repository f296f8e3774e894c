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
from jaxtyping import Array, Float, UInt32

from hushgrad.noise.chacha import random_bits

__all__ = ["standard_normal"]


def standard_normal(
    key: UInt32[Array, "8"], stream: int, shape: tuple[int, ...], dtype: jnp.dtype
) -> Float[Array, "..."]:
    """Independent standard normals, a pure function of its arguments.

    Args:
      key: 256 secret bits, used for nothing else.
      stream: streams of one key with different numbers are independent.
      shape: of the result.
      dtype: float32 or float64.
    """
    size = math.prod(shape)
    pairs = -(-size // 2)
    nonce = jnp.array([stream, 0, 0], jnp.uint32)
    bits = random_bits(key, nonce, 4 * pairs).reshape(4, pairs)
    low, high, low_angle, high_angle = (b.astype(dtype) for b in bits)
    # In (0, 1]: the second word matters where the first is small, in the tail.
    uniform = jnp.minimum(high * 2.0**-32 + (low + 1) * 2.0**-64, 1)
    radius = jnp.sqrt(-2 * jnp.log(uniform))
    angle = 2 * math.pi * (high_angle * 2.0**-32 + low_angle * 2.0**-64)
    normals = jnp.concatenate([radius * jnp.cos(angle), radius * jnp.sin(angle)])
    return normals[:size].reshape(shape)
