"""Lookups: rows of a table chosen by the example (`gather`, `dynamic_slice`).

The gradient by the table is zero but for the rows that were read, to each of which
the output's gradient is added. So it is a product of factors like that of a matrix
product whose input is one-hot, and is never built where the table is large.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.rule import Factors, Layout, Rule, computable

__all__ = ["Lookup", "positions"]


class Lookup(Rule):
    """`gather` or `dynamic_slice` with the parameter as the table."""

    name = "lookup"

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
        if position != 0 or not computable(avals[:1]) or not math.prod(out.shape):
            return None
        return cls(op, position, avals, out)

    @property
    def layout(self) -> Layout:
        chosen = _chosen(self.op, self.avals)
        whole = tuple(d for d in range(len(self.avals[0].shape)) if d not in chosen)
        return Layout((), chosen, whole)

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.layout.sizes(self.avals[self.position].shape)

    @property
    def rows(self) -> int:
        return math.prod(self.out.shape) // self.sizes[2]

    @property
    def held(self) -> int:
        return 1 + self.sizes[2]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The table's dimensions that are not read whole."""
        return _chosen(self.op, self.avals)

    def rows_of(self, records: tuple[Any, ...], repeats: int) -> Int[Array, "repeats ..."]:
        """Which rows one example reads; -1 for one that is out of bounds."""
        return positions(self.op, self.avals, records, repeats)[0]

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        factors = self.factors(records, g)
        _, depth, columns = self.sizes
        table = jnp.zeros((depth, columns), g.dtype)
        # What was read out of bounds has position -1: nowhere.
        ids = jnp.where(factors.left[0] < 0, depth, factors.left[0])
        table = table.at[ids].add(factors.right[0], mode="drop")
        shape = self.avals[0].shape
        dims = (*self.layout.left, *self.layout.right)
        return jnp.transpose(
            table.reshape([shape[d] for d in dims]), [dims.index(d) for d in range(len(shape))]
        )

    def factors(self, records: tuple[Any, ...], g: Array) -> Factors:
        ids, windows = positions(self.op, self.avals, records, repeats=g.shape[0])
        order = [0] + [d + 1 for d in range(g.ndim - 1) if d not in windows]
        g = jnp.transpose(g, order + [d + 1 for d in windows])
        right = g.reshape(1, -1, self.sizes[2])
        ids = ids.reshape(1, -1)
        return Factors(ids, jnp.where(ids[..., None] < 0, 0, right))


def positions(
    op: Op, avals: tuple[Any, ...], indices: tuple[Any, ...], repeats: int | None = None
) -> tuple[Int[Array, "..."], tuple[int, ...]]:
    """Which row of the table each row of the output is, and the output's other dimensions.

    The operation itself says so: it is run on a table that holds each row's number.
    A row that is read out of bounds, and so filled, has the number -1.
    """
    chosen = _chosen(op, avals)
    shape = avals[0].shape
    small = [n if d in chosen else 1 for d, n in enumerate(shape)]
    numbers = jnp.arange(math.prod(small), dtype=jnp.int32).reshape(small)
    sizes = [n if d in chosen else 1 for d, n in enumerate(op.params["slice_sizes"])]
    overrides: dict[str, Any] = {"slice_sizes": tuple(sizes)}
    windows = [d for d in range(len(shape)) if d not in chosen]
    if op.primitive.name == "gather":
        overrides["fill_value"] = -1
        dims = op.params["dimension_numbers"]
        hidden = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
        offsets = [d for d in range(len(shape)) if d not in hidden]
        windows = [dims.offset_dims[offsets.index(d)] for d in windows]

    def run(*indices: Any) -> Any:
        return op.bind(numbers, *indices, **overrides)[0]

    if repeats is None:
        return run(*indices), tuple(windows)

    return jax.vmap(run, axis_size=repeats)(*indices), tuple(windows)


def _chosen(op: Op, avals: tuple[Any, ...]) -> tuple[int, ...]:
    """The table's dimensions that are not read whole."""
    sizes = op.params["slice_sizes"]
    hidden: set[int] = set()
    if op.primitive.name == "gather":
        dims = op.params["dimension_numbers"]
        hidden = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    whole = zip(avals[0].shape, sizes, strict=True)
    return tuple(d for d, (n, size) in enumerate(whole) if size != n or d in hidden)
