"""Means and deviations of channels: sensitivity, noise, accuracy, charges."""

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad import Budget
from hushgrad.errors import BudgetError, InputError
from hushgrad.summaries import Moments, moments
from hushgrad.summaries.moments import _sums


def mechanism(examples=500, channels=3, noise_multiplier=5.0):
    return Moments(
        examples=examples, channels=channels, noise_multiplier=noise_multiplier, delta=1e-5
    )


@given(
    st.lists(st.floats(-1e6, 1e6, width=32) | st.just(np.inf), min_size=12, max_size=12),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_record_moves_the_sums_by_more_than_noise_is_made_for(record, missing):
    record = np.array(record, np.float32).reshape(1, 3, 4)
    if missing:
        record[0, 1] = np.nan
    others = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    m, middle, half = mechanism(channels=3), 0.5, 1.5
    moved = _sums(np.concatenate([others, record]), middle, half) - _sums(others, middle, half)
    assert np.all(np.isfinite(moved))
    # float32 sums of three records: within a millionth.
    assert np.linalg.norm(moved) <= m.stddev / m.noise_multiplier * (1 + 1e-6)


def test_the_largest_record_reaches_the_bound():
    m = mechanism(channels=3)
    most = _sums(np.full((1, 3, 4), 9.0), 0.0, 1.0)
    assert np.linalg.norm(most) == pytest.approx(m.stddev / m.noise_multiplier)


def test_noise_has_the_deviation_that_is_charged():
    # 400 channels of zeros: each noisy mean is noise / examples, in halves of the range. A sample
    # deviation of 400 normals is within 4 / sqrt(800) = 14 % but for a chance below 1e-4.
    m = mechanism(examples=100_000, channels=400, noise_multiplier=20.0)
    values = np.broadcast_to(np.float32(0), (100_000, 400))
    found = moments(values, m, low=-3.0, high=3.0, seed=1)
    assert np.std(found.mean) == pytest.approx(3.0 * m.stddev / 100_000, rel=0.14)
    assert m.stddev == pytest.approx(20.0 * np.sqrt(1.25 * 400))


def test_estimates_are_near_the_truth():
    rng = np.random.default_rng(0)
    mean, deviation = np.array([-1.0, 0.0, 0.7]), np.array([0.2, 0.5, 0.9])
    values = rng.normal(size=(20_000, 3, 5)) * deviation[:, None] + mean[:, None]
    m = mechanism(examples=20_000)
    found = moments(values.astype(np.float32), m, low=-4.0, high=4.0, seed=2)
    # Noise on a mean: 5 * sqrt(3.75) * 4 / 20,000 = 0.002; on a mean square 0.008.
    np.testing.assert_allclose(found.mean, mean, atol=0.02)
    np.testing.assert_allclose(found.deviation, deviation, atol=0.05)


def test_a_variance_that_noise_hides_is_not_divided_by():
    # 200 channels that stay: half of their estimates are below zero.
    m = mechanism(channels=200)
    found = moments(np.zeros((500, 200), np.float32), m, low=-3.0, high=3.0, seed=3)
    assert np.all(found.deviation >= 3.0 * np.sqrt(m.stddev / 500) * (1 - 1e-9))


def test_two_releases_have_noise_of_their_own():
    values, m = np.zeros((500, 3), np.float32), mechanism()
    first, second = (moments(values, m, low=-1.0, high=1.0) for _ in range(2))
    assert np.all(first.mean != second.mean)


def test_epsilon_is_that_of_the_gaussian_mechanism():
    m = mechanism(noise_multiplier=2.0)
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(2.0))
    assert m.epsilon() == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert m.after(0).epsilon() == 0.0


def test_a_budget_is_charged_or_nothing_is_released(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    budget = Budget("images", epsilon=1.0, delta=1e-5, url=url)
    values, m = np.zeros((500, 3), np.float32), mechanism(noise_multiplier=10.0)
    moments(values, m, low=-1.0, high=1.0, budget=budget)
    assert budget.epsilon_held == pytest.approx(m.epsilon(), rel=1e-2)
    held = budget.epsilon_held
    with pytest.raises(BudgetError):
        moments(values, mechanism(noise_multiplier=0.5), low=-1.0, high=1.0, budget=budget)
    with pytest.raises(BudgetError, match="holds this release, but then only 0"):
        moments(values, m, low=-1.0, high=1.0, budget=budget, then=mechanism(noise_multiplier=1.0))
    assert budget.epsilon_held == pytest.approx(held)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((499, 3), {}, "values must be numbers of shape \\[500, 3, ...\\]"),
        ((500, 2, 4), {}, "of \\[500, 2, 4\\]"),
        ((500, 3, 0), {}, "of \\[500, 3, 0\\]"),
        ((500,), {}, "values must be numbers of shape"),
        ((500, 3), {"low": 1.0, "high": 1.0}, "low must be below high"),
        ((500, 3), {"low": 0.0, "high": np.nan}, "high must be a finite number"),
        ((500, 3), {"low": "a"}, "low must be a finite number"),
    ],
)
def test_what_is_not_accounted_for_is_refused(shape, given, said):
    with pytest.raises(InputError, match=said):
        moments(np.zeros(shape), mechanism(), **{"low": -1.0, "high": 1.0, **given})


def test_it_is_charged_before_its_noise_is_drawn(tmp_path, monkeypatch):
    budget = Budget("images", epsilon=5.0, delta=1e-5, url=f"sqlite:///{tmp_path / 'ledger.db'}")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(moments.__globals__, "with_noise", crash)
    with pytest.raises(KeyboardInterrupt):
        moments(np.zeros((500, 3)), mechanism(), low=-1.0, high=1.0, budget=budget)
    assert budget.runs[0].charged == 1
    assert budget.epsilon_held == pytest.approx(mechanism().epsilon(), rel=1e-2)


def test_a_release_that_was_stopped_costs_nothing_and_is_not_made():
    with pytest.raises(InputError, match="got steps=0"):
        moments(np.zeros((500, 3)), mechanism().after(0), low=-1.0, high=1.0)


def test_values_are_numbers_in_an_array_or_in_lists():
    m = mechanism(examples=2, channels=1)
    with pytest.raises(InputError, match=r"must be numbers .* got <U1 of \[2, 1\]"):
        moments(np.array([["a"], ["b"]]), m, low=-1.0, high=1.0)
    found = [moments(x, m, low=-1, high=1, seed=1) for x in ([[0], [1]], np.array([[0], [1]]))]
    np.testing.assert_array_equal(found[0].mean, found[1].mean)


@pytest.mark.parametrize("name", ["examples", "channels", "noise_multiplier", "delta"])
def test_arguments_out_of_range_are_named(name):
    given = {"examples": 5, "channels": 3, "noise_multiplier": 1.0, "delta": 1e-5, name: 0}
    with pytest.raises(InputError, match=name):
        Moments(**given)
