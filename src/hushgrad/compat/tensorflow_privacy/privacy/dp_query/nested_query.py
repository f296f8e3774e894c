"""Several queries at once, each over its part of a record."""

from __future__ import annotations

import collections
from typing import Any

import dp_accounting
import jax
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _records, dp_query

__all__ = ["NestedQuery", "NestedSumQuery"]


class NestedQuery(dp_query.DPQuery):
    """A pytree of queries; each answers for the part of the record at its place.

    `[q1, q2]` over records `[t1, (t2, t3)]` gives t1 to q1 and (t2, t3) to q2. The cost is
    that of all results together.

    Args:
      queries: a pytree whose leaves are queries.

    Raises:
      InputError: if a leaf is no query (a TypeError too).
    """

    _kind: type[dp_query.DPQuery] = dp_query.DPQuery

    def __init__(self, queries: PyTree) -> None:
        self._queries = queries
        leaves, self._structure = jax.tree.flatten(queries)
        for query in leaves:
            if not isinstance(query, self._kind):
                raise _records.StructureError(
                    f"queries must be of type {self._kind.__name__}, got {query!r}"
                )

    def _parts(self, *trees: Any) -> list[tuple[Any, ...]]:
        """Each query with the parts of the trees at its place."""
        rows = [self._structure.flatten_up_to(self._queries)]
        for tree in trees:
            try:
                rows.append(self._structure.flatten_up_to(tree))
            except (TypeError, ValueError) as error:
                raise _records.StructureError(
                    f"record must be built like the queries: {self._structure} ({error})"
                ) from error
        return list(zip(*rows, strict=True))

    def _map(self, method: str, *trees: Any) -> Any:
        found = [getattr(query, method)(*rest) for query, *rest in self._parts(*trees)]
        return self._structure.unflatten(found)

    def initial_global_state(self) -> Any:
        """The states of all queries."""
        return self._map("initial_global_state")

    def derive_sample_params(self, global_state: Any) -> Any:
        """The params of all queries."""
        return self._map("derive_sample_params", global_state)

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """The sample states of all queries."""
        trees = () if template is None else (template,)
        return self._map("initial_sample_state", *trees)

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """What each query makes of its part."""
        return self._map("preprocess_record", params, record)

    def accumulate_preprocessed_record(self, sample_state: Any, preprocessed_record: Any) -> Any:
        """All sample states with one more record."""
        return self._map("accumulate_preprocessed_record", sample_state, preprocessed_record)

    def merge_sample_states(self, sample_state_1: Any, sample_state_2: Any) -> Any:
        """All sample states of two samples together."""
        return self._map("merge_sample_states", sample_state_1, sample_state_2)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """All results, all states, and the composition of all events."""
        parts = self._parts(sample_state, global_state)
        found = [query.get_noised_result(sample, state) for query, sample, state in parts]
        results, states, events = zip(*found, strict=True) if found else ((), (), ())
        return (
            self._structure.unflatten(results),
            self._structure.unflatten(states),
            dp_accounting.ComposedDpEvent(list(events)),
        )

    def derive_metrics(self, global_state: Any) -> Any:
        """All metrics, each after the path to its query: "key/0/estimate"."""
        metrics = collections.OrderedDict()
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(self._queries)[0]]
        for path, (query, state) in zip(paths, self._parts(global_state), strict=True):
            place = [jax.tree_util.keystr((key,), simple=True) for key in path]
            for name, metric in query.derive_metrics(state).items():
                metrics["/".join([*place, name])] = metric
        return metrics


class NestedSumQuery(NestedQuery, dp_query.SumAggregationDPQuery):
    """A `NestedQuery` of sum queries alone.

    Raises:
      InputError: if a leaf is no sum query (a TypeError too).
    """

    _kind = dp_query.SumAggregationDPQuery
