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


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 6},
        {"noise_multiplier": 0.5, "steps": 4, "batch_size": 2},
        {"sampling": hg.sampling.FixedSize},
        {"sampling": hg.sampling.Shuffle, "steps": 4},
        {"sampling": hg.sampling.CyclicPoisson, "steps": 4, "batch_size": 2},
        {"clip": hg.clip.Adaptive(initial_norm=1.0, count_stddev=1.0)},
        {"clip": hg.clip.Automatic()},
        {"unit": "group of 2"},
        {"unit": "user"},
    ],
    ids=str,
)
def test_sound_code_of_every_kind_passes(changes):
    """With as many runs as take a minute or so."""
    found = hg.audit.many_runs(mechanism(**changes), runs=10_000, seed=2)
    assert not found.refuted, found
    assert found.epsilon <= found.promised


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [hg.noise.Tree, hg.noise.Banded, hg.noise.BLT])
@pytest.mark.parametrize("sampling", [hg.sampling.InOrder, hg.sampling.Shuffle])
def test_sound_noise_that_cancels_passes(strategy, sampling):
    m = hg.dp_ftrl(
        examples=8,
        batch_size=2,
        steps=6,
        clip=2.0,
        delta=1e-2,
        noise_multiplier=2.0,
        sampling=sampling,
        strategy=strategy,
    )
    found = hg.audit.many_runs(m, runs=10_000, seed=2)
    assert not found.refuted, found


@pytest.mark.slow
def test_as_many_audits_of_sound_code_cry_wolf_as_confidence_allows():
    """60 audits at 90 %: more than 19 refutations have probability below 1e-6."""
    m = mechanism(batch_size=8, steps=1)
    wrong = sum(many.refuted for many in (_one(m, seed) for seed in range(60)))
    assert wrong <= 19


def _one(m, seed):
    return hg.audit.many_runs(m, runs=400, seed=seed, confidence=0.9)
