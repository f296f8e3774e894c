"""What one run's canaries prove: the published numbers, and that it is no overstatement."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import hushgrad as hg
from hushgrad.audit.one_run import p_value, refutes
from hushgrad.errors import InputError

ONE = {"examples": 10, "batch_size": 10, "steps": 1, "delta": 1e-5}


def test_p_values_are_those_of_the_paper():
    """Appendix D of Steinke et al. 2023, written as there."""
    m, r, v, epsilon, delta = 1000, 300, 250, 1.2, 1e-4
    q = 1 / (1 + np.exp(-epsilon))
    beta = stats.binom.sf(v - 1, r, q)
    alpha = total = 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    expected = beta + alpha * delta * 2 * m
    assert p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("guesses", "correct"), [(100, 98), (700, 500), (1000, 700)])
def test_without_delta_it_is_the_binomial_bound(guesses, correct):
    """Each guess of what is epsilon-private is right with probability e^eps / (1 + e^eps)."""
    at = stats.beta.ppf(0.05, correct, guesses - correct + 1)
    assert p_value(1000, guesses, correct, np.log(at / (1 - at)), 0.0) == pytest.approx(0.05)


def test_scores_of_a_gaussian_release_show_most_of_its_epsilon():
    rng = np.random.default_rng(0)
    included = rng.random(20_000) < 0.5
    scores = included / 1.0 + rng.normal(size=20_000)
    m = hg.dp_sgd(**ONE, noise_multiplier=1.0)
    found = hg.audit.one_run(scores, included, delta=1e-5, promise=m)
    assert not found.refuted
    # Figure 1 of Mahloujifar et al. 2024 has as much.
    assert 0.4 * m.epsilon() < found.epsilon < found.epsilon_trade_off < m.epsilon()
    assert found.epsilon_trade_off > 0.6 * m.epsilon()


def test_a_promise_is_refuted_by_what_twice_the_epsilon_leaves():
    rng = np.random.default_rng(0)
    included = rng.random(2000) < 0.5
    scores = included + rng.normal(size=2000)
    found = hg.audit.one_run(
        scores, included, delta=1e-5, promise=hg.dp_sgd(**ONE, noise_multiplier=2.0)
    )
    assert found.refuted


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_it_overstates_no_more_often_than_its_confidence_allows(epsilon):
    """Randomised response, the worst that is epsilon-private: each bit told truly so often.

    400 audits at 90 % confidence: more than 71 overstatements have a probability below 1e-6
    under Binomial(400, 0.1).
    """
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        included = rng.random(200) < 0.5
        truly = rng.random(200) < 1 / (1 + np.exp(-epsilon))
        scores = np.where(included == truly, 1.0, -1.0) + 1e-3 * rng.normal(size=200)
        found = hg.audit.one_run(scores, included, delta=1e-9, confidence=0.9)
        wrong += found.epsilon > epsilon
    assert wrong <= 43, wrong


def test_the_trade_off_bound_overstates_no_more_often_either():
    """60 Gaussian releases at 90 %: more than 19 overstatements have probability below 1e-6."""
    rng = np.random.default_rng(3)
    promise = hg.dp_sgd(**ONE, noise_multiplier=1.0)
    wrong = refuted = 0
    for _ in range(60):
        included = rng.random(200) < 0.5
        scores = included + rng.normal(size=200)
        found = hg.audit.one_run(scores, included, delta=1e-5, confidence=0.9, promise=promise)
        wrong += found.epsilon_trade_off > promise.epsilon()
        refuted += found.refuted
    assert wrong <= 19, wrong
    assert refuted <= 19, refuted


def test_neither_theorem_refutes_all_that_the_other_does():
    """So a promise that is held against both is given half of the confidence by either."""
    level, curve = 0.05 / 7, (lambda x: x)  # epsilon 0: nobody can tell anything
    assert p_value(60, 60, 40, 0.0, 0.0) < level
    assert not refutes(60, 60, 40, curve, level)


def test_a_verdict_is_one_test_at_its_confidence():
    """Not one more for every number that lies above the promise."""
    scores, included = np.arange(60.0), np.arange(60) % 2 == 0
    promise = hg.dp_sgd(**ONE, noise_multiplier=5.0)
    found = hg.audit.CanariesFound.of(hg.audit.Canaries(60), scores, included, promise)
    lucky = dataclasses.replace(found.proved, epsilon=found.promised + 1, refuted=False)
    assert not dataclasses.replace(found, proved=lucky).exceeded


def test_what_is_given_stays_as_it_is():
    scores, included = np.arange(40.0), np.arange(40) % 2 == 0
    scores.setflags(write=False)
    included.setflags(write=False)
    hg.audit.one_run(scores, included, delta=1e-5)


@pytest.mark.parametrize(
    ("scores", "included", "message"),
    [
        (np.zeros(40), np.ones(39, bool), "one entry for each canary"),
        (np.full(40, np.nan), np.arange(40) % 2 == 0, "scores must be finite, got nan for canary"),
        (np.zeros(40), np.ones(40, bool), "got all of 40 in"),
        (np.zeros(40), np.zeros(40, bool), "got no of 40 in"),
        (np.zeros(40), np.full(40, 2), "True or False"),
        (np.zeros(4), np.arange(4) % 2 == 0, "take at least"),
    ],
)
def test_bad_input_is_refused(scores, included, message):
    with pytest.raises(InputError, match=message):
        hg.audit.one_run(scores, included, delta=1e-5)
