"""What scores prove about epsilon: TensorFlow Privacy's numbers, and that the proof holds."""

import math

import numpy as np
import pytest
from scipy import stats

from hushgrad.audit.bounds import (
    METHODS,
    clopper_pearson,
    epsilon_lower_bound,
    most_that_can_be_shown,
    ratio_bound,
)
from hushgrad.errors import InputError

LARGE_SAMPLE = ("katz-log", "adjusted-log", "bailey", "inverse-sinh")
# (tp, fn, fp, tn), alpha -> by the methods above, from epsilon_lower_bound_test.py.
TABLE = [
    ((473, 511, 755, 950), 0.05, (1.01166194, 1.01189079, 1.01148934, 1.01167669)),
    ((2, 697, 213, 313), 0.05, (0.00220470, 0.00310880, 0.00162322, 0.00233503)),
    ((1000, 10, 10, 10000), 0.05, (589.27335593, 568.32659563, 613.58766147, 592.63264572)),
    ((500, 0, 0, 500), 0.01, (37.31696140, 37.35421695, 108.47420518, 35.46128691)),
    ((0, 511, 755, 950), 0.05, (0.0, 0.00021568, 0.0, 0.0)),
    ((2, 697, 0, 313), 0.05, (0.13325535, 0.17571862, 0.18481008, 0.08081083)),
    ((0, 10, 0, 10000), 0.05, (0.0, 0.0, 0.0, 0.0)),
    ((473, 0, 755, 950), 0.05, (2.15959024, 2.15883995, 2.15787013, 2.15959827)),
    ((2, 697, 213, 0), 0.05, (0.00089568, 0.00126522, 0.00066016, 0.00094821)),
    ((1000, 0, 10, 0), 0.05, (0.93375356, 0.93686007, 0.93591485, 0.93381958)),
]


@pytest.mark.parametrize(("counts", "alpha", "expected"), TABLE)
def test_ratio_bounds_are_those_of_tensorflow_privacy(counts, alpha, expected):
    found = [ratio_bound(*counts, alpha, method) for method in LARGE_SAMPLE]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def test_clopper_pearson_ratio_is_that_of_jagielski():
    assert math.log(ratio_bound(500, 0, 0, 500, 0.01)) == pytest.approx(4.54, abs=0.005)


def test_ratio_bounds_of_arrays():
    tp, fp = np.array([900, 0, 10, 1000]), np.array([600, 14, 0, 1200])
    found = ratio_bound(tp, 1000 - tp, fp, 1200 - fp, 0.05, "bailey")
    np.testing.assert_allclose(found, [1.71182320, 0.0, 3.86813751, 0.99840348], atol=1e-7)


def uncorrected(members, non_members, alpha, method):
    """As TensorFlow Privacy: all thresholds, both ratios and both directions, no correction."""
    thresholds = np.unique(np.concatenate([members, non_members]))
    m, n = len(members), len(non_members)
    tp = m - np.searchsorted(np.sort(members), thresholds)
    fp = n - np.searchsorted(np.sort(non_members), thresholds)
    counts = [
        (tp, m - tp, fp, n - fp),
        (n - fp, fp, m - tp, tp),
        (fp, n - fp, tp, m - tp),
        (m - tp, tp, n - fp, fp),
    ]
    ratios = np.concatenate([ratio_bound(*c, alpha, method) for c in counts])
    return np.sort(np.log(ratios[ratios > 0]))[::-1]


def test_largest_bounds_of_all_thresholds_are_those_of_tensorflow_privacy():
    members = -np.array([0.1, 0.2, 1.3, 0.4, 0.5, 0.6])
    non_members = -np.array([1.1, 1.2, 1.3, 0.4, 1.5, 1.6])
    of_methods = [uncorrected(members, non_members, 0.05, method)[:4] for method in METHODS]
    expected = [0.34695111, 0.34695111, 0.05616349, 0.05616349]
    np.testing.assert_allclose(np.max(of_methods, axis=0), expected, atol=1e-8)


def test_clopper_pearson_covers():
    # Exactly: by summing over all outcomes, each bound misses with at most 1 - confidence.
    successes = np.arange(31)
    low, high = clopper_pearson(successes, 30, 0.9)
    for p in np.linspace(0.01, 0.99, 37):
        weights = stats.binom.pmf(successes, 30, p)
        assert weights[low > p].sum() <= 0.1
        assert weights[high < p].sum() <= 0.1
    assert (low[0], high[-1]) == (0, 1)
    assert clopper_pearson(0, 10, 0.95)[1] == pytest.approx(1 - 0.05**0.1)


def randomized_response(rng, members, others):
    p = math.e / (1 + math.e)
    return (rng.random(members) < p).astype(float), (rng.random(others) > p).astype(float)


def laplace(rng, members, others):
    return 1 + rng.laplace(size=members), rng.laplace(size=others)


# With few on a side, what is not known of that side is all that matters.
@pytest.mark.parametrize("counts", [(300, 300), (20, 1500), (1500, 20)])
@pytest.mark.parametrize("mechanism", [randomized_response, laplace])
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_corrected_bound_holds_for_mechanisms_of_epsilon_one(mechanism, confidence, counts):
    rng = np.random.default_rng(0)
    trials = 400
    found = [
        epsilon_lower_bound(*mechanism(rng, *counts), confidence=confidence).epsilon
        for _ in range(trials)
    ]
    # A bound as wrong as allowed would exceed more often for less than one seed in a million.
    allowed = stats.binom.isf(1e-6, trials, 1 - confidence)
    assert np.sum(np.array(found) > 1) <= allowed


