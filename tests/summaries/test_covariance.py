"""Second moments of pairs of channels: sensitivity, noise, accuracy, charges; whitening."""

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad import Budget
from hushgrad.errors import BudgetError, InputError
from hushgrad.summaries import Covariance, covariance, whitening
from hushgrad.summaries.covariance import _matrix, _sums


def mechanism(examples=500, channels=3, noise_multiplier=5.0):
    return Covariance(
        examples=examples, channels=channels, noise_multiplier=noise_multiplier, delta=1e-5
    )


@given(
    st.lists(st.floats(width=32) | st.just(np.inf), min_size=12, max_size=12),
    st.floats(1e-3, 1e3),
)
@settings(max_examples=80, deadline=None)
def test_no_record_moves_the_sums_by_more_than_one_clip(record, clip):
    record = np.array(record, np.float32).reshape(1, 3, 4)
    others = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    moved = _sums(np.concatenate([others, record]), clip) - _sums(others, clip)
    assert np.all(np.isfinite(moved))
    # float32 sums of three records, in units of the clip: within a millionth.
    assert np.linalg.norm(moved) <= 1 + 1e-6


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_entries_are_the_matrix_and_have_its_norm(channels, places, seed):
    values = np.random.default_rng(seed).normal(size=(1, channels, places)).astype(np.float32)
    outer = values[0].astype(np.float64) @ values[0].astype(np.float64).T / places
    clip = 2 * float(np.linalg.norm(outer))
    entries = _sums(values, clip)
    assert entries.shape == (channels * (channels + 1) // 2,)
    np.testing.assert_allclose(clip * _matrix(entries, channels), outer, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(entries) == pytest.approx(0.5, rel=1e-5)


def test_a_long_record_reaches_the_clip_and_no_more():
    entries = _sums(np.full((1, 3, 4), 9.0), 0.5)
    assert np.linalg.norm(entries) == pytest.approx(1, rel=1e-5)
    assert np.linalg.norm(entries) <= 1


def test_noise_has_the_deviation_that_is_charged():
    # Zeros of 200 channels: what is released is noise. Before eigenvalues are cut off, 19,900
    # numbers above the diagonal: their sample deviation is within 4 / sqrt(39,800) = 2 % but for
    # a chance below 1e-4.
    seen = []
    real = covariance.__globals__["_matrix"]
    m = mechanism(examples=1000, channels=200, noise_multiplier=20.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            covariance.__globals__, "_matrix", lambda e, c: seen.append(real(e, c)) or seen[-1]
        )
        found = covariance(np.zeros((1000, 200)), m, clip=7.0, seed=1)
    above = seen[0][np.triu_indices(200, 1)]
    assert np.std(above) == pytest.approx(20.0 / np.sqrt(2), rel=0.02)
    # 200 of them, within 4 / sqrt(400).
    assert np.std(np.diag(seen[0])) == pytest.approx(20.0, rel=0.2)
    # In what is returned, in the units of the values: half of its eigenvalues are left.
    largest = 2 * np.sqrt(200 / 2) * 20.0 * 7.0 / 1000
    assert np.linalg.eigvalsh(found).max() == pytest.approx(largest, rel=0.1)
    assert np.linalg.eigvalsh(found).min() > -1e-9


def test_estimates_are_near_the_truth():
    rng = np.random.default_rng(0)
    truth = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
    values = np.swapaxes(rng.normal(size=(20_000, 5, 3)) @ np.linalg.cholesky(truth).T, 1, 2)
    # Noise on the diagonal: 10 * 5 / 20,000 = 0.0025; sampling 0.0045.
    found = covariance(values, mechanism(examples=20_000), clip=10.0, seed=2)
    np.testing.assert_allclose(found, truth, atol=0.03)
    np.testing.assert_array_equal(found, found.T)


def test_two_releases_have_noise_of_their_own():
    values, m = np.zeros((500, 3), np.float32), mechanism()
    first, second = (covariance(values, m, clip=1.0) for _ in range(2))
    assert not np.allclose(first, second)


def test_epsilon_is_that_of_the_gaussian_mechanism():
    m = mechanism(noise_multiplier=2.0)
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(2.0))
    assert m.epsilon() == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert m.after(0).epsilon() == 0.0
    with pytest.raises(InputError, match="got steps=0"):
        covariance(np.zeros((500, 3)), m.after(0), clip=1.0)


def test_it_is_charged_before_its_noise_is_drawn(tmp_path, monkeypatch):
    budget = Budget("images", epsilon=1.5, delta=1e-5, url=f"sqlite:///{tmp_path / 'ledger.db'}")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(covariance.__globals__, "with_noise", crash)
    with pytest.raises(KeyboardInterrupt):
        covariance(np.zeros((500, 3)), mechanism(), clip=1.0, budget=budget)
    assert budget.epsilon_held == pytest.approx(mechanism().epsilon(), rel=1e-2)
    with pytest.raises(BudgetError):
        covariance(np.zeros((500, 3)), mechanism(noise_multiplier=0.5), clip=1.0, budget=budget)


@pytest.mark.parametrize(
    ("shape", "clip", "said"),
    [
        ((499, 3), 1.0, "values must be numbers of shape \\[500, 3, ...\\]"),
        ((500, 2, 4), 1.0, "of \\[500, 2, 4\\]"),
        ((500, 3, 0), 1.0, "of \\[500, 3, 0\\]"),
        ((500, 3), 0.0, "clip must be"),
        ((500, 3), "a", "clip must be"),
    ],
)
def test_what_is_not_accounted_for_is_refused(shape, clip, said):
    with pytest.raises(InputError, match=said):
        covariance(np.zeros(shape), mechanism(), clip=clip)


@pytest.mark.parametrize("name", ["examples", "channels", "noise_multiplier", "delta"])
def test_arguments_out_of_range_are_named(name):
    given = {"examples": 5, "channels": 3, "noise_multiplier": 1.0, "delta": 1e-5, name: 0}
    with pytest.raises(InputError, match=name):
        Covariance(**given)


def test_whitened_channels_are_uncorrelated_and_small_directions_stay_small():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    truth = (turn * np.array([10.0, 1.0, 0.1, 0.0])) @ turn.T
    exact = whitening(truth, ridge=1e-9)
    made = exact @ truth @ exact.T
    # Three directions are alike, and the fourth is none; the mean variance is one.
    np.testing.assert_allclose(np.linalg.eigvalsh(made), [0, 4 / 3, 4 / 3, 4 / 3], atol=1e-6)
    softly = whitening(truth, ridge=1.0)
    np.testing.assert_array_equal(softly, softly.T)
    left = np.linalg.eigvalsh(softly @ truth @ softly.T)
    np.testing.assert_allclose(left / left[-1], np.array([0, 1.1 / 11, 1.1 / 2, 1]), atol=1e-9)
    assert np.trace(softly @ truth @ softly.T) == pytest.approx(4)


@pytest.mark.parametrize(
    ("matrix", "ridge", "said"),
    [
        (np.zeros((2, 3)), 1.0, "covariance must be a finite square matrix"),
        (np.full((2, 2), np.nan), 1.0, "covariance must be a finite square matrix"),
        (np.eye(2), 0.0, "ridge must be"),
    ],
)
def test_what_cannot_be_whitened_is_refused(matrix, ridge, said):
    with pytest.raises(InputError, match=said):
        whitening(matrix, ridge)
