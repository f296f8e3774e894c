"""Matrix products in every dimension-number form."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.contraction import FULL, ghost_norm, prefers_ghost
from hushgrad.gradients.rules.rule import Rule, computable

__all__ = ["MatrixProduct"]

_FULL = (FULL, FULL)


class MatrixProduct(Rule):
    """`dot_general`, the parameter on either side, batch dimensions included.

    Batch dimensions that parameter and data share (one matrix per head or expert)
    are groups: the parameter is one matrix for each.
    """

    name = "dot_general"

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...]) -> Rule | None:
        return cls(op, position, avals) if computable(avals) else None

    def apply(self, weight: Any, records: tuple[Any, ...]) -> jax.Array:
        operands = list(records)
        operands.insert(self.position, weight)
        # The traced output dtype would round sums that are held in a wider one.
        dtype = jnp.result_type(*operands)
        return self.op.bind(*operands, preferred_element_type=dtype, precision=_FULL)[0]

    @property
    def ghost(self) -> bool:
        return prefers_ghost(*self._sizes()[1:])

    def squared_norm(
        self, records: tuple[Any, ...], g: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return ghost_norm(self._inputs(records[0]), self._outputs(g))

    def _dims(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Contracted and batch dimensions of the data operand."""
        contract, batch = self.op.params["dimension_numbers"]
        return tuple(contract[1 - self.position]), tuple(batch[1 - self.position])

    def _sizes(self) -> tuple[int, int, int, int]:
        """Groups, rows, depth, columns."""
        data, weight = self.avals[1 - self.position].shape, self.avals[self.position].shape
        contract, batch = self._dims()
        groups = math.prod(data[d] for d in batch)
        depth = math.prod(data[d] for d in contract)
        return (
            groups,
            math.prod(data) // (groups * depth),
            depth,
            math.prod(weight) // (groups * depth),
        )

    def _inputs(self, a: Array) -> Float[Array, "groups rows depth"]:
        contract, batch = self._dims()
        free = [d for d in range(a.ndim) if d not in contract and d not in batch]
        groups, rows, depth, _ = self._sizes()
        return jnp.transpose(a, (*batch, *free, *contract)).reshape(groups, rows, depth)

    def _outputs(self, g: Array) -> Float[Array, "groups rows columns"]:
        groups, rows, _, columns = self._sizes()
        if self.position == 1:
            return g.reshape(groups, rows, columns)
        return jnp.swapaxes(g.reshape(groups, columns, rows), 1, 2)
