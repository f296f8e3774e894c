"""Poisson samples that are cut to a size: what a full batch costs."""

import dp_accounting as dpa
import numpy as np
import pytest
from scipy import integrate, stats

from hushgrad import accounting
from hushgrad.errors import InputError

RELATIONS = ("add-or-remove-one", "replace-special")


def event(examples=1000, rate=0.05, most=60, noise=1.0, steps=1):
    one = dpa.TruncatedSubsampledGaussianDpEvent(examples, rate, most, noise)
    return dpa.SelfComposedDpEvent(one, steps)


def sampled_delta(epsilon, rate, noise, removed):
    """Of one Poisson-sampled Gaussian, in closed form (Zhu, Dong and Wang 2022)."""
    if removed:
        at = np.log((np.exp(epsilon) - (1 - rate)) / rate) * noise + 0.5 / noise
        p = (1 - rate) * stats.norm.sf(at) + rate * stats.norm.sf(at - 1 / noise)
        return p - np.exp(epsilon) * stats.norm.sf(at)
    if np.exp(-epsilon) <= 1 - rate:
        return 0.0
    at = np.log((np.exp(-epsilon) - (1 - rate)) / rate) * noise + 0.5 / noise
    p = stats.norm.cdf(at)
    q = (1 - rate) * stats.norm.cdf(at) + rate * stats.norm.cdf(at - 1 / noise)
    return p - np.exp(epsilon) * q


@pytest.mark.parametrize("most", [45, 60, 80])
@pytest.mark.parametrize("epsilon", [0.01, 0.04, 0.5, 2.0])
def test_one_release_is_the_mean_of_both_cases(epsilon, most):
    full = stats.binom.sf(most - 1, 1000, 0.05)
    want = max(
        (1 - full) * sampled_delta(epsilon, 0.05, 1.0, removed)
        + full * sampled_delta(epsilon, 0.05, 0.5, removed)
        for removed in (True, False)
    )
    for relation in RELATIONS:
        found = accounting.delta(event(most=most), epsilon, relation=relation)
        assert want * (1 - 1e-9) <= found <= want * (1 + 2e-3) + 1e-12


def densities(x, others, rate, most, noise):
    """Of the sum with and without somebody at +1 among others at -1: nothing hides it less."""
    drawn = stats.binom.pmf(np.arange(others + 1), others, rate)
    without = np.zeros_like(x)
    present = np.zeros_like(x)
    for n, chance in enumerate(drawn):
        alone = stats.norm.pdf(x, -min(n, most), noise)
        kept = rate * min(1.0, most / (n + 1))
        joined = stats.norm.pdf(x, 1 - min(n, most - 1), noise)
        without += chance * alone
        # Drawn and not kept, or not drawn: as if they were not there.
        present += chance * ((1 - kept) * alone + kept * joined)
    return without, present


@pytest.mark.parametrize(
    ("others", "most", "rate"), [(1, 1, 0.5), (2, 2, 0.8), (4, 1, 0.5), (4, 3, 0.8), (4, 2, 1.0)]
)
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_no_data_set_tells_more(others, most, rate, noise):
    """The worst of small data sets, by quadrature, in both directions."""
    x = np.linspace(-others - 12, 14, 40_001)
    without, present = densities(x, others, rate, most, noise)
    made = event(others + 1, rate, most, noise)
    coins = accounting.poisson_gaussian(rate, noise, 1)
    broken = 0
    for epsilon in (0.1, 0.5, 1.0, 2.0, 4.0):
        gaps = [present - np.exp(epsilon) * without, without - np.exp(epsilon) * present]
        true = max(integrate.simpson(np.maximum(gap, 0), x=x) for gap in gaps)
        assert true <= accounting.delta(made, epsilon) + 1e-9
        broken += true > accounting.delta(coins, epsilon)
    # Were full batches forgotten, promises would be broken where most who are drawn are kept.
    assert broken >= 2 or others > most or noise < 1


def test_a_cut_that_never_comes_costs_nothing():
    coins = accounting.poisson_gaussian(0.05, 1.0, 100)
    cut = accounting.epsilon(event(most=200, steps=100), 1e-6)
    assert cut == pytest.approx(accounting.epsilon(coins, 1e-6), rel=1e-9)
    nothing = event(most=0, steps=3)
    assert accounting.epsilon(nothing, 1e-6) == 0


def test_compositions_are_between_coins_and_two_clips():
    costs = [accounting.epsilon(event(most=most, steps=200), 1e-6) for most in (20, 50, 60, 90)]
    twice = accounting.epsilon(accounting.poisson_gaussian(0.05, 0.5, 200), 1e-6)
    coins = accounting.epsilon(accounting.poisson_gaussian(0.05, 1.0, 200), 1e-6)
    assert twice > costs[0] > costs[1] > costs[2] > costs[3] >= coins * (1 - 1e-3)
    # What is below the pairs' curve is not known to be broken: no lower bound is claimed.
    assert accounting.epsilon_interval(event(steps=200), 1e-6).lower == 0
    # dp_accounting's own, which charges a full batch by its mean rate, agrees.
    theirs = dpa.pld.PLDAccountant().compose(event(most=60, steps=200)).get_epsilon(1e-6)
    assert costs[2] == pytest.approx(theirs, rel=0.02)


def test_replacing_takes_nobodys_place():
    """Whoever is replaced leaves a place to the new one: the cost is that of coins."""
    cut = accounting.epsilon(event(steps=50), 1e-6, relation="replace-one")
    coins = accounting.poisson_gaussian(0.05, 1.0, 50)
    assert cut == pytest.approx(accounting.epsilon(coins, 1e-6, relation="replace-one"), rel=1e-9)


@pytest.mark.parametrize("wrong", [{"rate": 1.5}, {"rate": "x"}, {"examples": 0}, {"noise": "x"}])
def test_numbers_that_are_none(wrong):
    with pytest.raises(InputError):
        accounting.epsilon(event(**wrong), 1e-6)
