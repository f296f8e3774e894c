"""Curves of true over false positives."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

import hushgrad as hg
from hushgrad.audit.picture import draw
from hushgrad.audit.roc import Roc
from hushgrad.errors import InputError

SIDE = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(SIDE, SIDE)
def test_curve_and_area_are_those_of_scikit_learn(members, others):
    roc = Roc.of(members, others)
    truth = [1] * len(members) + [0] * len(others)
    assert roc.auc == pytest.approx(roc_auc_score(truth, members + others), abs=1e-12)
    fpr, tpr, thresholds = roc_curve(truth, members + others, drop_intermediate=False)
    np.testing.assert_allclose(roc.false_positives, fpr)
    np.testing.assert_allclose(roc.true_positives, tpr)
    np.testing.assert_array_equal(roc.thresholds, thresholds)
    assert roc.advantage == pytest.approx(max(tpr - fpr))
    for interval, inside in [
        (roc.auc_interval(), roc.auc),
        (roc.advantage_interval(), roc.advantage),
        (roc.true_positives_interval(0.1), roc.true_positives_at(0.1)),
    ]:
        assert 0 <= interval[0] <= inside <= interval[1] <= 1


def test_tensorflow_privacys_example():
    roc = Roc.of(
        -np.array([0.1, 0.2, 1.3, 0.4, 0.5, 0.6]), -np.array([1.1, 1.2, 1.3, 0.4, 1.5, 1.6])
    )
    assert round(roc.auc, 2) == 0.83
    assert roc.positive_predictive_value == 1
    assert roc.advantage == pytest.approx(4 / 6)


def test_true_positives_at_a_share_of_others():
    roc = Roc.of([5, 4, 3, 1], [*range(-28, 0), 2, 6])
    # Of thirty others 0.1 is three.
    assert [roc.true_positives_at(x) for x in (0.0, 1 / 30, 2 / 30, 0.1, 1.0)] == [0, 0.75, 1, 1, 1]
    assert roc.threshold_at(1 / 30) == 3
    assert roc.positive_predictive_value == 0.75
    with pytest.raises(InputError, match="false_positives must lie in"):
        roc.true_positives_at(1.5)


def test_intervals_without_variance_are_still_intervals():
    low, high = Roc.of([1, 2, 3], [0, 0, 0]).auc_interval()
    assert (low, high) == (pytest.approx(0.025 ** (1 / 3)), 1)
    low, high = Roc.of([1.0], [1.0]).auc_interval()
    assert low < 0.05
    assert high > 0.95


@pytest.mark.parametrize("count", [40, 400])
def test_intervals_cover(count):
    rng = np.random.default_rng(count)
    auc, advantage = stats.norm.cdf(0.5**0.5), 2 * stats.norm.cdf(0.5) - 1
    hits, trials = np.zeros(2), 1000
    for _ in range(trials):
        roc = Roc.of(rng.normal(1, 1, count), rng.normal(0, 1, count))
        for place, (interval, truth) in enumerate(
            [(roc.auc_interval(0.9), auc), (roc.advantage_interval(0.9), advantage)]
        ):
            hits[place] += interval[0] <= truth <= interval[1]
    # Below for less than one seed in a million, if DeLong's approximation costs 2 % at most.
    assert hits[0] >= stats.binom.ppf(5e-7, trials, 0.88)
    assert hits[0] <= stats.binom.isf(5e-7, trials, 0.92)
    assert hits[1] >= stats.binom.ppf(5e-7, trials, 0.9)


def test_a_million_scores_are_quick():
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 500_000), rng.normal(0, 1, 500_000)
    start = time.process_time()
    roc = Roc.of(members, others)
    assert roc.auc_interval()[0] < stats.norm.cdf(0.5**0.5) + 0.01
    # Measured: 0.2 s.
    assert time.process_time() - start < 4


def test_picture_is_drawn(tmp_path):
    roc = Roc.of([3, 4, 5], [1, 2, 3])
    m = hg.dp_sgd(examples=100, batch_size=10, steps=5, delta=1e-3, noise_multiplier=1.0)
    draw({"loss": roc}, tmp_path / "a.png", promise=m)
    draw({"loss": roc}, tmp_path / "b.png", epsilon=1.0, delta=1e-5)
    draw({"loss": roc}, str(tmp_path / "c.svg"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "b.png").stat().st_size > 5000
    for kwargs, message in [
        ({"epsilon": -1.0}, "epsilon must be zero or more"),
        ({"epsilon": 1.0, "promise": m}, "exclude each other"),
    ]:
        with pytest.raises(InputError, match=message):
            draw({"loss": roc}, tmp_path / "d.png", **kwargs)
    with pytest.raises(InputError, match="at least, got none"):
        draw({}, tmp_path / "d.png")
    with pytest.raises(InputError, match="cannot be written"):
        draw({"loss": roc}, tmp_path / "missing" / "d.png")


def test_picture_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"hushgrad\[plot\]"):
        draw({"loss": Roc.of([1], [0])}, tmp_path / "a.png")
