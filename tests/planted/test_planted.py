"""The audit of many runs finds every planted failure, and nothing in the code as it is."""

import jax
import pytest
from planted.faults import FAULTS, mechanism

import hushgrad as hg

# On each side and for each kind of crowd. Sound code is refuted for one seed in twenty at most;
# these seeds are fixed. Each failure shifts what is seen by so much that a third would do.
RUNS = 1500
SOUND = {
    "Poisson": {},
    "little noise": {"noise_multiplier": 0.3},
    "one full step": {"batch_size": 8, "steps": 1},
    "small batches": {"examples": 4, "batch_size": 1},
}


@pytest.fixture(autouse=True)
def _compiled_anew():
    """What was compiled with a failure in it serves no other test."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_failure_is_found(fault, monkeypatch):
    plant, made = FAULTS[fault]
    m = made()
    plant(monkeypatch)
    found = hg.audit.many_runs(m, runs=RUNS, seed=1)
    assert found.refuted, found


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
def test_sound_code_passes(changes):
    found = hg.audit.many_runs(mechanism(**changes), runs=RUNS, seed=1)
    assert not found.refuted, found
    assert found.epsilon <= found.promised
