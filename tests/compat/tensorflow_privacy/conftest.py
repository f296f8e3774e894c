"""What the tests of queries share."""

import itertools

import pytest

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise
from hushgrad.training.secret import RunSecret


@pytest.fixture
def run_query():
    """Runs a query over one sample; the result and the next global state."""

    def run(query, records, global_state=None, weights=None):
        global_state = query.initial_global_state() if global_state is None else global_state
        params = query.derive_sample_params(global_state)
        sample_state = query.initial_sample_state(next(iter(records)))
        for number, record in enumerate(records):
            weight = () if weights is None else (weights[number],)
            sample_state = query.accumulate_record(params, sample_state, record, *weight)
        result, global_state, _ = query.get_noised_result(sample_state, global_state)
        return result, global_state

    return run


@pytest.fixture
def repeatable(monkeypatch):
    """Keys that come from a counter, in place of the operating system's entropy."""
    numbers = itertools.count(20260101)

    class Counted(RunSecret):
        @classmethod
        def fresh(cls):
            return RunSecret.from_seed(next(numbers))

    monkeypatch.setattr(_noise, "RunSecret", Counted)
