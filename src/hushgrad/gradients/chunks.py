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
) -> Any:
    """`one(data, keep)` on `chunk` examples at a time: sums are added, rows put together.

    Every chunk takes its groups from all over the batch, so that a batch that is spread
    over devices keeps all of them at work in each.
    """
    size = len(keep)
    units, per_chunk = size // group, chunk // group
    count = math.ceil(units / per_chunk)
    per_chunk = math.ceil(units / count)
    padding = (count * per_chunk - units) * group

    def spread(x: Array) -> Array:
        # Padding repeats the first rows, which the mask then leaves out.
        x = jnp.concatenate([x, x[:padding]]) if padding <= size else _repeated(x, padding)
        x = x.reshape(per_chunk, count, group, *x.shape[1:])
        return jnp.swapaxes(x, 0, 1).reshape(count, per_chunk * group, *x.shape[3:])

    def together(x: Array, each: int) -> Array:
        x = x.reshape(count, per_chunk, each, *x.shape[2:])
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(count * per_chunk * each, *x.shape[3:])[: units * each]

    rows = [spread(x) for x in data]
    mask = spread(jnp.concatenate([keep, jnp.zeros(padding, bool)])[:size])
    if padding:
        real = jnp.arange(count * per_chunk * group) < size
        order = real.reshape(per_chunk, count, group)
        mask = mask & jnp.swapaxes(order, 0, 1).reshape(count, -1)

    def turn(sums: Any, chunk: Any) -> Any:
        out = one(*chunk)
        added = (out.grads, out.nonfinite, out.centred_bits)
        return jax.tree.map(jnp.add, sums, added), (out.norms, out.losses, out.aux)

    shapes = jax.eval_shape(one, [x[0] for x in rows], mask[0])
    start = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        (shapes.grads, shapes.nonfinite, shapes.centred_bits),
    )
    (grads, nonfinite, bits), (norms, losses, aux) = lax.scan(turn, start, (rows, mask))
    return shapes._replace(
        grads=grads,
        norms=together(norms, 1),
        losses=together(losses, 1),
        nonfinite=nonfinite,
        centred_bits=bits,
        aux=[together(x, group) for x in aux],
    )


def _repeated(x: Array, more: int) -> Array:
    return jnp.concatenate([x, jnp.resize(x, (more, *x.shape[1:]))])
