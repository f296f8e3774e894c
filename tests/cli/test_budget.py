"""`hushgrad budget`, as somebody in charge would use it."""

import json
import sqlite3

import pytest
from typer.testing import CliRunner

import hushgrad as hg
from hushgrad.cli.app import app
from hushgrad.errors import BudgetError, InputError, LedgerError


@pytest.fixture
def url(tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path / 'b.sqlite'}"
    monkeypatch.setenv("HUSHGRAD_BUDGETS", address)
    return address


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["budget", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def reserve(url, name="x", steps=100):
    budget = hg.Budget("hospital", url=url)
    m = hg.dp_sgd(examples=1000, batch_size=50, steps=steps, delta=1e-5, noise_multiplier=2.0)
    held = budget.reserve(m, name, directory="/runs/one")
    held.charge(20)
    return m


def test_from_making_one_to_closing_a_dead_run(url):
    text = run("create", "hospital", "--epsilon", "3", "--delta", "1e-5")
    assert "hospital: epsilon 0 of 3 held at delta 1e-05" in text
    assert run("create", "hospital", "--epsilon", "3", "--delta", "1e-5") == text
    m = reserve(url)
    text = run("show", "hospital")
    share = m.epsilon() / 3
    assert f"epsilon {m.epsilon():.4g} of 3" in text
    assert f"{'#' * round(40 * share)}." in text
    assert "1 run, 1 open" in text
    text = run("runs", "hospital")
    assert "20 of 100 steps charged" in text
    assert "/runs/one" in text
    head = json.loads(run("show", "hospital", "--json"))["head"]
    text = run("close", "hospital", "x")
    assert f"epsilon {m.epsilon():.4g} held before, {m.epsilon(steps=20):.4g} now" in text
    assert "4 rows" in run("verify", "hospital", "--head", head)
    facts = json.loads(run("runs", "hospital", "--json"))
    assert [(r["name"], r["status"], r["charged"]) for r in facts] == [("x", "closed", 20)]


def test_it_fits_a_terminal(url):
    run("create", "hospital", "--epsilon", "3", "--delta", "1e-5")
    reserve(url)
    for command in (["show", "hospital"], ["runs", "hospital"], ["verify", "hospital"]):
        assert max(len(line) for line in run(*command).splitlines()) <= 80


def test_no_run_yet(url):
    run("create", "hospital", "--epsilon", "3", "--delta", "1e-5")
    assert run("runs", "hospital") == "No run holds anything of 'hospital'.\n"


def test_mistakes(url, tmp_path):
    with pytest.raises(InputError, match="there is no budget 'hospital'"):
        run("show", "hospital")
    run("create", "hospital", "--epsilon", "3", "--delta", "1e-5")
    with pytest.raises(BudgetError, match=r"made with epsilon=3\.0"):
        run("create", "hospital", "--epsilon", "4", "--delta", "1e-5")
    with pytest.raises(InputError, match="must name one open run"):
        run("close", "hospital", "x")
    reserve(url, "aa")
    reserve(url, "ab")
    with pytest.raises(InputError, match=r"must name one open run \(aa, ab\), got 'a'"):
        run("close", "hospital", "a")
    with sqlite3.connect(tmp_path / "b.sqlite") as database:
        database.execute("update entries set content = replace(content, '20', '19')")
    with pytest.raises(LedgerError, match="somebody changed the ledger"):
        run("verify", "hospital")


def test_training_under_a_budget(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("create", "hospital", "--epsilon", "2.2", "--delta", "1e-5")
    short = ["train", "digits", "--epochs", "0.5", "--budget", "hospital", "--epsilon", "2"]
    done = CliRunner().invoke(app, [*short, "--directory", "a"])
    assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(app, [*short, "--directory", "b"])
    assert isinstance(refused.exception, BudgetError)
    assert "1 run, 0 open" in run("show", "hospital")
    monkeypatch.delenv("HUSHGRAD_BUDGETS")
    result = CliRunner().invoke(app, ["train", "digits", "--budget-url", url])
    assert "needs --budget" in str(result.exception)
