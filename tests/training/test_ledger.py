"""Charged before released, durably, and never understated."""

import sqlite3

import numpy as np
import pytest
from jobs import Stop, mechanism

from hushgrad.errors import ResumeError
from hushgrad.training import job
from hushgrad.training.ledger import Ledger

MECHANISM = {"steps": 3}
CHARGES = "select count(*) from entries where kind = 'charge'"


def test_charges_are_counted_once_each_and_outlive_the_process(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", "a", MECHANISM)
    for step in (0, 1, 1, 0, 2):
        ledger.charge(step)
    assert ledger.charged == 3
    # Another connection, while the first is open: what it sees is on disk.
    with sqlite3.connect(tmp_path / "l.sqlite") as other:
        assert other.execute("select count(*) from entries where kind = 'charge'").fetchone() == (
            3,
        )
    ledger.close()
    again = Ledger(tmp_path / "l.sqlite", "a", MECHANISM)
    assert again.charged == 3
    again.close()


def test_the_file_is_synced_at_every_commit(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", "a", MECHANISM)
    with ledger._journal._writing() as connection:
        query = connection.exec_driver_sql
        assert query("pragma synchronous").scalar() == 2  # FULL
        assert query("pragma journal_mode").scalar() == "wal"
    ledger.close()


def test_a_run_under_another_mechanism_is_refused(tmp_path):
    Ledger(tmp_path / "l.sqlite", "a", MECHANISM).close()
    with pytest.raises(ResumeError, match="another mechanism"):
        Ledger(tmp_path / "l.sqlite", "a", {"steps": 4})


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "l.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 9)
    with pytest.raises(ResumeError, match="cannot be used as a ledger"):
        Ledger(tmp_path / "l.sqlite", "a", MECHANISM)


def test_every_step_is_charged_before_its_noise_is_drawn(train, monkeypatch, tmp_path):
    order = []
    charge, release = Ledger.charge, job.release
    monkeypatch.setattr(Ledger, "charge", lambda self, t, m: charge(self, t, m) or order.append(t))

    def watched(*args):
        if isinstance(args[5], np.ndarray):  # not where the step is only traced
            order.append("release")
        return release(*args)

    monkeypatch.setattr(job, "release", watched)
    train()
    assert order == [x for t in range(12) for x in (t, "release")]


def test_a_step_that_cannot_be_charged_is_not_released(train, monkeypatch):
    seen = []

    def fail(self, step, mark):
        if step == 4:
            raise OSError("disk full")

    monkeypatch.setattr(Ledger, "charge", fail)
    with pytest.raises(OSError, match="disk full"):
        train(callback=lambda p: seen.append(p.step))
    assert seen == [1, 2, 3, 4]


def test_an_interrupted_run_has_charged_what_it_released(train, tmp_path):
    with pytest.raises(Stop):
        train(stop_after=7)
    with sqlite3.connect(tmp_path / "run" / "ledger.sqlite") as ledger:
        assert ledger.execute("select count(*) from entries where kind = 'charge'").fetchone() == (
            7,
        )


def test_what_was_spent_is_what_was_charged(train):
    run = train(mechanism=mechanism(steps=5))
    assert run.steps == 5
