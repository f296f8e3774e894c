"""Normal deviates whose tails are not cut where privacy would notice.

`jax.random.normal` turns 23 random bits into a float32 normal, so nothing beyond
5.4 standard deviations ever appears. A sum over many coordinates and steps comes
near enough to that edge to matter at the deltas that privacy is stated for. Here
a Box-Muller transform of 64 bits reaches 9.4 standard deviations; what is cut off
has probability 5e-20 per pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from hushgrad.noise.chacha import key_stream

__all__ = ["COUNT_STREAM", "ROW_STREAM", "Wanted", "standard_normal", "standard_normals"]

# Of the noise on a step's count of clipped gradients; leaves have the streams from 0 up.
COUNT_STREAM = 2**32 - 1
# Of the noise on counts of a table's rows.
ROW_STREAM = 2**32 - 2
_PER_BLOCK = 8
_AT_ONCE, _LONG, _LONGEST = 2048, 256, 2047
# Arrays of so many numbers at most are made together.
_SMALL = 2**16
# The same on a mesh, where larger ones may be shared out.
_SMALL_PIECE = 2**10


class Wanted(NamedTuple):
    """An array of standard normals.

    Attributes:
      stream: streams of one key with different numbers are independent.
      shape: of the array.
      dtype: float32 or float64.
    """

    stream: int
    shape: tuple[int, ...]
    dtype: jnp.dtype


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
    return standard_normals(key, [Wanted(stream, shape, dtype)], draw)[0]


def standard_normals(
    key: UInt32[Array, "8"], wanted: Sequence[Wanted], draw: int | Int[Array, ""] = 0
) -> list[Float[Array, "..."]]:
    """What `standard_normal` gives for each, in a program that is smaller than all of them."""
    found: list[Any] = [None] * len(wanted)
    small: dict[jnp.dtype, list[int]] = {}
    # What is shared out over devices is made where it is; to put it together would move it.
    most = _SMALL if _one_device() else _SMALL_PIECE
    for number, (_, shape, dtype) in enumerate(wanted):
        if math.prod(shape) <= most:
            small.setdefault(dtype, []).append(number)
        else:
            found[number] = _alone(key, wanted[number], draw)
    for numbers in small.values():
        together = _together(key, [wanted[number] for number in numbers], draw)
        for number, normals in zip(numbers, together, strict=True):
            found[number] = normals
    return found


def _alone(key: Array, wanted: Wanted, draw: Any) -> Array:
    lead, row = _rows(wanted.shape)
    width, nonce = -(-row // _PER_BLOCK), (wanted.stream, draw)
    rows, group = math.prod(lead), max(1, _AT_ONCE // width)
    if not (_one_device() and jax.default_backend() == "cpu") or rows <= group:
        # Numbered by place, so that devices which share out an array each make their own.
        return _shaped(_of_blocks(key, nonce, _numbers((*lead, width)), wanted.dtype), wanted.shape)
    # So many rows at once stay in a processor's cache.
    groups = -(-rows // group)
    starts = jnp.arange(groups, dtype=jnp.uint32) * jnp.uint32(group * width)
    places = _numbers((group, width))
    normals = lax.map(lambda s: _of_blocks(key, nonce, s + places, wanted.dtype), starts)
    return _shaped(normals.reshape(-1, _PER_BLOCK, width)[:rows], wanted.shape)


def _together(key: Array, wanted: Sequence[Wanted], draw: Any) -> list[Array]:
    """Small arrays in one piece."""
    grids = [
        _numbers((*lead, -(-row // _PER_BLOCK)))
        for lead, row in map(_rows, (one.shape for one in wanted))
    ]
    counters = jnp.concatenate([grid.reshape(-1) for grid in grids])
    streams = jnp.concatenate(
        [
            jnp.full(grid.size, one.stream, jnp.uint32)
            for one, grid in zip(wanted, grids, strict=True)
        ]
    )
    normals = _of_blocks(key, (streams, draw), counters, wanted[0].dtype)
    end, found = 0, []
    for one, grid in zip(wanted, grids, strict=True):
        part = normals[:, end : end + grid.size].reshape(_PER_BLOCK, *grid.shape)
        found.append(_shaped(jnp.moveaxis(part, 0, -2), one.shape))
        end += grid.size
    return found


def _one_device() -> bool:
    """Whether no mesh is set (`jax.set_mesh`), so that the program may be for one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def _shaped(normals: Float[Array, "... 8 width"], shape: tuple[int, ...]) -> Array:
    lead, row = _rows(shape)
    return (
        normals.reshape(*lead, -1)[..., :row].reshape(shape)
        if row
        else jnp.zeros(shape, normals.dtype)
    )


def _rows(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The first axes, and the product of the last: those that make a row long enough.

    Rows that are longer are halved, so that devices may share out the last axis too.
    """
    axis, row = len(shape), 1
    while axis and row < _LONG:
        axis -= 1
        row *= shape[axis]
    whole = row
    while row % 2 == 0 and row > _LONGEST:
        row //= 2
    lead = shape[:axis]
    return (lead, row) if row == whole else ((*lead, whole // row), row)


def _numbers(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    number = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]))
        number += stride * lax.broadcasted_iota(jnp.uint32, shape, axis)
    return number


def _of_blocks(
    key: Array,
    nonce: tuple[Any, Any],
    counter: UInt32[Array, "*rows width"],
    dtype: jnp.dtype,
) -> Float[Array, "*rows 8 width"]:
    """Four pairs of each block: the first of all blocks of a row, then the second."""
    words = [jnp.asarray(word, jnp.uint32) for word in (*nonce, 0)]
    words, normals = key_stream(key, words, counter), []
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
