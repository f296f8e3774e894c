"""The whole curve, what an attacker gains by it, and the table of bounds."""

import math

import dp_accounting as dpa
import numpy as np
import pytest
from scipy import stats

import hushgrad as hg
from hushgrad import accounting
from hushgrad.accounting import pld, poisson_gaussian
from hushgrad.errors import InputError

TUTORIAL = poisson_gaussian(256 / 60_000, 1.1, 14_063)


def test_a_profile_is_delta_at_every_epsilon():
    found = accounting.profile(TUTORIAL, [0.0, 0.5, 1.0, 2.0, 3.0])
    for epsilon, delta in zip(*found, strict=True):
        exact = accounting.delta_interval(TUTORIAL, float(epsilon))
        assert exact.lower <= delta <= exact.upper * 1.001


def test_a_profile_falls_to_nothing():
    epsilon, delta = accounting.profile(TUTORIAL)
    assert epsilon[0] == 0
    assert np.all(np.diff(delta) <= 0)
    assert 0 < delta[-1] < 1e-9 < delta[0] < 1


def test_the_trade_off_of_a_gaussian_is_known():
    """Dong, Roth and Su: Phi(Phi^-1(1 - a) - mu). The curve's lines lie below it, and near."""
    event = poisson_gaussian(1.0, 2.0, 4)  # mu = 1
    false_positive, false_negative = accounting.trade_off(event)
    exact = stats.norm.cdf(stats.norm.isf(false_positive) - 1)
    assert np.all(false_negative <= exact + 1e-9)
    assert np.all(false_negative >= exact - 0.005)
    for share in (0.001, 0.01, 0.1):
        best = stats.norm.sf(stats.norm.isf(share) - 1) - share
        assert best - 1e-9 <= accounting.advantage(event, share) <= best + 0.005


def test_nothing_released_gives_nothing_away():
    nothing = dpa.NoOpDpEvent()
    false_positive, false_negative = accounting.trade_off(nothing)
    np.testing.assert_allclose(false_negative, 1 - false_positive, atol=1e-12)
    assert accounting.advantage(nothing) == pytest.approx(0, abs=1e-12)
    assert accounting.posterior(nothing, 1e-5) == 0.5


def test_everything_released_gives_everything_away():
    everything = poisson_gaussian(1.0, 0.0, 1)
    assert np.all(accounting.profile(everything).delta == 1)
    assert np.all(accounting.trade_off(everything).false_negative == 0)
    assert accounting.posterior(everything, 1e-5) == 1


def test_a_mechanism_has_both():
    m = hg.dp_sgd(examples=1000, batch_size=100, epochs=3, noise_multiplier=2.0, delta=1e-5)
    np.testing.assert_array_equal(m.profile([1.0]).delta, accounting.profile(m, [1.0]).delta)
    assert m.trade_off([0.1]).false_negative[0] > 0.5


@pytest.mark.parametrize("wrong", [[-1.0], [math.nan], [math.inf], [[1.0]]])
def test_epsilons_that_are_none(wrong):
    with pytest.raises(InputError, match="epsilons must be"):
        accounting.profile(TUTORIAL, wrong)


@pytest.mark.parametrize("wrong", [[-0.1], [1.1], [[0.5]]])
def test_shares_that_are_none(wrong):
    with pytest.raises(InputError, match="false_positives must lie"):
        accounting.trade_off(TUTORIAL, wrong)


def test_the_table_goes_from_the_crudest_to_the_tightest():
    rows = accounting.bounds(TUTORIAL, 1e-5)
    assert [row.name for row in rows] == [
        *("naive composition", "advanced composition", "moments accountant", "RDP"),
        *("Gaussian DP, central limit", "PLD", "nothing below this holds"),
    ]
    sound = [row.epsilon for row in rows if row.kind == "upper bound"]
    assert sound == sorted(sound, reverse=True)
    worth = {row.name: row.epsilon for row in rows}
    # Abadi et al.'s example: 3.01 by the tutorial's script.
    assert worth["moments accountant"] == pytest.approx(3.009, abs=1e-3)
    assert worth["nothing below this holds"] <= worth["PLD"] == accounting.epsilon(TUTORIAL, 1e-5)
    # The approximation is below what is proved to be needed: it is no bound.
    assert worth["Gaussian DP, central limit"] < worth["nothing below this holds"]


def test_advanced_composition_is_the_theorem():
    """Dwork, Rothblum and Vadhan 2010, from one release at delta / 2 / steps."""
    (row,) = [r for r in accounting.bounds(TUTORIAL, 1e-5) if r.name == "advanced composition"]
    one = accounting.epsilon(poisson_gaussian(256 / 60_000, 1.1, 1), 1e-5 / 2 / 14_063)
    want = math.sqrt(2 * 14_063 * math.log(2 / 1e-5)) * one + 14_063 * one * math.expm1(one)
    assert row.epsilon == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize(
    ("relation", "event"),
    [
        ("add-or-remove-one", poisson_gaussian(0.05, 20.0, 20_000)),
        ("replace-one", poisson_gaussian(0.05, 20.0, 20_000)),
        ("replace-one", poisson_gaussian(1.0, 20.0, 50)),
        (
            "replace-one",
            dpa.SelfComposedDpEvent(
                dpa.SampledWithoutReplacementDpEvent(1000, 50, dpa.GaussianDpEvent(20.0)), 20_000
            ),
        ),
    ],
)
def test_the_central_limit_is_near_where_it_should_be(relation, event):
    """Much noise, many steps: within a percent of the truth."""
    rows = {r.name: r.epsilon for r in accounting.bounds(event, 1e-5, relation=relation)}
    assert rows["Gaussian DP, central limit"] == pytest.approx(rows["PLD"], rel=0.01)


def test_ways_that_do_not_cover_an_event_are_left_out():
    names = [row.name for row in accounting.bounds(dpa.LaplaceDpEvent(1.0), 1e-5)]
    assert "Gaussian DP, central limit" not in names
    assert {"RDP", "PLD"} <= set(names)
    assert accounting.bounds(dpa.NoOpDpEvent(), 1e-5)[0].epsilon == 0
    with pytest.raises(InputError, match="no accountant covers"):
        accounting.bounds(dpa.UnsupportedDpEvent(), 1e-5)


def test_a_curve_that_one_grid_cannot_hold_has_steps_and_stays_a_bound(monkeypatch):
    # As for 1e8 steps, where delta by the common grid is 1 at every epsilon.
    event = accounting.poisson_gaussian(0.01, 1.0, 1000)
    epsilons = list(np.linspace(0, 4, 9))
    exact = accounting.profile(event, epsilons).delta
    monkeypatch.setattr(pld.losses, "profile_upper", lambda *_: [1.0] * 9)
    found = accounting.profile(event, epsilons[::-1]).delta[::-1]
    # Both are upper bounds, rounded otherwise where delta is next to nothing.
    assert np.all(found >= exact * (1 - 1e-3) - 1e-12)
    assert np.all(np.diff(found) <= 0)
    np.testing.assert_allclose(found[::2], exact[::2], rtol=1e-3, atol=1e-12)
    np.testing.assert_array_equal(found[1::2], found[:-1:2])
