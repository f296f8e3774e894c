"""Gaussian sums whose clip follows a quantile of the records' norms.

Andrew, Thakkar, McMahan and Ramaswamy 2021 (arXiv 1905.03871).
"""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import dp_accounting
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import (
    _noise,
    dp_query,
    gaussian_query,
    quantile_estimator_query,
)

__all__ = ["QuantileAdaptiveClipSumQuery"]


class _GlobalState(NamedTuple):
    noise_multiplier: float
    sum_state: Any
    quantile_estimator_state: Any


class _SampleState(NamedTuple):
    sum_state: Any
    quantile_estimator_state: Any


class _SampleParams(NamedTuple):
    sum_params: Any
    quantile_estimator_params: Any


class QuantileAdaptiveClipSumQuery(dp_query.SumAggregationDPQuery):
    """Clips to a norm that a given share of the records does not reach, which it follows.

    Formal guarantee: each result is two Gaussian mechanisms over the same records: the sum
    with `noise_multiplier` and the count with `2 * clipped_count_stddev`. Both are in
    the event. A record with NaN or an infinity adds zero to both.

    Args:
      initial_l2_norm_clip: the first clip.
      noise_multiplier: noise on the sum over the clip of the same sample.
      target_unclipped_quantile: share of the records to leave whole.
      learning_rate: how fast the clip moves; 0.2 with geometric updates in the paper.
      clipped_count_stddev: noise on the count; a twentieth of the records in the paper.
      expected_num_records: in a sample; a public number.
      geometric_update: whether the clip is multiplied.

    Raises:
      InputError: if a number is out of range.
    """

    _GlobalState, _SampleState, _SampleParams = _GlobalState, _SampleState, _SampleParams

    def __init__(
        self,
        initial_l2_norm_clip: float,
        noise_multiplier: float,
        target_unclipped_quantile: float,
        learning_rate: float,
        clipped_count_stddev: float,
        expected_num_records: float,
        geometric_update: bool = True,
    ) -> None:
        self._noise_multiplier = _noise.scale("noise_multiplier", noise_multiplier)
        self._quantile_estimator_query = quantile_estimator_query.QuantileEstimatorQuery(
            initial_l2_norm_clip,
            target_unclipped_quantile,
            learning_rate,
            clipped_count_stddev,
            expected_num_records,
            geometric_update,
        )
        self._sum_query = gaussian_query.GaussianSumQuery(
            initial_l2_norm_clip, noise_multiplier * initial_l2_norm_clip
        )

    def initial_global_state(self) -> Any:
        """The noise multiplier, the sum's state and the clip's."""
        return _GlobalState(
            self._noise_multiplier,
            self._sum_query.initial_global_state(),
            self._quantile_estimator_query.initial_global_state(),
        )

    def derive_sample_params(self, global_state: Any) -> Any:
        """The sum's params and the clip's."""
        return _SampleParams(
            self._sum_query.derive_sample_params(global_state.sum_state),
            self._quantile_estimator_query.derive_sample_params(
                global_state.quantile_estimator_state
            ),
        )

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """A sum of zero and a count of zero."""
        return _SampleState(
            self._sum_query.initial_sample_state(template),
            self._quantile_estimator_query.initial_sample_state(),
        )

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """The clipped record, and on which side of the clip it was."""
        clipped, norm = self._sum_query.preprocess_record_impl(params.sum_params, record)
        unclipped = self._quantile_estimator_query.preprocess_record(
            params.quantile_estimator_params, norm
        )
        return _SampleState(clipped, unclipped)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sum with this sample's noise, the state with the next clip, and both events."""
        noised, _, sum_event = self._sum_query.get_noised_result(
            sample_state.sum_state, global_state.sum_state
        )
        estimate, quantile_state, count_event = self._quantile_estimator_query.get_noised_result(
            sample_state.quantile_estimator_state, global_state.quantile_estimator_state
        )
        clip = max(estimate, 0.0)
        state = _GlobalState(
            global_state.noise_multiplier,
            self._sum_query.make_global_state(clip, clip * global_state.noise_multiplier),
            quantile_state,
        )
        return noised, state, dp_accounting.ComposedDpEvent([sum_event, count_event])

    def derive_metrics(self, global_state: Any) -> Any:
        """The clip."""
        return collections.OrderedDict(clip=global_state.sum_state.l2_norm_clip)
