"""Normal deviates whose tails are not cut where privacy would notice.

`jax.random.normal` turns 23 random bits into a float32 normal, so nothing beyond
5.4 standard deviations ever appears. A sum over many coordinates and steps comes
near enough to that edge to matter at the deltas that privacy is stated for. Here
a Box-Muller transform of 64 bits reaches 9.4 standard deviations; what is cut off
has probability 5e-20 per pair.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from hushgrad.noise.chacha import key_stream

__all__ = ["COUNT_STREAM", "standard_normal"]

# Of the noise on a step's count of clipped gradients; leaves have the streams from 0 up.
COUNT_STREAM = 2**32 - 1
_PER_BLOCK = 8
_AT_ONCE = 2048


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
    nonce = jnp.stack([jnp.asarray(word, jnp.uint32) for word in (stream, draw, 0)])
    blocks = -(-size // _PER_BLOCK)
    # So many blocks at once stay in a processor's cache; other devices take all at once.
    many = max(1, min(_AT_ONCE, blocks))
    counters = jnp.arange(-(-blocks // many) * many, dtype=jnp.uint32).reshape(-1, many)
    if jax.default_backend() == "cpu" and len(counters) > 1:
        normals = lax.map(lambda counter: _of_blocks(key, nonce, counter, dtype), counters)
    else:
        normals = _of_blocks(key, nonce, counters, dtype)
    return normals.reshape(-1)[:size].reshape(shape)


def _of_blocks(
    key: Array, nonce: Array, counter: UInt32[Array, "*many blocks"], dtype: jnp.dtype
) -> Float[Array, "*many normals blocks"]:
    """Four pairs of each block."""
    words, normals = key_stream(key, nonce, counter), []
    for pair in range(_PER_BLOCK // 2):
        low, high, high_angle, low_angle = words[4 * pair : 4 * pair + 4]
        radius = _radius(low, high, dtype)
        cos, sin = _turned(high_angle, low_angle, dtype)
        normals += [radius * cos, radius * sin]
    return jnp.stack(normals, axis=-2)


def _radius(low: Array, high: Array, dtype: jnp.dtype) -> Array:
    """Of a uniform u in (0, 1] of 64 bits: the root of -2 log u."""
    near_one = high >= jnp.uint32(1 << 31)
    # u where it is at most 1/2, else 1 - u: the second word matters where the first is small,
    # in the tail and near zero.
    low, high = (jnp.where(near_one, ~word, word).astype(dtype) for word in (low, high))
    side = high * 2.0**-32 + (low + jnp.where(near_one, 0, 1)) * 2.0**-64
    # Near one the logarithm of the rounded u, by how far rounding has moved 1 - u.
    rounded = jnp.where(near_one, 1 - side, side)
    log = jnp.log(rounded)
    mended = jnp.where(rounded == 1, -side, log * (side / (1 - rounded)))
    return jnp.sqrt(-2 * jnp.where(near_one, mended, log))


def _turned(high: Array, low: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Cosine and sine of an angle of 64 bits of a turn, of which float32 takes the first."""
    if dtype == jnp.float64:
        angle = 2 * math.pi * (high.astype(dtype) * 2.0**-32 + low.astype(dtype) * 2.0**-64)
        return jnp.cos(angle), jnp.sin(angle)
    # From the nearest quarter of a turn, by the polynomials of Cephes (Moshier 1992): to 1e-7.
    quarter = (high + jnp.uint32(1 << 29)) >> 30
    x = (high - (quarter << 30)).astype(jnp.int32).astype(dtype) * (2 * math.pi * 2.0**-32)
    z = x * x
    sin = x + x * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    cos = z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    cos = 1 - 0.5 * z + cos
    quarter = quarter & 3
    odd, behind, below = quarter % 2 == 1, (quarter == 1) | (quarter == 2), quarter >= 2
    cos, sin = jnp.where(odd, sin, cos), jnp.where(odd, cos, sin)
    return jnp.where(behind, -cos, cos), jnp.where(below, -sin, sin)
