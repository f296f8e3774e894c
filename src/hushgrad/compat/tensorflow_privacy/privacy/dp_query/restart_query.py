"""Starting another query's tree anew, now and then."""

from __future__ import annotations

import abc
import time
from typing import Any, NamedTuple

from jaxtyping import PyTree

from hushgrad._check import positive, whole
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise, dp_query
from hushgrad.errors import InputError

__all__ = [
    "PeriodicRoundRestartIndicator",
    "PeriodicTimeRestartIndicator",
    "RestartIndicator",
    "RestartQuery",
]


class RestartIndicator(abc.ABC):
    """Says after each result whether to start anew."""

    @abc.abstractmethod
    def initialize(self) -> Any:
        """The state before the first result."""

    @abc.abstractmethod
    def next(self, state: Any) -> tuple[bool, Any]:
        """Whether to start anew, and the state after that."""


class PeriodicRoundRestartIndicator(RestartIndicator):
    """Every `period` results, the first time after `warmup`.

    Args:
      period: number of results.
      warmup: from 1 to `period - 1`; `period` by default.

    Raises:
      InputError: if a number is out of range.
    """

    def __init__(self, period: int, warmup: int | None = None) -> None:
        self.period = whole("period", period)
        if warmup is not None and not 0 < warmup < period:
            raise InputError(
                f"warmup must be between 1 and period - 1 = {period - 1}, got {warmup!r}"
            )
        self.warmup = 0 if warmup is None else whole("warmup", warmup)

    def initialize(self) -> Any:
        """No results yet."""
        return 0

    def next(self, state: Any) -> tuple[bool, Any]:
        """Whether to start anew, and the number of results."""
        state = int(state) + 1
        return state % self.period == self.warmup, state


class PeriodicTimeRestartIndicator(RestartIndicator):
    """When more than so many seconds have passed since the last time.

    Args:
      period_seconds: how many.

    Raises:
      InputError: if it is not positive.
    """

    def __init__(self, period_seconds: float) -> None:
        self.period_seconds = positive("period_seconds", period_seconds)

    def initialize(self) -> Any:
        """The time now, in seconds."""
        return time.time()

    def next(self, state: Any) -> tuple[bool, Any]:
        """Whether to start anew, and the time of the last start."""
        now = time.time()
        return (True, now) if now - state > self.period_seconds else (False, state)


class _GlobalState(NamedTuple):
    inner_query_state: Any
    indicator_state: Any


class RestartQuery(dp_query.SumAggregationDPQuery):
    """Another query, whose state is reset when an indicator says so.

    Args:
      inner_query: a sum query with `reset_state`, such as `TreeResidualSumQuery`.
      restart_indicator: says when.

    Raises:
      InputError: if the query has no `reset_state`.
    """

    _GlobalState = _GlobalState

    def __init__(
        self, inner_query: dp_query.SumAggregationDPQuery, restart_indicator: RestartIndicator
    ) -> None:
        if not hasattr(inner_query, "reset_state"):
            raise InputError(
                "inner_query must define `reset_state`, as the tree queries do, got "
                f"{inner_query!r}"
            )
        self._inner_query: Any = inner_query
        self._restart_indicator = restart_indicator

    def initial_global_state(self) -> Any:
        """The query's state and the indicator's."""
        return _GlobalState(
            self._inner_query.initial_global_state(), self._restart_indicator.initialize()
        )

    def derive_sample_params(self, global_state: Any) -> Any:
        """The query's."""
        return self._inner_query.derive_sample_params(global_state.inner_query_state)

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """The query's."""
        return self._inner_query.initial_sample_state(template)

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """What the query makes of the record."""
        return self._inner_query.preprocess_record(params, record)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The query's result, and its state, reset if it is time."""
        _noise.on_host("get_noised_result", sample_state, global_state)
        result, inner, event = self._inner_query.get_noised_result(
            sample_state, global_state.inner_query_state
        )
        restart, indicator = self._restart_indicator.next(global_state.indicator_state)
        if restart:
            inner = self._inner_query.reset_state(result, inner)
        return result, _GlobalState(inner, indicator), event

    def derive_metrics(self, global_state: Any) -> Any:
        """The query's."""
        return self._inner_query.derive_metrics(global_state.inner_query_state)
