"""A batch in chunks, one after the other, inside the compiled step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

__all__ = ["in_chunks"]


def in_chunks(
    one: Callable[[list[Any], Any], Any],
    data: list[Array],
    keep: Bool[Array, " batch"],
    chunk: int,
    group: int,
    devices: int,
) -> Any:
    """`one(data, keep)` on `chunk` examples at a time: sums are added, rows put together.

    Every chunk takes its groups from all over the batch, as many from each of the devices
    that it is spread over, so that all of them are at work in each.
    """
    size = len(keep)
    units = size // group
    count, per_device = _split(units // devices, chunk // group // devices)
    per_chunk = per_device * devices
    padding = (count * per_chunk - units) * group

    def spread(x: Array) -> Array:
        if padding:  # repeats rows, which the mask then leaves out
            x = jnp.concatenate([x, jnp.resize(x, (padding, *x.shape[1:]))])
        return x.reshape(per_chunk, count, group, *x.shape[1:])

    def chosen(x: Array, number: Array) -> Array:
        x = lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False)
        return x.reshape(per_chunk * group, *x.shape[2:])

    def together(x: Array, each: int) -> Array:
        x = x.reshape(count, per_chunk, each, *x.shape[2:])
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(count * per_chunk * each, *x.shape[3:])[: units * each]

    rows = [spread(x) for x in data]
    real = jnp.arange(size + padding) < size
    mask = spread(keep) & real.reshape(per_chunk, count, group)

    def turn(sums: Any, number: Array) -> Any:
        out = one([chosen(x, number) for x in rows], chosen(mask, number))
        added = (out.grads, out.nonfinite, out.centred_bits, out.counts)
        return jax.tree.map(jnp.add, sums, added), (out.norms, out.losses, out.aux)

    first = jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(one, [chosen(x, first) for x in rows], chosen(mask, first))
    start = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        (shapes.grads, shapes.nonfinite, shapes.centred_bits, shapes.counts),
    )
    (grads, nonfinite, bits, counts), (norms, losses, aux) = lax.scan(
        turn, start, jnp.arange(count)
    )
    return shapes._replace(
        grads=grads,
        norms=together(norms, 1),
        losses=together(losses, 1),
        nonfinite=nonfinite,
        centred_bits=bits,
        aux=[together(x, group) for x in aux],
        counts=counts,
    )


def _split(units: int, most: int) -> tuple[int, int]:
    """How many chunks of which size: none larger than `most`, all alike if that is near."""
    count = math.ceil(units / most)
    even = next((n for n in range(count, min(2 * count, units) + 1) if units % n == 0), count)
    return even, math.ceil(units / even)
