"""A ledger as it is found: read without being opened for writing, and followed row by row."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from hushgrad.errors import InputError, LedgerError
from hushgrad.training.journal import Entry, followed, journals

__all__ = ["Chain"]


@dataclasses.dataclass(frozen=True)
class Chain:
    """The rows of one run in a ledger.

    Attributes:
      entries: those that follow from each other, from the first on.
      problem: why there are no more of them, or None if all were read and each follows.
      others: names of other runs in the same file.
    """

    entries: tuple[Entry, ...]
    problem: str | None
    others: tuple[str, ...] = ()

    @property
    def head(self) -> str | None:
        """The hash of all rows that were followed."""
        return self.entries[-1].digest if self.entries else None

    @property
    def charged(self) -> list[int]:
        """Numbers of the charged steps, as they stand there."""
        return [entry.content["step"] for entry in self.entries if entry.kind == "charge"]

    @property
    def checkpoints(self) -> list[int]:
        """After how many steps there were checkpoints."""
        return [entry.content["step"] for entry in self.entries if entry.kind == "checkpoint"]

    @property
    def finished(self) -> int | None:
        """After how many steps the run ended, or None."""
        ends = [entry.content["steps"] for entry in self.entries if entry.kind == "finish"]
        return ends[-1] if ends else None

    @property
    def validation(self) -> str | None:
        """Of whom a set was that chose parameters or when to stop: "public", "private" or None."""
        notes = [entry.content for entry in self.entries if entry.kind == "note"]
        sets = [note["validation"] for note in notes if "validation" in note]
        if not sets:
            return None
        return "public" if all(one == "public" for one in sets) else "private"

    @classmethod
    def of(cls, file: Path, run: str) -> Chain:
        """The rows of a run; whatever is wrong with them is told, not raised."""
        if not file.exists():
            return cls((), f"there is no {file.name}: it was removed, or the run never began")
        entries: list[Entry] = []
        try:
            with _reading(file) as connection:
                others = tuple(name for name in journals(connection) if name != run)
                try:
                    entries.extend(followed(connection, run))
                except LedgerError as error:
                    return cls(tuple(entries), str(error), others)
        except DBAPIError as error:
            return cls((), f"{file.name} cannot be read as a ledger ({error.orig})")
        if not entries:
            return cls((), f"{file.name} has no rows of run {run!r}", others)
        return cls(tuple(entries), None, others)


def runs_of(file: Path) -> list[str]:
    """Names of the runs in a ledger.

    Raises:
      InputError: if the file is no ledger.
    """
    try:
        with _reading(file) as connection:
            return journals(connection)
    except DBAPIError as error:
        raise InputError(
            f"run must be the directory of a run or a ledger, and {str(file)!r} is neither "
            f"({error.orig})"
        ) from error


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sa.Connection]:
    """A connection that can write nothing, to a ledger that others may be writing to."""
    with contextlib.ExitStack() as stack:
        journal = file.with_name(file.name + "-wal")
        # Without a log of writes nobody has it open, and the file is all there is.
        options = "mode=ro" if journal.exists() else "mode=ro&immutable=1"
        if journal.exists() and not _readable(file):
            # As on a disk that is read-only: then nobody writes to it, and a copy is whole.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for part in (file, journal):
                shutil.copy(part, folder)
            file, options = folder / file.name, "mode=rw"
        address = f"{file.resolve().as_uri()}?{options}"
        engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True))
        stack.callback(engine.dispose)
        yield stack.enter_context(engine.connect())


def _readable(file: Path) -> bool:
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        ) as connection:
            connection.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return False
    return True
