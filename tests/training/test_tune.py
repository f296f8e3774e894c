"""The best of a random number of runs, accounted for as such."""

import json

import numpy as np
import optax
import pytest
from dp_accounting import dp_event, rdp
from jobs import loss, mechanism
from scipy import stats

import hushgrad as hg
from hushgrad import accounting
from hushgrad.errors import BudgetError, InputError, ResumeError

RATES = [0.0, 0.01, 0.1]


@pytest.fixture
def tune(tmp_path, params, data):
    """`hg.tune` over learning rates; scores count how far the parameters moved."""
    calls = []

    def trial(rate, directory, seed):
        calls.append((rate, directory))
        return hg.train(
            loss,
            params,
            data,
            mechanism(),
            optimizer=optax.sgd(rate),
            directory=directory,
            seed=seed,
        )

    def moved(run):
        return float(np.abs(np.asarray(run.params["w"]) - 1).sum())

    def call(**changes):
        settings = {
            "trial": trial,
            "candidates": RATES,
            "score": moved,
            "mechanism": mechanism(),
            "directory": tmp_path / "tuning",
            "mean": 6.0,
            "seed": 3,
        }
        return hg.tune(**{**settings, **changes})

    call.calls = calls
    return call


@pytest.mark.parametrize(("mean", "shape"), [(5.0, 1.0), (3.0, 0.0), (8.0, 0.5), (4.0, 3.0)])
def test_numbers_of_runs_have_their_distribution(mean, shape):
    """20,000 draws against the closed form: chi-squared, one false alarm in 1e6."""
    s = hg.Selection(mechanism(), mean, shape)
    rng = np.random.default_rng(7)
    draws = np.array([s.draw(rng) for _ in range(20_000)])
    assert draws.min() >= 1
    k = np.arange(1, 400)
    if shape:
        chances = stats.nbinom.pmf(k, shape, s.gamma) / (1 - s.gamma**shape)
    else:
        chances = stats.logser.pmf(k, 1 - s.gamma)
    # Sharp enough to tell a mean that is 5% off: the deviation is below 8 / sqrt(20,000).
    assert chances @ k == pytest.approx(mean, rel=1e-3)
    kept = chances * 20_000 >= 10
    seen = np.array([np.sum(draws == n) for n in k[kept]])
    expected = 20_000 * chances[kept]
    statistic = np.sum((seen - expected) ** 2 / expected)
    assert statistic < stats.chi2.isf(1e-6, kept.sum())


def test_it_costs_what_the_theorem_says():
    m = mechanism()
    s = hg.Selection(m, 10.0, 1.0)
    event = dp_event.RepeatAndSelectDpEvent(m.event, 10.0, 1.0)
    assert s.event == event
    assert s.epsilon() == accounting.epsilon(event, m.delta, "rdp")
    theirs = rdp.RdpAccountant().compose(event).get_epsilon(m.delta)
    assert s.epsilon() == pytest.approx(theirs, rel=1e-6)
    one = m.epsilon(accountant="rdp")
    assert one < s.epsilon() < 4 * one
    assert s.epsilon() < hg.Selection(m, 100.0).epsilon()
    assert s.after(0).epsilon() == 0
    assert json.loads(json.dumps(s.to_dict()))["runs"] == {"mean": 10.0, "shape": 1.0}


def test_the_best_is_released_and_nothing_else(tune, tmp_path):
    best = tune()
    assert len(tune.calls) > 3  # with this seed
    assert best.candidate == max(rate for rate, _ in tune.calls)
    assert best.score == pytest.approx(np.abs(np.asarray(best.params["w"]) - 1).sum(), rel=1e-6)
    assert best.epsilon == hg.Selection(mechanism(), 6.0).epsilon()
    text = " ".join(best.statement().split())
    assert f"epsilon = {best.epsilon:.4f} at delta = 0.001 for all of them together" in text
    # Neither how many there were nor what they gave is left.
    folder = tmp_path / "tuning"
    assert {p.name for p in folder.iterdir()} == {"best", "tuning.json", ".lock"}
    content = json.loads((folder / "tuning.json").read_text())
    assert content["scores"] == []
    # The same call gives the same and trains nothing.
    tune.calls.clear()
    again = tune()
    assert (again.candidate, again.score) == (best.candidate, best.score)
    np.testing.assert_array_equal(again.params["w"], best.params["w"])
    assert len(tune.calls) == 1


