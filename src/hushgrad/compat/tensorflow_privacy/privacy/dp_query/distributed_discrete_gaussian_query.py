"""Sums of whole numbers to which every record brings its share of the noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import dp_accounting
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise, dp_query
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.discrete_gaussian_query import (
    add_discrete,
    checked,
)

__all__ = ["DistributedDiscreteGaussianSumQuery"]


class _GlobalState(NamedTuple):
    l2_norm_bound: float
    local_stddev: float


class DistributedDiscreteGaussianSumQuery(dp_query.SumAggregationDPQuery):
    """Adds discrete Gaussian noise to every record, for sums that nobody sees the parts of.

    Kairouz, Liu and Steinke 2021 (arXiv 2102.06387). What a result costs depends on how
    many records brought honest noise, which the query does not know: the event is an
    `UnsupportedDpEvent`.

    Records are not clipped: one beyond the bound is an error, raised where the record is.

    Args:
      l2_norm_bound: the largest norm of a record, over all its leaves.
      local_stddev: the sigma of one record's noise, taken as it is. (TensorFlow Privacy
        rounds it up.)

    Raises:
      InputError: if a number is negative or not finite.
    """

    _GlobalState = _SampleParams = _GlobalState

    def __init__(self, l2_norm_bound: float, local_stddev: float) -> None:
        self._state = _GlobalState(
            _noise.scale("l2_norm_bound", l2_norm_bound),
            _noise.scale("local_stddev", local_stddev),
        )

    def initial_global_state(self) -> Any:
        """The bound and the noise."""
        return self._state

    def derive_sample_params(self, global_state: Any) -> Any:
        """The bound and the noise."""
        return global_state

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """The record with its noise, if it is within the bound.

        Raises:
          InputError: if it is not, holds fractions, or is traced by JAX.
        """
        return add_discrete(checked(record, params.l2_norm_bound), params.local_stddev)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sum as it is: the noise came with the records."""
        return sample_state, global_state, dp_accounting.UnsupportedDpEvent()
