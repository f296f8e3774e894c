"""The test of many runs: what it says of crowds whose difference is known."""

import numpy as np
import pytest

import hushgrad as hg
from hushgrad.errors import InputError

ONE = hg.dp_sgd(examples=4, batch_size=4, steps=1, delta=1e-2, noise_multiplier=1.0)


def scores(shift, count=2000, seed=0):
    rng = np.random.default_rng(seed)
    return {"mean": (rng.normal(shift, 1, count), rng.normal(0, 1, count))}


def test_what_moves_as_far_as_promised_passes_and_what_moves_further_does_not():
    kept, broken = hg.audit.verdict(scores(1.0), ONE), hg.audit.verdict(scores(1.5), ONE)
    assert not kept.refuted
    assert 0.4 * ONE.epsilon() < kept.epsilon < ONE.epsilon() == kept.promised
    assert broken.refuted
    assert broken.delta_found > broken.delta_promised
    assert kept.runs == broken.runs == 4000


def test_an_attack_that_is_turned_round_counts_too():
    found = hg.audit.verdict(scores(-2.0), ONE)
    assert found.refuted
    assert found.attack in ("mean, from low scores", "mean, absence from high scores")


def test_sound_crowds_are_refuted_no_more_often_than_confidence_allows():
    """200 at 90 %: more than 43 refutations have probability below 1e-6."""
    wrong = [hg.audit.verdict(scores(1.0, 400, n), ONE, confidence=0.9) for n in range(200)]
    assert sum(found.refuted for found in wrong) <= 43
    assert sum(found.epsilon > ONE.epsilon() for found in wrong) <= 43


def test_it_is_told_in_words_and_as_data():
    found = hg.audit.verdict(scores(1.0), ONE)
    assert "was not refuted" in str(found)
    assert "95 % confidence" in str(found)
    assert found.to_dict()["promised"] == ONE.epsilon()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one attack"),
        (scores(1.0, 100), "at least 200 runs each"),
        ({"nan": (np.full(400, np.nan), np.zeros(400))}, "got NaN"),
    ],
)
def test_bad_input_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        hg.audit.verdict(given, ONE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 100}, "must have between 1 and 64 steps"),
        ({"sampling": hg.sampling.Stream}, "must draw its batches"),
    ],
)
def test_mechanisms_that_cannot_be_run_so_are_refused(change, message):
    m = hg.dp_sgd(
        **{"examples": 4, "batch_size": 2, "delta": 1e-2, "noise_multiplier": 1.0, "steps": 2}
        | change
    )
    with pytest.raises(InputError, match=message):
        hg.audit.many_runs(m)
    with pytest.raises(InputError, match="mechanism must come from"):
        hg.audit.many_runs(0.5)
