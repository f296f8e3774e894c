"""A quantile of one number per record, followed from sample to sample.

Andrew, Thakkar, McMahan and Ramaswamy 2021 (arXiv 1905.03871).
"""

from __future__ import annotations

import collections
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import (
    _noise,
    dp_query,
    gaussian_query,
    no_privacy_query,
    normalized_query,
    tree_aggregation_query,
)
from hushgrad.errors import InputError

__all__ = [
    "NoPrivacyQuantileEstimatorQuery",
    "QuantileEstimatorQuery",
    "TreeQuantileEstimatorQuery",
]

# A record adds 1/2 or -1/2 to the count, so that it weighs 1/2 and not 1.
_HALF = 0.5


class _GlobalState(NamedTuple):
    current_estimate: float
    target_quantile: float
    learning_rate: float
    below_estimate_state: Any


class _SampleParams(NamedTuple):
    current_estimate: float
    below_estimate_params: Any


class QuantileEstimatorQuery(dp_query.SumAggregationDPQuery):
    """Moves an estimate until a given share of the records is at or below it.

    Formal guarantee: each result is the Gaussian mechanism with noise multiplier
    `2 * below_estimate_stddev` under add-or-remove-one-record adjacency. A record that is
    NaN or infinite counts on neither side.

    Args:
      initial_estimate: where to start.
      target_quantile: the share, between 0 and 1.
      learning_rate: how far the estimate moves in one sample at most (or by which factor's
        logarithm).
      below_estimate_stddev: of the noise on the count of records below.
      expected_num_records: in a sample; a public number.
      geometric_update: whether the estimate is multiplied, for records such as norms.

    Raises:
      InputError: if a number is out of range.
    """

    _GlobalState, _SampleParams = _GlobalState, _SampleParams

    def __init__(
        self,
        initial_estimate: float,
        target_quantile: float,
        learning_rate: float,
        below_estimate_stddev: float,
        expected_num_records: float,
        geometric_update: bool = False,
    ) -> None:
        below = self._construct_below_estimate_query(below_estimate_stddev, expected_num_records)
        self._start(initial_estimate, target_quantile, learning_rate, below, geometric_update)

    def _start(
        self,
        initial_estimate: float,
        target_quantile: float,
        learning_rate: float,
        below_estimate_query: dp_query.SumAggregationDPQuery,
        geometric_update: bool,
    ) -> None:
        if not math.isfinite(initial_estimate):
            raise InputError(f"initial_estimate must be finite, got {initial_estimate!r}")
        if not 0 <= target_quantile <= 1:
            raise InputError(f"target_quantile must be between 0 and 1, got {target_quantile!r}")
        self._initial_estimate = float(initial_estimate)
        self._target_quantile = float(target_quantile)
        self._learning_rate = _noise.scale("learning_rate", learning_rate)
        self._below_estimate_query: Any = below_estimate_query
        self._geometric_update = geometric_update

    def _construct_below_estimate_query(
        self, below_estimate_stddev: float, expected_num_records: float
    ) -> dp_query.SumAggregationDPQuery:
        return normalized_query.NormalizedQuery(
            gaussian_query.GaussianSumQuery(l2_norm_clip=_HALF, stddev=below_estimate_stddev),
            denominator=expected_num_records,
        )

    def initial_global_state(self) -> Any:
        """The estimate, what moves it, and the count's state."""
        return _GlobalState(
            self._initial_estimate,
            self._target_quantile,
            self._learning_rate,
            self._below_estimate_query.initial_global_state(),
        )

    def derive_sample_params(self, global_state: Any) -> Any:
        """The estimate, and the count's params."""
        below = self._below_estimate_query.derive_sample_params(global_state.below_estimate_state)
        return _SampleParams(global_state.current_estimate, below)

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """The count's; records are numbers, whatever the template."""
        del template
        return self._below_estimate_query.initial_sample_state(0.0)

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """A half if the record is at or below the estimate, else minus a half."""
        if not jax.tree_util.treedef_is_leaf(jax.tree.structure(record)) or jnp.ndim(record):
            raise InputError(f"record must be a scalar, got {record!r}")
        side = jnp.where(record <= params.current_estimate, _HALF, -_HALF)
        below = jnp.where(jnp.isfinite(record), side, 0.0)
        return self._below_estimate_query.preprocess_record(params.below_estimate_params, below)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The next estimate, the next state, and what the noisy count costs."""
        _noise.on_host("get_noised_result", sample_state, global_state)
        share, below_state, event = self._below_estimate_query.get_noised_result(
            sample_state, global_state.below_estimate_state
        )
        # Noise may push the share out of its range.
        share = min(1.0, max(0.0, float(share) + _HALF))
        step = global_state.learning_rate * (share - global_state.target_quantile)
        estimate = global_state.current_estimate
        estimate = estimate * math.exp(-step) if self._geometric_update else estimate - step
        state = global_state._replace(current_estimate=estimate, below_estimate_state=below_state)
        return estimate, state, event

    def derive_metrics(self, global_state: Any) -> Any:
        """The estimate."""
        return collections.OrderedDict(estimate=global_state.current_estimate)


class NoPrivacyQuantileEstimatorQuery(QuantileEstimatorQuery):
    """The same with an exact share of the records that came: NOT private.

    Takes what `QuantileEstimatorQuery` does but the noise and the expected number.
    """

    def __init__(
        self,
        initial_estimate: float,
        target_quantile: float,
        learning_rate: float,
        geometric_update: bool = False,
    ) -> None:
        below = no_privacy_query.NoPrivacyAverageQuery()
        self._start(initial_estimate, target_quantile, learning_rate, below, geometric_update)


class TreeQuantileEstimatorQuery(QuantileEstimatorQuery):
    """The same with tree noise on the count: for samples that are not drawn at random.

    Kairouz et al. 2021 (arXiv 2103.00039): the cost of all results together is
    `compute_rdp_tree_restart`'s or `compute_rdp_single_tree`'s at the noise multiplier
    `2 * below_estimate_stddev`.
    """

    def _construct_below_estimate_query(
        self, below_estimate_stddev: float, expected_num_records: float
    ) -> dp_query.SumAggregationDPQuery:
        total = tree_aggregation_query.TreeResidualSumQuery.build_l2_gaussian_query(
            clip_norm=_HALF,
            noise_multiplier=below_estimate_stddev / _HALF,
            record_specs=jax.ShapeDtypeStruct((), jnp.float32),
        )
        return normalized_query.NormalizedQuery(total, denominator=expected_num_records)

    def reset_state(self, noised_results: Any, global_state: Any) -> Any:
        """The state with a new tree."""
        below = global_state.below_estimate_state
        tree = self._below_estimate_query._numerator.reset_state(
            noised_results, below.numerator_state
        )
        return global_state._replace(below_estimate_state=below._replace(numerator_state=tree))
