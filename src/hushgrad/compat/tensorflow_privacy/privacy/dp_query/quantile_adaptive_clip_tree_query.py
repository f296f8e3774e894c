"""Tree sums whose clip follows a quantile of the records' norms, tree by tree."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import dp_accounting
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import (
    _noise,
    dp_query,
    quantile_estimator_query,
    tree_aggregation_query,
)

__all__ = ["QAdaClipTreeResSumQuery"]


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


class QAdaClipTreeResSumQuery(dp_query.SumAggregationDPQuery):
    """A `TreeResidualSumQuery` whose clip moves when its tree is reset, by `RestartQuery` say.

    Kairouz et al. 2021 (arXiv 2103.00039) for the tree, Andrew et al. 2021 (arXiv
    1905.03871) for the clip.

    Formal guarantee: all results together cost two trees over the same records, of noise
    multipliers `noise_multiplier` and `2 * clipped_count_stddev`, if each state is used once;
    add what `tree_aggregation_accountant` says of each.

    Args:
      initial_l2_norm_clip: the first tree's clip.
      noise_multiplier: noise of a node over the clip of its tree.
      record_specs: shapes of a record: a pytree of `jax.ShapeDtypeStruct` or arrays.
      target_unclipped_quantile: share of the records to leave whole.
      learning_rate: how fast the estimate moves; 0.2 with geometric updates in the paper.
      clipped_count_stddev: noise on the count's nodes.
      expected_num_records: in a sample; a public number.
      geometric_update: whether the estimate is multiplied.
      noise_seed: for tests; whoever knows it can subtract the sum's noise.

    Raises:
      InputError: if a number is out of range.
    """

    _GlobalState, _SampleState, _SampleParams = _GlobalState, _SampleState, _SampleParams

    def __init__(
        self,
        initial_l2_norm_clip: float,
        noise_multiplier: float,
        record_specs: PyTree,
        target_unclipped_quantile: float,
        learning_rate: float,
        clipped_count_stddev: float,
        expected_num_records: float,
        geometric_update: bool = True,
        noise_seed: int | None = None,
    ) -> None:
        self._noise_multiplier = _noise.scale("noise_multiplier", noise_multiplier)
        self._quantile_estimator_query = quantile_estimator_query.TreeQuantileEstimatorQuery(
            initial_l2_norm_clip,
            target_unclipped_quantile,
            learning_rate,
            clipped_count_stddev,
            expected_num_records,
            geometric_update,
        )
        self._sum_query = tree_aggregation_query.TreeResidualSumQuery.build_l2_gaussian_query(
            initial_l2_norm_clip, noise_multiplier, record_specs, noise_seed=noise_seed
        )

    def initial_global_state(self) -> Any:
        """The noise multiplier, the sum's tree and the count's."""
        return _GlobalState(
            self._noise_multiplier,
            self._sum_query.initial_global_state(),
            self._quantile_estimator_query.initial_global_state(),
        )

    def derive_sample_params(self, global_state: Any) -> Any:
        """The tree's clip, and the estimate."""
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
        """The clipped record, and on which side of the estimate it was."""
        clipped, norm = self._sum_query.preprocess_record_l2_impl(params.sum_params, record)
        below = self._quantile_estimator_query.preprocess_record(
            params.quantile_estimator_params, norm
        )
        return _SampleState(clipped, below)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sample with noise; the estimate moves, the clip does not."""
        noised, sum_state, sum_event = self._sum_query.get_noised_result(
            sample_state.sum_state, global_state.sum_state
        )
        _, quantile_state, count_event = self._quantile_estimator_query.get_noised_result(
            sample_state.quantile_estimator_state, global_state.quantile_estimator_state
        )
        state = _GlobalState(global_state.noise_multiplier, sum_state, quantile_state)
        return noised, state, dp_accounting.ComposedDpEvent([sum_event, count_event])

    def reset_state(self, noised_results: Any, global_state: Any) -> Any:
        """New trees, and the estimate as the clip."""
        clip = max(global_state.quantile_estimator_state.current_estimate, 0.0)
        sum_state = self._sum_query.reset_l2_clip_gaussian_noise(
            global_state.sum_state, clip, clip * global_state.noise_multiplier
        )
        quantile_state = self._quantile_estimator_query.reset_state(
            noised_results, global_state.quantile_estimator_state
        )
        return _GlobalState(global_state.noise_multiplier, sum_state, quantile_state)

    def derive_metrics(self, global_state: Any) -> Any:
        """The clip, and the estimate."""
        return collections.OrderedDict(
            current_clip=global_state.sum_state.clip_value,
            estimate_clip=global_state.quantile_estimator_state.current_estimate,
        )
