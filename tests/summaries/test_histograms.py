"""Noisy histograms: what they cost, how much noise they have, and which names they show."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats

import hushgrad as hg
from hushgrad.accounting import from_plain, to_plain
from hushgrad.errors import BudgetError, InputError
from hushgrad.summaries import Counts, Histograms, survey


def histograms(**changed):
    facts = {"examples": 1000, "columns": 3, "epsilon": 0.5, "delta": 1e-5}
    return Histograms.of(**{**facts, **changed})


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 5.0])
def test_the_noise_keeps_epsilon_and_is_the_least(epsilon):
    h = histograms(epsilon=epsilon)
    assert 0.98 * epsilon < h.epsilon() <= epsilon
    # The analytic Gaussian mechanism (Balle and Wang 2018).
    at = h.noise_multiplier
    below, above = 1 / (2 * at) - epsilon * at, -1 / (2 * at) - epsilon * at
    delta = stats.norm.cdf(below) - math.exp(epsilon) * stats.norm.cdf(above)
    assert delta == pytest.approx(1e-5, rel=0.1)
    assert delta <= 1e-5


def test_a_record_moves_all_counts_together_by_the_root_of_the_columns():
    record = [Counts.of_numbers(np.array([v])) for v in (17.0, -1e300, 0.0)]
    moved = np.concatenate([column.numbers for column in record])
    h = histograms()
    assert np.linalg.norm(moved) == pytest.approx(math.sqrt(3))
    assert h.stddev == pytest.approx(h.noise_multiplier * np.linalg.norm(moved))


def test_a_text_counts_once_as_a_number_or_as_a_name():
    for text in ("17", "x", "nan", "inf", "1e400", "", None):
        column = Counts.of_texts([text])
        assert column.numbers.sum() + sum(column.names.values()) == (text is not None)


def test_every_count_has_normal_noise_of_the_stated_size():
    """A Kolmogorov-Smirnov test; a right one fails for one seed in a million."""
    h = histograms()
    noisy = survey([Counts.of_numbers(np.zeros(0))] * 3, h, seed=7)
    values = np.concatenate([column.numbers for column in noisy])
    assert len(values) > 1500
    assert stats.kstest(values / h.stddev, "norm").pvalue > 1e-6


def test_no_two_releases_share_their_noise():
    h, columns = histograms(), [Counts.of_numbers(np.zeros(5))] * 3
    first, second = (survey(columns, h)[0].numbers for _ in range(2))
    assert not np.any(first == second)


def test_a_seeded_run_of_the_same_seed_has_other_noise():
    from hushgrad.training.secret import RunSecret

    secret = RunSecret.from_seed(3)
    key = np.frombuffer(secret.derive("summary", 0), "<u4")
    assert not any(np.array_equal(key, secret.noise_key(step)) for step in range(100))


def test_names_are_shown_above_the_threshold_only():
    h = histograms(named=3)
    names = {"many": 10_000, **{f"rare {n}": 1 for n in range(2000)}}
    column = Counts(np.zeros(667), names)
    shown = survey([column] * 3, h, seed=1)
    assert [list(noisy.names) for noisy in shown] == [["many"]] * 3
    assert all(noisy.names["many"] > h.threshold for noisy in shown)


def test_a_name_that_one_record_has_is_shown_with_the_stated_probability():
    h = histograms(named=2)
    alone = stats.norm.sf((h.threshold - 1) / h.stddev)
    assert 1 - (1 - alone) ** 2 <= h.chance
    assert h.chance <= 0.1 * h.delta
    assert histograms().chance == 0


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 8.0])
def test_names_cost_what_they_may_tell(epsilon):
    """Against the hockey-stick divergence of the mixture, which tells all with that chance."""
    h = histograms(named=2, epsilon=epsilon)
    gauss = dp_accounting.GaussianDpEvent(h.noise_multiplier)
    assert h.epsilon() <= epsilon
    for at in (0.0, epsilon / 2, epsilon, 2 * epsilon):
        hidden = hg.accounting.delta(gauss, at - math.log1p(-h.chance))
        exact = h.chance + (1 - h.chance) * hidden
        assert 0.999999 * exact <= h.delta_at(at) <= 1.05 * exact


def test_one_that_was_stopped_costs_nothing_and_events_survive_a_ledger():
    for h in (histograms(), histograms(named=1)):
        assert h.epsilon(steps=0) == 0
        assert from_plain(to_plain(h.event)) == h.event
        assert Histograms(**h.to_dict()["histograms"]) == h


def test_it_is_charged_before_its_noise_is_drawn(tmp_path, monkeypatch):
    budget = hg.Budget("b", 1.0, 1e-5, url=f"sqlite:///{tmp_path / 'b'}")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hushgrad.summaries.release.with_noise", crash)
    with pytest.raises(KeyboardInterrupt):
        survey([Counts.of_numbers(np.zeros(5))] * 3, histograms(), budget=budget)
    assert budget.runs[0].charged == 1
    assert budget.epsilon_held == pytest.approx(0.5, rel=0.02)


def test_a_budget_without_room_for_what_follows_spends_nothing(tmp_path):
    budget = hg.Budget("b", 1.0, 1e-5, url=f"sqlite:///{tmp_path / 'b'}")
    m = hg.dp_sgd(examples=1000, batch_size=100, steps=10, delta=1e-5, epsilon=0.99)
    columns = [Counts.of_numbers(np.zeros(5))] * 3
    with pytest.raises(BudgetError, match="holds this release, but then only 7 of the 10"):
        survey(columns, histograms(), budget=budget, then=m)
    assert budget.epsilon_held == 0
    survey(columns, histograms(epsilon=0.01), budget=budget, then=m)


@pytest.mark.parametrize(
    "facts",
    [
        {"examples": 0},
        {"columns": 0},
        {"epsilon": 0.0},
        {"delta": 1.0},
        {"named": 4},
        {"named": -1},
    ],
)
def test_what_is_out_of_range_is_refused(facts):
    with pytest.raises(InputError):
        histograms(**facts)


def test_other_columns_than_accounted_for_are_refused():
    for columns in ([Counts.of_numbers(np.zeros(1))] * 2, [Counts.of_texts(["a"])] * 3):
        with pytest.raises(InputError, match="columns must be 3"):
            survey(columns, histograms())
