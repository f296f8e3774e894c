"""Matrix products in every dimension-number form."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.contraction import FULL
from hushgrad.gradients.rules.rule import Factors, Layout, Rule, computable

__all__ = ["MatrixProduct"]


class MatrixProduct(Rule):
    """`dot_general`, the parameter on either side, batch dimensions included.

    Batch dimensions that parameter and data share (one matrix per head or expert)
    are groups: the parameter is one matrix for each.
    """

    name = "dot_general"

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
        return cls(op, position, avals, out) if computable(avals) else None

    @property
    def layout(self) -> Layout:
        contract, batch = self._dims(self.position)
        return Layout(batch, contract, self._free(self.position))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.layout.sizes(self.avals[self.position].shape)

    @property
    def rows(self) -> int:
        data = self.avals[1 - self.position].shape
        return math.prod(data[d] for d in self._free(1 - self.position))

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        (a,) = records
        if self._flat:  # one dimension of rows: no transposed copies (measured on a CPU)
            _, depth, columns = self.sizes
            a, g = a.reshape(-1, depth), g.reshape(-1, columns)
            dtype = jnp.result_type(a, g)
            built = lax.dot_general(
                a.astype(dtype), g.astype(dtype), (((0,), (0,)), ((), ())), precision=FULL
            )
            return built.reshape(self.avals[self.position].shape)
        _, batch = self._dims(1 - self.position)
        summed = (0, *(d + 1 for d in self._free(1 - self.position)))
        numbers = (
            (summed, (0, *(d + 1 for d in self._out_rows()))),
            (tuple(d + 1 for d in batch), tuple(1 + i for i in range(len(batch)))),
        )
        dtype = jnp.result_type(a, g)
        built = lax.dot_general(a.astype(dtype), g.astype(dtype), numbers, precision=FULL)
        # The contracted dimensions come as they lie in the data; the parameter may list its
        # own in another order.
        contract = self._dims(1 - self.position)[0]
        order = sorted(range(len(contract)), key=lambda i: contract[i])
        layout = self.layout
        dims = (*layout.groups, *(layout.left[i] for i in order), *layout.right)
        return jnp.transpose(built, _inverse(dims))

    def factors(self, records: tuple[Any, ...], g: Array) -> Factors:
        (a,) = records
        contract, batch = self._dims(1 - self.position)
        free = self._free(1 - self.position)
        a = jnp.transpose(a, [d + 1 for d in batch] + [0] + [d + 1 for d in (*free, *contract)])
        rows = self._out_rows()
        columns = [d for d in range(len(batch), g.ndim - 1) if d not in rows]
        shared = range(len(batch))
        g = jnp.transpose(g, [d + 1 for d in shared] + [0] + [d + 1 for d in (*rows, *columns)])
        groups, depth, width = self.sizes
        return Factors(a.reshape(groups, -1, depth), g.reshape(groups, -1, width))

    @property
    def _flat(self) -> bool:
        """Rows come first and depth last, as in `x @ w`."""
        contract, batch = self._dims(1)
        free = len(self._free(0))
        leading = self._dims(0)[0] == tuple(range(free, free + len(contract)))
        return (
            self.position == 1 and not batch and leading and contract == tuple(range(len(contract)))
        )

    def _dims(self, operand: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Contracted and batch dimensions of an operand."""
        contract, batch = self.op.params["dimension_numbers"]
        return tuple(contract[operand]), tuple(batch[operand])

    def _free(self, operand: int) -> tuple[int, ...]:
        contract, batch = self._dims(operand)
        shape = self.avals[operand].shape
        return tuple(d for d in range(len(shape)) if d not in contract and d not in batch)

    def _out_rows(self) -> tuple[int, ...]:
        """The output's dimensions that are the data's free ones."""
        batch = len(self._dims(0)[1])
        left = len(self._free(0))
        start = batch if self.position == 1 else batch + left
        return tuple(range(start, start + len(self._free(1 - self.position))))


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))
