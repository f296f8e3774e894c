"""Sums over a public number."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from hushgrad._check import positive
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import dp_query
from hushgrad.errors import InputError

__all__ = ["NormalizedQuery"]


class _GlobalState(NamedTuple):
    numerator_state: Any
    denominator: float


class NormalizedQuery(dp_query.SumAggregationDPQuery):
    """A sum query's result, divided by a public number.

    The number of records that came is as private as they are: divide by the expected one.

    Args:
      numerator_query: the query whose result is divided.
      denominator: by what; a positive number, known to all.

    Raises:
      InputError: if the query is no sum query or the number is not positive.
    """

    _GlobalState = _GlobalState

    def __init__(self, numerator_query: dp_query.SumAggregationDPQuery, denominator: float) -> None:
        if not isinstance(numerator_query, dp_query.SumAggregationDPQuery):
            raise InputError(
                f"numerator_query must be a SumAggregationDPQuery, got {numerator_query!r}"
            )
        self._numerator = numerator_query
        self._denominator = positive("denominator", denominator)

    def initial_global_state(self) -> Any:
        """The numerator's state, and the denominator."""
        return _GlobalState(self._numerator.initial_global_state(), self._denominator)

    def derive_sample_params(self, global_state: Any) -> Any:
        """The numerator's."""
        return self._numerator.derive_sample_params(global_state.numerator_state)

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """The numerator's."""
        return self._numerator.initial_sample_state(template)

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """What the numerator makes of the record."""
        return self._numerator.preprocess_record(params, record)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The numerator's result over the denominator, at the numerator's cost."""
        noised, state, event = self._numerator.get_noised_result(
            sample_state, global_state.numerator_state
        )
        divided = jax.tree.map(lambda leaf: leaf / global_state.denominator, noised)
        return divided, global_state._replace(numerator_state=state), event

    def derive_metrics(self, global_state: Any) -> Any:
        """The numerator's."""
        return self._numerator.derive_metrics(global_state.numerator_state)
