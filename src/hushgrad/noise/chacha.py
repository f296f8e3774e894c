"""ChaCha20 (RFC 8439) in JAX: a cryptographic stream of bits, on the device.

JAX's default generator is keyed with 64 bits and is not a cryptographic one; who
can guess the key can subtract the noise. Here the key has 256 bits and finding it
is as hard as breaking the cipher. It costs about what threefry costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt32

__all__ = ["key_stream"]

_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"
_QUARTERS = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),
)


def key_stream(
    key: UInt32[Array, "8"],
    nonce: Sequence[UInt32[Array, "..."]],
    counter: UInt32[Array, "*blocks"],
) -> list[UInt32[Array, "*blocks"]]:
    """The 16 words of blocks of the ChaCha20 key stream, by their nonces and numbers.

    A nonce is three words, each the same for all blocks or one for each.
    Streams of one key with different nonces are independent for anyone who does
    not hold the key. One (key, nonce) holds 2^32 blocks.
    """
    head = [*(jnp.uint32(c) for c in _CONSTANTS), *key]
    start = [*(jnp.broadcast_to(w, counter.shape) for w in head), counter]
    start += [jnp.broadcast_to(w, counter.shape) for w in nonce]
    state = lax.fori_loop(0, 10, lambda _, s: _double_round(s), start)
    return [a + b for a, b in zip(state, start, strict=True)]


def _double_round(state: list[Array]) -> list[Array]:
    x = list(state)
    for a, b, c, d in _QUARTERS:
        for first, second, turn in ((b, d, 16), (d, b, 12), (b, d, 8), (d, b, 7)):
            # a += b; d = (d ^ a) <<< 16; c += d; b = (b ^ c) <<< 12; and again with 8, 7.
            target = a if turn in (16, 8) else c
            x[target] = x[target] + x[first]
            x[second] = _rotate(x[second] ^ x[target], turn)
    return x


def _rotate(x: jax.Array, turn: int) -> jax.Array:
    return (x << turn) | (x >> (32 - turn))
