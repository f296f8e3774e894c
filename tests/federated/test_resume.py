"""A server that is killed goes on in the round it was in, with the same norm and noise."""

import os

import jax
import numpy as np
import pytest
from clients import SIZES

import hushgrad as hg
from hushgrad.errors import BudgetError, LedgerError, ResumeError
from hushgrad.federated.session import Session

ALL = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES)}
KINDS = {
    "fixed": {},
    "adaptive": {"clip": hg.clip.Adaptive(count_stddev=3.0)},
    "tree": {"sampling": hg.sampling.Shuffle, "strategy": hg.noise.Tree()},
    "blt": {"sampling": hg.sampling.InOrder, "strategy": hg.noise.BLT},
    "banded": {"sampling": hg.sampling.CyclicPoisson(1.0, 4), "strategy": hg.noise.Banded},
}


@pytest.fixture
def of_kind(process, mechanism):
    def made(kind):
        if "strategy" not in KINDS[kind]:
            return process(KINDS[kind])
        plan = {"examples": 12, "batch_size": 3, "steps": 6, "clip": 0.5, "delta": 1e-2}
        m = hg.dp_ftrl(**plan, noise_multiplier=1.0, **KINDS[kind])
        return process(mechanism=m)

    return made


def budget_of(folder, epsilon):
    url = f"sqlite:///{folder}/budget.sqlite"
    return hg.Budget("clients", epsilon=epsilon, delta=1e-2, unit="user", url=url)


def whole(made, params, users, folder, seed=1):
    return made.run(users, params, directory=folder, seed=seed)


@pytest.mark.parametrize("when", ["charged", "released", "between"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_server_ends_as_if_it_had_not_been(
    of_kind, params, users, tmp_path, monkeypatch, kind, when
):
    wanted = whole(of_kind(kind), params, users, tmp_path / "whole").params
    made, folder = of_kind(kind), tmp_path / "killed"
    state = made.initialize(params, directory=folder, seed=1)
    for _ in range(2):
        state, _ = made.next(state, made.cohort(state, users))
    if when != "between":
        with monkeypatch.context() as patched:
            if when == "charged":  # and not released
                patched.setattr("hushgrad.federated.process.release", _killed)
            else:  # released, and not saved
                patched.setattr(Session, "save", _killed)
            with pytest.raises(Killed):
                made.next(state, made.cohort(state, users))
    made.close()
    found = of_kind(kind)
    again = found.initialize(params, directory=folder, seed=1)
    assert again.round == 2
    found.close()
    run = whole(of_kind(kind), params, users, folder)
    jax.tree.map(np.testing.assert_array_equal, run.params, wanted)
    assert run.steps == found.mechanism.steps


class Killed(BaseException):
    pass


def _killed(*_, **__):
    raise Killed


def test_a_round_that_cannot_be_made_again_is_lost(process, params, users, tmp_path, monkeypatch):
    """On a network other clients answer: their sum must not have the noise of the first."""
    made = process(ALL)
    state = made.initialize(params, directory=tmp_path, seed=1)
    cohort = made.cohort(state, users)
    with monkeypatch.context() as patched:
        patched.setattr("hushgrad.federated.process.release", _killed)
        with pytest.raises(Killed):
            made.next(state, cohort)
    made.close()
    found = process(ALL)
    state = found.initialize(params, directory=tmp_path, seed=1)
    after, metrics = found.next(state, {n: cohort[n] for n in list(cohort)[:5]})
    assert metrics.lost
    assert after.round == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, params)
    after, metrics = found.next(after, found.cohort(after, users))
    assert not metrics.lost
    assert found._sessions[after.run].charged == 2
    found.close()


def test_a_round_is_charged_before_its_noise_is_drawn(
    process, params, users, tmp_path, monkeypatch
):
    made = process(ALL)
    state = made.initialize(params, directory=tmp_path, seed=1)

    def full(*_):
        raise LedgerError("full")

    monkeypatch.setattr("hushgrad.training.ledger.Ledger.charge", full)
    monkeypatch.setattr("hushgrad.federated.process.release", _killed)
    with pytest.raises(LedgerError, match="full"):
        made.next(state, made.cohort(state, users))
    made.close()


def test_what_may_not_go_on(process, params, tmp_path):
    made = process()
    made.initialize(params, directory=tmp_path, seed=1)
    with pytest.raises(ResumeError, match="another process"):
        process().initialize(params, directory=tmp_path, seed=1)
    made.close()
    others = {
        "another mechanism": (process({"noise_multiplier": 2.0}), params, 1),
        "another loss, optimizer": (process(epochs=3), params, 1),
        "other starting parameters": (process(), jax.tree.map(lambda p: p + 1, params), 1),
        "another seed": (process(), params, 2),
        "with a seed": (process(), params, None),
    }
    for named, (other, start, seed) in others.items():
        with pytest.raises(ResumeError, match=named):
            other.initialize(start, directory=tmp_path, seed=seed)


def test_a_finished_run_is_found_and_its_secret_is_gone(process, params, users, tmp_path):
    first = whole(process(), params, users, tmp_path)
    assert not any(name.startswith("secret") for name in os.listdir(tmp_path))
    again = whole(process(), params, users, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    made = process()
    state = made.initialize(params, directory=tmp_path, seed=1)
    with pytest.raises(BudgetError, match="all 5 rounds"):
        made.sample(state)
    made.close()


def test_a_run_may_end_early(process, params, users, tmp_path):
    budget = budget_of(tmp_path, 100.0)
    made = process()
    state = made.initialize(params, directory=tmp_path / "run", budget=budget)
    held = budget.epsilon_held
    assert held == pytest.approx(made.mechanism.epsilon(), rel=1e-3)
    state, _ = made.next(state, made.cohort(state, users))
    run = made.finish(state)
    assert run.steps == 1
    assert run.epsilon < made.mechanism.epsilon()
    assert budget.epsilon_held < held
    assert run.export(tmp_path / "model.safetensors").exists()


def test_a_budget_must_hold_all_rounds(process, params, tmp_path):
    budget = budget_of(tmp_path, 0.1)
    with pytest.raises(BudgetError):
        process().initialize(params, budget=budget)
    assert budget.epsilon_held == 0


def test_in_memory_a_budget_is_charged_too(process, params, users, tmp_path):
    budget = budget_of(tmp_path, 100.0)
    run = process().run(users, params, budget=budget)
    assert [r.status for r in budget.runs] == ["finished"]
    assert run.epsilon == pytest.approx(budget.epsilon_held, rel=1e-3)
