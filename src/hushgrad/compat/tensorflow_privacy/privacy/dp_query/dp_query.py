"""What all queries have in common."""

from __future__ import annotations

import abc
import collections
from typing import Any

from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _records

__all__ = ["DPQuery", "SumAggregationDPQuery"]


class DPQuery(abc.ABC):
    """A private query over samples of records, one sample after the other.

    ```python
    query = GaussianSumQuery(l2_norm_clip=1.0, stddev=1.0)
    global_state = query.initial_global_state()
    for records in rounds:
        params = query.derive_sample_params(global_state)
        sample_state = query.initial_sample_state(records[0])
        for record in records:
            sample_state = query.accumulate_record(params, sample_state, record)
        result, global_state, event = query.get_noised_result(sample_state, global_state)
        accountant.compose(event)
    ```

    Records are pytrees. All records of a sample go through `preprocess_record` with the
    params of the same global state that `get_noised_result` is then given: it says how much
    noise their norms need. `get_noised_result` runs on the host, outside `jit`; calling it
    twice is two releases, with fresh noise each, and both events count.
    """

    def initial_global_state(self) -> Any:
        """What lasts from sample to sample; nothing by default."""
        return ()

    def derive_sample_params(self, global_state: Any) -> Any:
        """What records of the next sample are processed with; sent to whoever has them."""
        del global_state
        return ()

    @abc.abstractmethod
    def initial_sample_state(self, template: PyTree = None) -> Any:
        """The state of a sample without records.

        Args:
          template: a record, or a pytree of `jax.ShapeDtypeStruct`.
        """

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """What a record adds to a sample: bounded, wherever the record is."""
        del params
        return record

    @abc.abstractmethod
    def accumulate_preprocessed_record(self, sample_state: Any, preprocessed_record: Any) -> Any:
        """The sample's state with one more record."""

    def accumulate_record(self, params: Any, sample_state: Any, record: PyTree) -> Any:
        """`preprocess_record` and `accumulate_preprocessed_record` in one."""
        return self.accumulate_preprocessed_record(
            sample_state, self.preprocess_record(params, record)
        )

    @abc.abstractmethod
    def merge_sample_states(self, sample_state_1: Any, sample_state_2: Any) -> Any:
        """The state of two samples together."""

    @abc.abstractmethod
    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The result, the next global state, and the `dp_accounting.DpEvent` that happened."""

    def derive_metrics(self, global_state: Any) -> collections.OrderedDict[str, Any]:
        """Numbers to watch, made from private results alone."""
        del global_state
        return collections.OrderedDict()


class SumAggregationDPQuery(DPQuery):
    """A query whose samples are sums.

    Shapes are held to: where TensorFlow broadcasts a record into a larger sample state, and
    so multiplies what it weighs, this raises.
    """

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """Zeros, shaped like a record."""
        return _records.zeros(template)

    def accumulate_preprocessed_record(self, sample_state: Any, preprocessed_record: Any) -> Any:
        """The sum with one more record."""
        return _records.add(sample_state, preprocessed_record)

    def merge_sample_states(self, sample_state_1: Any, sample_state_2: Any) -> Any:
        """The sum of both."""
        return _records.add(sample_state_1, sample_state_2)
