"""What a run has spent: one durable row per step, written before its release."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError

from hushgrad.errors import ResumeError

__all__ = ["Ledger"]

_METADATA = sa.MetaData()
_RUNS = sa.Table(
    "runs",
    _METADATA,
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("mechanism", sa.Text, nullable=False),
    sa.Column("opened_at", sa.String(32), nullable=False),
)
_CHARGES = sa.Table(
    "charges",
    _METADATA,
    sa.Column("run", sa.String(32), sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("charged_at", sa.String(32), nullable=False),
)


class Ledger:
    """A SQLite file with the steps that a run was charged for.

    A charge is on disk (write-ahead log, full sync) when `charge` returns, so a
    crash can leave a step charged that was never released, and never the reverse.
    """

    def __init__(self, path: Path, run: str, mechanism: dict[str, Any]) -> None:
        """Opens or makes the ledger.

        Raises:
          ResumeError: if the file is not a ledger, or has the run under another mechanism.
        """
        self._run = run
        self._engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
        event.listen(self._engine, "connect", _be_durable)
        try:
            _METADATA.create_all(self._engine)
            self._connection = self._engine.connect()
            self._open(json.dumps(mechanism, sort_keys=True))
        except DatabaseError as error:
            raise ResumeError(f"{path} cannot be used as a ledger: {error.orig}") from error

    def _open(self, mechanism: str) -> None:
        with self._connection.begin():
            query = sa.select(_RUNS.c.mechanism).where(_RUNS.c.run == self._run)
            found = self._connection.execute(query).scalar()
            if found is None:
                row = {"run": self._run, "mechanism": mechanism, "opened_at": _now()}
                self._connection.execute(sa.insert(_RUNS).values(row))
            elif found != mechanism:
                raise ResumeError("the ledger holds this run under another mechanism")

    def charge(self, step: int) -> None:
        """Writes, durably, that `step` is being released.

        A step that is charged already is repeated after a crash: it releases the
        same numbers again and costs nothing more.
        """
        row = {"run": self._run, "step": step, "charged_at": _now()}
        insert = sqlite.insert(_CHARGES).values(row).on_conflict_do_nothing()
        with self._connection.begin():
            self._connection.execute(insert)

    @property
    def charged(self) -> int:
        """How many steps were charged."""
        query = sa.select(sa.func.count()).where(_CHARGES.c.run == self._run)
        with self._connection.begin():
            return int(self._connection.execute(query).scalar_one())

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()
        self._engine.dispose()


def _be_durable(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
