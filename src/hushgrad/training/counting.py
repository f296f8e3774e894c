"""Counts of looked-up rows beside the sums, where the noise is only on rows that they choose."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from hushgrad.errors import InputError
from hushgrad.gradients import Clipped, ClippedGrad, RowCounts
from hushgrad.gradients.rows import found
from hushgrad.mechanism import Plan
from hushgrad.noise import Counted, Sparse
from hushgrad.training.layout import Layout
from hushgrad.training.planting import Planted
from hushgrad.training.step import Summand

__all__ = ["counting"]


@dataclasses.dataclass(frozen=True)
class _WithCounts:
    """The sum of a block, and the counts of it.

    Formal guarantee: one example changes the sum by at most the clip's sensitivity, and the
    counts by at most their norm, whatever the other does.
    """

    clipped: ClippedGrad

    def __call__(
        self,
        params: PyTree[Array],
        *batch: Any,
        mask: Bool[Array, " block"],
        norm: Float[Array, ""] | None = None,
    ) -> Clipped:
        out = self.clipped(params, *batch, mask=mask, norm=norm)
        assert out.counts is not None
        return out._replace(grads=Counted(out.grads, out.counts), counts=None)


def counting(given: Planted, mechanism: Plan, params: PyTree[Array], layout: Layout) -> Planted:
    """What a run trains on, with counts beside its sums where its noise asks for them.

    The noise takes the counts off again: the optimizer sees the parameters' sums alone.

    Raises:
      InputError: if there is no such table, or there are several devices.
    """
    strategy = mechanism.phases[0].strategy
    if not isinstance(strategy, Sparse):
        return given
    if layout.mesh is not None:
        raise InputError(
            "mesh does not go with sparse noise yet: rows are chosen on one device; leave mesh "
            "out, or take hg.dp_sgd"
        )
    rows = jnp.shape(_leaf(params, strategy.table))[:1]
    if not rows:
        raise InputError(f"table {strategy.table!r} must have rows, got a single number")
    counts = RowCounts(strategy.table, strategy.norm)

    def summand(clipped: Summand) -> Summand:
        assert isinstance(clipped, ClippedGrad)
        return _WithCounts(dataclasses.replace(clipped, counts=counts))

    def shaped(params: PyTree[Array]) -> PyTree[Array]:
        return Counted(params, jnp.zeros(rows))

    return dataclasses.replace(given, summand=summand, shaped=shaped)


def _leaf(params: PyTree[Array], table: str) -> Array:
    return jax.tree.leaves(params)[found(params, table)]
