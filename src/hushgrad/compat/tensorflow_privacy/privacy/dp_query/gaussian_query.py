"""Sums with Gaussian noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import dp_accounting
from jaxtyping import Array, Float, PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise, _records, dp_query

__all__ = ["GaussianSumQuery"]


class _GlobalState(NamedTuple):
    l2_norm_clip: float
    stddev: float


class GaussianSumQuery(dp_query.SumAggregationDPQuery):
    """Clips records to a Euclidean norm and adds Gaussian noise to their sum.

    Formal guarantee: each result is the Gaussian mechanism with noise multiplier
    `stddev / l2_norm_clip` under add-or-remove-one-record adjacency, up to float rounding
    of the noise. A record with NaN or an infinity contributes zero.

    Args:
      l2_norm_clip: largest norm of a record, over all its leaves.
      stddev: standard deviation of the noise, in the units of the sum.

    Raises:
      InputError: if a number is negative or not finite.
    """

    _GlobalState = _GlobalState

    def __init__(self, l2_norm_clip: float, stddev: float) -> None:
        self._state = self.make_global_state(l2_norm_clip, stddev)

    def make_global_state(self, l2_norm_clip: float, stddev: float) -> _GlobalState:
        """The global state of a query with these numbers."""
        return _GlobalState(
            _noise.scale("l2_norm_clip", l2_norm_clip), _noise.scale("stddev", stddev)
        )

    def initial_global_state(self) -> Any:
        """The clip and the noise."""
        return self._state

    def derive_sample_params(self, global_state: Any) -> Any:
        """The clip."""
        return _records.rounded_down(global_state.l2_norm_clip)

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """Zeros, shaped like a record, in float32 or wider."""
        return _records.widened_zeros(template)

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """The clipped record."""
        return self.preprocess_record_impl(params, record)[0]

    def preprocess_record_impl(
        self, params: Any, record: PyTree
    ) -> tuple[PyTree, Float[Array, ""]]:
        """The clipped record, and the norm it had; the norm is not private."""
        return _records.clip_by_global_norm(record, params)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sum with noise, the same global state, and a Gaussian event."""
        clip = _noise.scale("l2_norm_clip", global_state.l2_norm_clip)
        stddev = _noise.scale("stddev", global_state.stddev)
        result = _noise.add_gaussian(sample_state, stddev)
        if clip == 0:  # every record is zero
            return result, global_state, dp_accounting.NoOpDpEvent()
        return result, global_state, dp_accounting.GaussianDpEvent(stddev / clip)
