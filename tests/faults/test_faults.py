"""A few trials of each fault; `python -m tests.faults --trials 200` makes many."""

import random

import pytest
from tests.faults.harness import FAULTS, Trial, unbroken


@pytest.fixture(scope="session")
def want(tmp_path_factory):
    return unbroken(tmp_path_factory.mktemp("unbroken"))


# Those that take long are tried at random by the command alone, and with the slow tests.
LONG = ("locked_ledgers", "two_at_once", "interrupted")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.slow] if fault.__name__ in LONG else [])
        for fault in dict.fromkeys(FAULTS)
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_run_ends_as_if_nothing_had_happened(fault, want, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown where the test fails
    trial = Trial(tmp_path / "trial", random.Random(seed), want)
    fault(trial)
    trial.finish()
