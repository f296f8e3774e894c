"""`hushgrad report` and `hushgrad compare` in a terminal, after `hushgrad train`."""

import json
import stat
import sys

import numpy as np
import pytest
from reported import one_row_changed
from typer.testing import CliRunner

import hushgrad as hg
from hushgrad.cli import main
from hushgrad.cli.app import app
from hushgrad.errors import InputError
from hushgrad.summaries import Histograms

QUICK = ["--epochs", "2", "--noise-multiplier", "1"]


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "digits"
    done = call("train", "digits", *QUICK, "--directory", place)
    assert done.exit_code == 0, done.output
    assert "metrics.jsonl" in done.output
    assert max(map(len, done.output.splitlines())) <= 80 or str(place) in done.output
    return place


def test_a_run_of_the_command_is_reported_whole(digits, tmp_path):
    file = tmp_path / "report.html"
    done = call("report", digits, "-o", file)
    assert done.exit_code == 0, done.output
    result = json.loads((digits / "result.json").read_text())
    assert f"Finished: epsilon {result['epsilon']:.4f} at delta 1e-05" in done.output
    assert "not for publication" in done.output
    text = file.read_text()
    for shown in (
        f"{result['epsilon']:.4f}",
        "Training loss",
        "Signal to noise",
        "Score over the steps",
        f"{100 * result['test_accuracy']:.1f} %",
        str(digits),
    ):
        assert shown in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["score"] == result["test_accuracy"]
    assert stat.S_IMODE((digits / "metrics.jsonl").stat().st_mode) == 0o600


def test_what_may_be_published(digits, tmp_path):
    file = tmp_path / "public.html"
    done = call("report", digits, "--public", "-o", file)
    assert done.exit_code == 0
    assert "may be published" in done.output
    text = file.read_text()
    assert "Score over the steps" in text  # the test images are public
    final = hg.report.facts(digits, public=True)["accuracy"]["final"]
    assert final["score"] == json.loads((digits / "result.json").read_text())["test_accuracy"]
    assert "Training loss" not in text
    assert str(digits) not in text
    assert stat.S_IMODE(file.stat().st_mode) != 0o600


def test_json_prints_the_facts(digits):
    assert json.loads(call("report", digits, "--json").stdout) == hg.report.facts(digits)
    public = call("report", digits, "--json", "--public", "--title", "x").stdout
    assert json.loads(public) == hg.report.facts(digits, public=True, title="x")


def test_a_broken_ledger_is_status_1_and_still_reported(digits, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for part in ("run.json", "ledger.sqlite"):
        (damaged / part).write_bytes((digits / part).read_bytes())
    one_row_changed(damaged)
    done = call("report", damaged, "-o", tmp_path / "report.html")
    assert done.exit_code == 1
    assert "error: the ledger cannot be trusted" in done.output
    assert "Not to be signed" in (tmp_path / "report.html").read_text()
    assert call("report", damaged, "--json").exit_code == 1
    side = call("compare", damaged, digits)
    assert side.exit_code == 1
    assert "NOT TRUSTED" in side.output


@pytest.mark.parametrize("command", ["report", "compare"])
def test_no_run_is_a_message_and_status_2(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "argv", ["hushgrad", command, str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: run must be the directory of a run")


def test_files_that_cannot_be_written(digits, tmp_path):
    for command in ("report", "compare"):
        done = call(command, digits, "-o", tmp_path / "none" / "x.html")
        assert isinstance(done.exception, InputError)
        assert "cannot be written" in str(done.exception)


def test_runs_side_by_side_in_eighty_columns(digits, tmp_path):
    long = tmp_path / "[bold]a name that is far too long for a table of eighty columns"
    assert call("train", "digits", *QUICK[:-1], "20", "--directory", long).exit_code == 0
    done = call("compare", digits, long, "-o", tmp_path / "compare.html")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(len(line) for line in lines if "compare.html" not in line) <= 80
    assert "[bold]a name" in done.output
    for place in (digits, long):
        result = json.loads((place / "result.json").read_text())
        assert f"{result['epsilon']:.4f}" in done.output
        assert f"{result['test_accuracy']:.2%}" in done.output
    assert "What privacy cost" in (tmp_path / "compare.html").read_text()
    told = json.loads(call("compare", digits, long, "--json", "--delta", 1e-6).stdout)
    assert told == hg.report.comparison([digits, long], delta=1e-6)
    assert told["runs"][0]["delta"] == 1e-6


def crash(*arguments):
    raise ZeroDivisionError


def test_a_table_with_an_estimated_schema(tmp_path, monkeypatch):
    """What the estimate cost is counted, also before the run has ended and written its result."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    rows = [f"{a:.3f},{b:.3f},{'yes' if a > 0 else 'no'}" for a, b in x]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,label", *rows]))
    data, cost = (
        tmp_path / "train.csv",
        Histograms.of(examples=300, columns=2, epsilon=0.5, delta=1e-3),
    )
    number = 'kind = "number"\nbounds = [-3, 3]\n'
    (tmp_path / "train.toml").write_text(
        f'label = "label"\n[columns.a]\n{number}[columns.b]\n{number}'
        '[columns.label]\nkind = "category"\ncategories = ["no", "yes"]\n'
        '[spent]\nid = "x"\nepsilon = 0.5\ndelta = 1e-3\nseeded = true\n'
        f"mechanism = '{json.dumps(cost.to_dict())}'\n"
    )
    settings = ("--steps", 10, "--epsilon", 2, "--delta", 1e-3)
    place = tmp_path / "run"
    test = ("--test-data", tmp_path / "test.csv", "--directory", place)
    command = ("train", "table", "--data", data, *test, *settings)
    with monkeypatch.context() as patched:
        patched.setattr("hushgrad.cli.table._write", crash)
        assert isinstance(call(*command).exception, ZeroDivisionError)
    before = hg.report.facts(place)["privacy"]["epsilon"]
    assert not (place / "result.json").exists()
    done = call(*command)
    assert done.exit_code == 0, (done.output, done.exception)
    told, result = hg.report.facts(place), json.loads((place / "result.json").read_text())
    assert told["privacy"]["epsilon"] == result["epsilon"] == before
    assert told["privacy"]["counted_with"] == "the estimate of bounds that came before it"
    assert told["run"]["seeded"]  # that of the schema was
    # Scored on records that nobody said to be public.
    assert told["accuracy"]["final"]["score"] == result["test_accuracy"]
    assert hg.report.facts(place, public=True)["accuracy"] is None