def test_uncorrected_bound_does_not_hold():
    # The test above has the power to see a missing correction.
    rng = np.random.default_rng(0)
    trials = 100
    found = [uncorrected(*laplace(rng, 300, 300), 0.05, "katz-log")[0] for _ in range(trials)]
    assert np.sum(np.array(found) > 1) > stats.binom.isf(1e-6, trials, 0.05)
    found = [
        uncorrected(*laplace(rng, 300, 300), 0.49, "clopper-pearson")[0] for _ in range(trials)
    ]
    assert np.sum(np.array(found) > 1) > stats.binom.isf(1e-6, trials, 0.5)


@pytest.mark.parametrize("mechanism", [randomized_response, laplace])
def test_bound_comes_close_with_many_scores(mechanism):
    # Ties too: lots among equal scores keep their likelihood ratio.
    found = epsilon_lower_bound(*mechanism(np.random.default_rng(1), 100_000, 100_000))
    assert 0.9 < found.epsilon <= 1


def test_delta_is_taken_off():
    # A tenth of the members is betrayed: (0, 0.1)-differentially private.
    rng = np.random.default_rng(2)
    betrayed = rng.random(20_000) < 0.1
    members, others = np.where(betrayed, 9.0, rng.random(20_000)), rng.random(20_000)
    assert epsilon_lower_bound(members, others).epsilon > 4
    assert epsilon_lower_bound(members, others, delta=0.11).epsilon < 0.05


def test_both_sides_are_tried():
    rng = np.random.default_rng(3)
    same, high, low = rng.random(2000), rng.random(2000), rng.random(2000)
    high[:500] += 5
    low[:500] -= 5
    above, below = epsilon_lower_bound(high, same), epsilon_lower_bound(same, low)
    assert (above.accused, below.accused) == ("members", "non-members")
    assert above.epsilon > 2
    assert below.epsilon > 2
    # Where members score low, an attack that says so proves nothing the wrong way round.
    assert epsilon_lower_bound(low, same).epsilon == 0


@pytest.mark.parametrize(("m", "n"), [(1, 1), (7, 100), (100, 7), (1000, 1000)])
def test_perfect_attacks_show_the_most(m, n):
    rng = np.random.default_rng(4)
    perfect = epsilon_lower_bound(1 + rng.random(m), rng.random(n), delta=1e-3).epsilon
    assert perfect == most_that_can_be_shown(m, n, delta=1e-3)
    assert epsilon_lower_bound(rng.random(m), rng.random(n), delta=1e-3).epsilon <= perfect


def test_the_rates_explain_the_epsilon():
    rng = np.random.default_rng(5)
    members, others = rng.normal(1, 1, 5000), rng.normal(0, 1, 5000)
    found = epsilon_lower_bound(members, others, delta=1e-5)
    assert found.epsilon == pytest.approx(math.log((found.hit_rate - 1e-5) / found.false_rate))
    assert found.hits == np.sum(members > found.threshold)
    assert found.trials == 5000
    fewer = epsilon_lower_bound(members, others, delta=1e-5, attacks=20)
    assert fewer.epsilon < found.epsilon
    assert fewer.tried == 20 * found.tried


def test_infinite_scores_are_ranked_and_inputs_left_alone():
    members, others = np.array([np.inf] * 50 + [0.0]), np.array([-np.inf] * 50 + [0.0])
    for array in (members, others):
        array.setflags(write=False)
    assert epsilon_lower_bound(members, others).epsilon > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epsilon_lower_bound([], [1.0]), "members must be one score .* shape \\(0,\\)"),
        (lambda: epsilon_lower_bound([1.0], [[1.0]]), "non_members must be one score"),
        (lambda: epsilon_lower_bound([1.0, np.nan], [1.0]), "NaN in 1 of 2, first in row 1"),
        (lambda: epsilon_lower_bound(["a"], [1.0]), "members must be one score .* dtype <U1"),
        (lambda: epsilon_lower_bound([1.0], [1.0], delta=1.0), "delta must lie in"),
        (lambda: epsilon_lower_bound([1.0], [1.0], confidence=1), "confidence must lie"),
        (lambda: epsilon_lower_bound([1.0], [1.0], attacks=0), "attacks must be a whole"),
        (lambda: most_that_can_be_shown(0, 1), "members must be a whole number"),
        (lambda: clopper_pearson(3, 2, 0.9), "successes must lie between 0 and trials"),
        (lambda: ratio_bound(1, 1, 1, 1, 0.5), "alpha must lie strictly between 0 and 0.5"),
        (lambda: ratio_bound(1, 1, 1, 1, 0.1, "katz"), "method must be one of katz-log"),
        (lambda: ratio_bound(-1, 1, 1, 1), "counts must be zero or more"),
        (lambda: ratio_bound(0, 0, 1, 1), "counts must be of a member"),
    ],
)
def test_errors_name_the_mend(call, message):
    with pytest.raises(InputError, match=message):
        call()