@pytest.mark.slow
def test_a_tuning_goes_on_after_a_crash(tune, tmp_path):
    whole = tune(directory=tmp_path / "whole")
    scored = []

    def dies(run):
        if len(scored) == 2:
            raise RuntimeError("killed")
        scored.append(float(np.abs(np.asarray(run.params["w"]) - 1).sum()))
        return scored[-1]

    with pytest.raises(RuntimeError, match="killed"):
        tune(score=dies)
    best = tune()
    assert (best.candidate, best.score) == (whole.candidate, whole.score)
    np.testing.assert_array_equal(best.params["w"], whole.params["w"])


def test_without_a_seed_chance_is_the_systems(tune, tmp_path):
    counts = []
    for name in "abcd":
        before = len(tune.calls)
        tune(seed=None, directory=tmp_path / name, mean=1.5)
        counts.append(len(tune.calls) - before)
    assert all(count >= 2 for count in counts)  # each trial, and the best once more


def test_it_is_held_by_a_budget(tune, tmp_path):
    url = f"sqlite:///{tmp_path / 'b.sqlite'}"
    cost = hg.Selection(mechanism(), 6.0).epsilon()
    budget = hg.Budget("b", 1.01 * cost, 1e-3, url=url)
    tune(budget=budget)
    (run,) = budget.runs
    assert run.status == "finished"
    assert budget.epsilon_held == pytest.approx(cost, rel=1e-9)
    with pytest.raises(BudgetError):
        tune(budget=budget, directory=tmp_path / "second")
    small = hg.Budget("small", cost / 2, 1e-3, url=url)
    tune.calls.clear()
    with pytest.raises(BudgetError, match="It holds 0 of the run's 1 steps"):
        tune(budget=small, directory=tmp_path / "third")
    assert not tune.calls
    assert not (tmp_path / "third" / "tuning.json").exists()


def test_a_trial_must_use_what_is_accounted_for(tune, params, data):
    def other(rate, directory, seed):
        return hg.train(
            loss,
            params,
            data,
            mechanism(steps=13),
            optimizer=optax.sgd(rate),
            directory=directory,
            seed=seed,
        )

    with pytest.raises(InputError, match="trial must train with the mechanism"):
        tune(trial=other)
    with pytest.raises(InputError, match=r"trial must return what hg\.train gives"):
        tune(trial=lambda *_: None)


def test_a_trial_for_another_unit(tune):
    """Examples are clipped one by one there; that promises nothing to users."""
    with pytest.raises(InputError, match="trial must train with the mechanism"):
        tune(mechanism=mechanism(unit="user"))


def test_a_selection_is_no_run_and_has_no_run_s_statement(params, data, tmp_path):
    """What one of its runs promises is less than what all of them cost."""
    s = hg.Selection(mechanism(), 6.0)
    assert not hasattr(s, "statement")
    assert s.unit == "example"
    assert s.delta_at(s.epsilon()) == pytest.approx(s.delta, rel=1e-3)
    with pytest.raises(InputError, match="mechanism must come from"):
        hg.train(loss, params, data, s, optimizer=optax.sgd(0.1), directory=tmp_path / "run")
    with pytest.raises(InputError, match="mechanism must come from"):
        hg.Selection(s, 6.0)


def test_another_tuning_in_its_place(tune):
    tune()
    for changed in ({"mean": 7.0}, {"candidates": RATES[:2]}, {"seed": None}):
        with pytest.raises(ResumeError, match="holds another tuning"):
            tune(**changed)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mean": 1.0}, "mean must be above 1"),
        ({"shape": -1.0}, "shape must be a positive"),
        ({"candidates": []}, "candidates must not be empty"),
        ({"mechanism": "m"}, "mechanism must come from"),
    ],
)
def test_arguments_that_are_none(tune, wrong, told):
    with pytest.raises(InputError, match=told):
        tune(**wrong)
