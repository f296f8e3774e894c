"""What a report says is what the ledger and the accountants say."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import stat
import sys

import numpy as np
import pytest
from jobs import mechanism
from reported import trained

import hushgrad as hg
from hushgrad.errors import DataError, HushgradError, InputError


def rows(place):
    with contextlib.closing(sqlite3.connect(place / "ledger.sqlite")) as connection:
        return connection.execute("select number, kind, digest from entries order by 1").fetchall()


def test_numbers_are_those_of_the_accountants_and_the_ledger(finished):
    told, m = hg.report.facts(finished), mechanism()
    privacy, curves = told["privacy"], told["curves"]
    assert privacy["epsilon"] == m.epsilon() == finished.epsilon
    assert told["statement"] == finished.statement()
    assert curves["spent"]["steps"][0] == 0
    assert curves["spent"]["epsilon"] == [m.epsilon(steps=s) for s in curves["spent"]["steps"]]
    assert curves["profile"]["delta"] == m.profile().delta.tolist()
    shares = curves["trade_off"]["false_positive"]
    assert curves["trade_off"]["false_negative"] == m.trade_off(shares).false_negative.tolist()
    bounds = hg.accounting.bounds(m, m.delta)
    assert [row["epsilon"] for row in told["bounds"]] == [bound.epsilon for bound in bounds]
    assert told["mechanism"] == m.to_dict()
    assert told["trusted"]
    assert told["notices"] == []
    assert (told["run"]["state"], told["run"]["steps_charged"]) == ("finished", 12)
    assert told["run"]["seeded"] is False
    assert set(told["versions"]) == {"hushgrad", "jax", "numpy", "python"}
    assert told == hg.report.facts(str(finished.directory))
    # Plain, finite data: it goes through JSON as it is.
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_the_ledgers_rows_and_their_hash(finished):
    ledger, there = hg.report.facts(finished)["ledger"], rows(finished.directory)
    assert ledger["verified"]
    assert ledger["head"] == there[-1][2]
    assert ledger["rows"] == len(there)
    assert ledger["kinds"]["charge"] == 12
    groups = ledger["groups"]
    assert [one["last_row"] + 1 for one in groups[:-1]] == [one["first_row"] for one in groups[1:]]
    assert sum(one["last_row"] - one["first_row"] + 1 for one in groups) == len(there)


def test_what_was_logged_is_found_in_the_runs_directory(finished):
    told = hg.report.facts(finished)
    lines = (finished.directory / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    columns = told["unprotected"]
    assert columns["step"] == [2, 4, 6, 8, 10, 12]
    assert columns["loss"] == [line["unprotected"]["loss"] for line in lines]
    expected = [line["unprotected"]["sum_norm"] / line["noise_norm"] for line in lines]
    assert columns["signal_to_noise"] == pytest.approx(expected)
    assert columns["mean_norm"] == [line["unprotected"]["sum_norm"] / 12 for line in lines]
    assert all(0 <= share <= 1 for share in columns["clipped_share"])
    scores = told["accuracy"]["scores"]
    assert scores[0] == {"step": 2, "score": 0.5, "set": "public"}


def test_a_run_that_was_broken_off_tells_what_it_spent_so_far(broken_off):
    told, m = hg.report.facts(broken_off), mechanism()
    assert told["trusted"]
    assert (told["run"]["state"], told["run"]["steps_charged"]) == ("unfinished", 7)
    assert told["privacy"]["epsilon"] == m.epsilon(steps=7)
    assert told["privacy"]["epsilon_planned"] == m.epsilon()
    assert told["statement"] == hg.accounting.statement(m, steps=7)
    heads = [one["head"] for one in told["notices"]]
    assert heads == ["Unfinished", "The secret is still there"]
    assert told["unprotected"]["step"] == [2, 4, 6]


def test_a_run_that_goes_on_is_not_disturbed(tmp_path, monkeypatch):
    """Read from outside while its ledger is open; what was killed leaves the same files."""
    seen, place = [], tmp_path / "run"

    def look(progress):
        if progress.step != 6:
            return
        seen.append(hg.report.facts(place))
        shutil.copytree(place, tmp_path / "killed")
        (tmp_path / "killed" / "ledger.sqlite-shm").unlink()

    run = trained(place, log=look)
    assert run.steps == 12
    assert (place / "ledger.sqlite").exists()
    killed = tmp_path / "killed"
    assert (killed / "ledger.sqlite-wal").exists()
    for part in ("ledger.sqlite", "ledger.sqlite-wal"):
        (killed / part).chmod(0o444)
    killed.chmod(0o555)
    try:
        seen.append(hg.report.facts(killed))
    finally:
        killed.chmod(0o755)
    # As on a disk that is read-only, which root cannot be kept from writing to otherwise.
    monkeypatch.setattr("hushgrad.report.chain._readable", lambda file: False)
    seen.append(hg.report.facts(killed))
    for told in seen:
        assert told["trusted"]
        assert (told["run"]["state"], told["run"]["steps_charged"]) == ("unfinished", 6)
        assert told["privacy"]["epsilon"] == mechanism().epsilon(steps=6)


def test_a_report_writes_nothing_where_the_run_is(finished):
    def snapshot():
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in finished.directory.rglob("*")
        }

    before = snapshot()
    hg.report.facts(finished)
    hg.report.html(finished)
    assert snapshot() == before


def test_it_goes_on_after_a_resume(broken_off, copied):
    place = copied(broken_off)
    # It was moved: lines before and after say that it is elsewhere.
    run = trained(place)
    told = hg.report.facts(run)
    assert told["unprotected"]["step"] == [2, 4, 6, 8, 10, 12]
    assert told["run"]["state"] == "finished"
    assert not told["run"]["secret_is_there"]


def test_metrics_elsewhere_and_of_several_runs(finished, broken_off, tmp_path):
    file = tmp_path / "all.jsonl"
    both = [place / "metrics.jsonl" for place in (broken_off, finished.directory)]
    file.write_text("".join(part.read_text() for part in both) + '{"step": 14, "unpro')
    assert hg.report.facts(finished, metrics=file)["unprotected"]["step"][-1] == 12
    assert hg.report.facts(broken_off, metrics=file)["unprotected"]["step"][-1] == 6
    file.write_text('{"run": "a", "step": 1}\n{"run": "b", "step": 1}\n')
    with pytest.raises(DataError, match="has no lines of"):
        hg.report.facts(finished, metrics=file)
    file.write_text("no json\n{}\n")
    with pytest.raises(DataError, match="line 1 of"):
        hg.report.facts(finished, metrics=file)
    with pytest.raises(InputError, match="cannot be read"):
        hg.report.facts(finished, metrics=tmp_path / "none")


def test_a_seeded_run_says_so(tmp_path):
    told = hg.report.facts(trained(tmp_path / "run", seed=3))
    assert told["run"]["seeded"]
    assert told["notices"][0]["level"] == "alarm"
    assert "SEEDED" in told["statement"]


def test_who_chose_the_parameters_is_told_and_whose_scores_they_are(tmp_path):
    """A private set and a public one that write to the same file: all scores count as private."""
    sets = {"private": [False], "public": [True], "both": [False, True]}
    for name, public in sets.items():
        chosen = [hg.callbacks.Validation(lambda p: 0.75, public=p, every=3) for p in public]
        run = trained(tmp_path / name, callback=chosen)
        told = hg.report.facts(run)
        expected = "public" if name == "public" else "private"
        assert told["privacy"]["validation"] == expected
        assert {one["set"] for one in told["accuracy"]["scores"]} == {expected}
        seen = hg.report.facts(run, public=True)["accuracy"]
        assert (seen is None) == (expected == "private")


def test_a_schedule_and_an_early_end(tmp_path):
    def end(progress):
        if progress.step == 8:
            raise hg.StopTraining

    plan = hg.schedule(mechanism(steps=6), mechanism(steps=6, noise_multiplier=2.0))
    told = hg.report.facts(trained(tmp_path / "run", mechanism=plan, callback=end))
    assert told["run"]["state"] == "finished"
    assert told["privacy"]["epsilon"] == plan.epsilon(steps=8)
    assert "phase 2: noise" in hg.report.html(tmp_path / "run")


def test_noise_that_depends_on_other_steps(tmp_path):
    m = hg.dp_ftrl(
        examples=60, batch_size=12, steps=12, delta=1e-3, noise_multiplier=4.0,
        sampling=hg.sampling.Shuffle(12),
    )  # fmt: skip
    told = hg.report.facts(trained(tmp_path / "run", mechanism=m))
    assert told["privacy"]["epsilon"] == m.epsilon()
    assert set(told["unprotected"]["signal_to_noise"]) == {None}
    assert "Signal to noise" not in re.sub(r"<script.*", "", hg.report.html(tmp_path / "run"))


def test_no_steps_spend_nothing(tmp_path):
    def end(directory, start, params):
        raise KeyboardInterrupt

    log = lambda progress: None  # noqa: E731
    log.begin = end
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", log=log)
    told = hg.report.facts(tmp_path / "run")
    assert told["trusted"]
    assert told["privacy"]["epsilon"] == 0
    assert "nothing is spent" in told["statement"]
    assert "nothing is spent" in hg.report.html(tmp_path / "run")


def test_the_best_of_a_tuning_costs_what_the_tuning_did(tmp_path):
    def trial(rate, directory, seed):
        return trained(directory, seed=seed)

    best = hg.tune(trial, [1, 2], lambda run: 0.5, mechanism(), directory=tmp_path / "t", mean=2.0)
    for place in (tmp_path / "t", tmp_path / "t" / "best"):
        told = hg.report.facts(place)
        assert told["privacy"]["epsilon"] == best.epsilon > mechanism().epsilon()
        assert "The best of a random, secret number of runs" in told["statement"]
        assert "The best of a random" in hg.report.html(place)
    # Of a tuning that is under way no run is to be released.
    (tmp_path / "t" / "trials").mkdir()
    shutil.copytree(tmp_path / "t" / "best", tmp_path / "t" / "trials" / "0")
    with pytest.raises(InputError, match="releases its best run alone"):
        hg.report.facts(tmp_path / "t" / "trials" / "0")


def test_bounds_that_were_estimated_are_counted(tmp_path):
    from hushgrad.sklearn import DPLogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    model = DPLogisticRegression(
        epsilon=1.0, delta=1e-3, bounds_fraction=0.1, classes=[False, True], steps=10,
        directory=tmp_path / "fit",
    )  # fmt: skip
    model.fit(x, x[:, 0] > 0)
    told = hg.report.facts(tmp_path / "fit")
    assert told["privacy"]["epsilon"] == model.epsilon_
    assert "noisy histograms of 3 columns" in " ".join(told["statement"].split())
    assert told["curves"]["spent"]["epsilon"][0] > 0  # before the first step, too


def test_federated_runs(tmp_path):
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    users = hg.sampling.Users(np.repeat(np.arange(20), 3), (x, x[:, 0]))
    m = hg.dp_sgd(examples=20, batch_size=5, steps=4, delta=1e-2, noise_multiplier=1.0)
    process = hg.federated.fed_avg(
        lambda p, a, b: (a @ p - b) ** 2,
        client_optimizer=optax.sgd(0.1),
        server_optimizer=optax.sgd(1.0),
        mechanism=m,
        batch_size=3,
    )
    state = process.initialize(jnp.zeros(4), directory=tmp_path / "run")
    for _ in range(2):
        state, _ = process.next(state, process.cohort(state, users))
    process.close()
    told = hg.report.facts(tmp_path / "run")
    assert told["privacy"]["unit"] == "user"
    assert told["run"]["steps_charged"] == 2
    assert told["privacy"]["epsilon"] == process.mechanism.epsilon(steps=2)


def test_the_ledger_of_a_keras_model(tmp_path):
    pytest.importorskip("hushgrad.keras", reason="needs Keras: pip install 'hushgrad[keras]'")
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    file = tmp_path / "ledger.sqlite"
    private = hg.keras.privatize(model, clip=1.0, noise_multiplier=2.0, delta=1e-3, ledger=file)
    private.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    private.fit(x, x[:, :1], batch_size=12, epochs=1, verbose=0)
    told = hg.report.facts(file)
    assert told["privacy"]["epsilon"] == private.epsilon()
    assert told["run"]["seeded"] is None
    assert [one["head"] for one in told["notices"]] == ["Seed not recorded"]
    assert "not recorded whether from a seed" in hg.report.html(file)
    private.fit(x, x[:, :1], batch_size=6, epochs=1, verbose=0)
    with pytest.raises(InputError, match="training must name one of those"):
        hg.report.facts(file)
    first = hg.report.facts(file, training=told["run"]["id"][:8])
    assert first["privacy"]["epsilon"] == told["privacy"]["epsilon"]
    assert "One training of several" in [one["head"] for one in first["notices"]]


def test_what_is_no_run_is_refused(finished, tmp_path):
    (tmp_path / "text").write_text("no ledger")
    for wrong, told in (
        (tmp_path, "must be the directory of a run"),
        (tmp_path / "none", "must be the directory of a run"),
        (tmp_path / "text", "is neither"),
        (3, "must be a hg.Run or its directory"),
        ("", "must be a hg.Run or its directory"),
    ):
        with pytest.raises(InputError, match=told):
            hg.report.facts(wrong)
    with pytest.raises(InputError, match="is for a ledger that holds several"):
        hg.report.facts(finished, training="x")


def test_files_that_cannot_be_read_are_named(finished, copied):
    for name in ("result.json", "validation.json", "run.json", "audit.json"):
        place = copied(finished.directory, name)
        (place / name).write_text("{")
        with pytest.raises(HushgradError, match=name):
            hg.report.facts(place)


def test_logs_are_for_their_owner(finished):
    mode = os.stat(finished.directory / "metrics.jsonl").st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_long_run_makes_no_endless_page(finished, monkeypatch):
    module = sys.modules["hushgrad.report.facts"]
    monkeypatch.setattr(module, "_GROUPS", 4)
    monkeypatch.setattr(module, "_LINES", 3)
    told = hg.report.facts(finished)
    groups = told["ledger"]["groups"]
    assert len(groups) == 5
    assert groups[2]["kind"] == "more"
    assert [one["last_row"] + 1 for one in groups[:-1]] == [one["first_row"] for one in groups[1:]]
    assert groups[-1]["last_row"] == len(rows(finished.directory))
    assert told["unprotected"]["step"] == [2, 6, 12]
    assert "more of the same" in hg.report.html(finished)
