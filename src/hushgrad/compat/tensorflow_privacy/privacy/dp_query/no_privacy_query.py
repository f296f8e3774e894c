"""Sums and averages WITHOUT privacy, to compare with."""

from __future__ import annotations

from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import dp_query

__all__ = ["NoPrivacyAverageQuery", "NoPrivacySumQuery"]


class NoPrivacySumQuery(dp_query.SumAggregationDPQuery):
    """The sum of records, not clipped and without noise: NOT private."""

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sum as it is."""
        return sample_state, global_state, dp_accounting.NonPrivateDpEvent()


class NoPrivacyAverageQuery(dp_query.SumAggregationDPQuery):
    """The mean of records, which may have weights: NOT private.

    The number of records is what it is, which alone gives a presence away. The mean of no
    records is zero.
    """

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """A sum of zero and a weight of zero."""
        return super().initial_sample_state(template), jnp.zeros(())

    def preprocess_record(self, params: Any, record: PyTree, weight: float = 1) -> Any:
        """The record times its weight, and the weight."""
        del params
        weighted = jax.tree.map(lambda leaf: weight * jnp.asarray(leaf), record)
        return weighted, jnp.asarray(weight, jnp.float32)

    def accumulate_record(
        self, params: Any, sample_state: Any, record: PyTree, weight: float = 1
    ) -> Any:
        """The sample's state with one more record of some weight."""
        return self.accumulate_preprocessed_record(
            sample_state, self.preprocess_record(params, record, weight)
        )

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The mean as it is."""
        total, weight = sample_state
        divisor = jnp.where(weight == 0, 1, weight)
        mean = jax.tree.map(lambda leaf: leaf / divisor, total)
        return mean, global_state, dp_accounting.NonPrivateDpEvent()
