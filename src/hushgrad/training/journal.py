"""An append-only table whose rows are chained by hash: what a ledger is written in."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from hushgrad.errors import InputError, LedgerError

__all__ = ["PATIENCE", "Entry", "Journal", "Row", "followed", "journals"]

# How long, in seconds, a database may be locked or gone before a run gives up.
PATIENCE = 120.0
_FIRST_PATIENCE = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
_FIRST = "0" * 64
_METADATA = sa.MetaData()
_ENTRIES = sa.Table(
    "entries",
    _METADATA,
    sa.Column("journal", sa.String(200), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("written_at", sa.String(32), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

Row = tuple[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row: what was written, when, and the hash of all rows up to it."""

    number: int
    kind: str
    content: dict[str, Any]
    written_at: str
    digest: str


class Journal:
    """One chain of rows in a database that other processes write to as well.

    A row is durable when `write` returns. Writers take turns; each sees all rows of the
    others before it decides what to write, so no two decide on the same facts.

    Args:
      url: of a SQLite or PostgreSQL database, as SQLAlchemy has it.
      name: of the journal; a database may hold many.
      absorb: is given each row once, in order, checked against the chain.
      patience: seconds to wait for a database that is locked or gone.

    Raises:
      InputError: if the address is of no database that can be used.
      LedgerError: if the database cannot be reached or the chain is broken.
    """

    def __init__(
        self, url: str | sa.URL, name: str, absorb: Callable[[Entry], None], patience: float
    ) -> None:
        self.name, self._absorb, self._patience = name, absorb, patience
        self._number, self._digest = 0, _FIRST
        self._engine = _engine(url)
        # An address that is wrong should not be waited for.
        self._retrying(self._create, min(patience, _FIRST_PATIENCE))

    @property
    def head(self) -> str:
        """The hash of all rows that were seen."""
        return self._digest

    def refresh(self) -> None:
        """Takes in what others wrote."""

        def read() -> None:
            with self._reading() as connection:
                self._take(connection)

        self._retrying(read)

    def write(self, decide: Callable[[], Iterable[Row]]) -> None:
        """Appends the rows that `decide` gives once all earlier rows were absorbed.

        It may be asked again, with newer rows, where a database was lost in between: it
        must give nothing where what it wants is written already.
        """

        def attempt() -> None:
            with self._writing() as connection:
                self._take(connection)
                number, digest, written = self._number, self._digest, []
                for kind, content in decide():
                    number += 1
                    entry = _chained(self.name, digest, number, kind, content)
                    digest = entry.digest
                    written.append(entry)
                for entry in written:
                    row = dataclasses.asdict(entry) | {
                        "journal": self.name,
                        "content": _text(entry.content),
                    }
                    connection.execute(sa.insert(_ENTRIES).values(row))
            for entry in written:
                self._accept(entry)

        self._retrying(attempt)

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _take(self, connection: sa.Connection) -> None:
        for entry in followed(connection, self.name, self._number, self._digest):
            self._accept(entry)

    def _accept(self, entry: Entry) -> None:
        self._absorb(entry)
        self._number, self._digest = entry.number, entry.digest

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            connection = connection.execution_options(writing=True)
            with connection.begin():
                _lock(connection, self.name)
                yield connection

    def _create(self) -> None:
        with self._writing() as connection:
            # The table is all journals': two of them must not make it at once.
            _lock(connection, "")
            _METADATA.create_all(connection)

    def _retrying(self, attempt: Callable[[], None], patience: float | None = None) -> None:
        """Again and again while the database is locked or gone, for as long as is allowed."""
        patience = self._patience if patience is None else patience
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                if not _passes(error) or time.monotonic() + pause > deadline:
                    raise LedgerError(
                        f"the ledger in {self._engine.url.render_as_string()} cannot be used: "
                        f"{_first_line(error)}; mend that, then repeat the call: it goes on where "
                        "it stopped"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _lock(connection: sa.Connection, name: str) -> None:
    """Makes other writers of a journal wait; on SQLite a transaction that writes does."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.blake2b(name.encode()).digest()[:7], "big")
        connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": key})


def journals(connection: sa.Connection) -> list[str]:
    """The names of all journals in a database."""
    names = sa.select(_ENTRIES.c.journal).distinct().order_by(_ENTRIES.c.journal)
    return [row.journal for row in connection.execute(names)]


def followed(
    connection: sa.Connection, name: str, after: int = 0, digest: str = _FIRST
) -> Iterator[Entry]:
    """A journal's rows in order, as long as each follows from those before it.

    Args:
      connection: to a database that has journals.
      name: of the journal.
      after: the number of the last row that is known.
      digest: that row's hash.

    Raises:
      LedgerError: at the first row that was changed, or is gone.
    """
    for entry in _entries(connection, name, after):
        if entry.number != after + 1:
            raise LedgerError(
                f"rows {after + 1} to {entry.number - 1} of {name!r} are gone: "
                "somebody changed the ledger; restore it from a backup"
            )
        if entry.digest != _digest(name, digest, entry):
            raise LedgerError(
                f"row {entry.number} of {name!r} does not follow from the rows before it: "
                "somebody changed the ledger; restore it from a backup"
            )
        after, digest = entry.number, entry.digest
        yield entry


def _entries(connection: sa.Connection, name: str, after: int) -> Iterator[Entry]:
    """A journal's rows from some number on, as they are written."""
    query = (
        sa.select(_ENTRIES)
        .where(_ENTRIES.c.journal == name, _ENTRIES.c.number > after)
        .order_by(_ENTRIES.c.number)
    )
    for row in connection.execute(query):
        try:
            content = json.loads(row.content)
        except ValueError as error:
            raise LedgerError(f"row {row.number} of {name!r} cannot be read ({error})") from error
        yield Entry(row.number, row.kind, content, row.written_at, row.digest)


def _chained(name: str, before: str, number: int, kind: str, content: dict[str, Any]) -> Entry:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    entry = Entry(number, kind, content, now, "")
    return dataclasses.replace(entry, digest=_digest(name, before, entry))


def _digest(name: str, before: str, entry: Entry) -> str:
    content = [before, name, entry.number, entry.kind, entry.content, entry.written_at]
    return hashlib.sha256(_text(content).encode()).hexdigest()


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _engine(url: str | sa.URL) -> sa.Engine:
    try:
        address = sa.make_url(url)
    except ArgumentError as error:
        raise InputError(
            f"url must be a database's address such as 'sqlite:///budget.sqlite', got {url!r}"
        ) from error
    kind = address.get_backend_name()
    if kind == "postgresql" and address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    if kind not in ("sqlite", "postgresql"):
        raise InputError(f"url must be of SQLite or PostgreSQL, got {kind!r}")
    try:
        engine = sa.create_engine(address, pool_pre_ping=kind == "postgresql")
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise InputError(
            f"{address.drivername!r} needs a driver: pip install 'hushgrad[postgresql]'"
        ) from error
    if kind == "sqlite":
        event.listen(engine, "connect", _as_durable_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _as_durable_postgresql)
    return engine


def _as_durable_sqlite(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself, too late and without a lock.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _as_durable_postgresql(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("SET SESSION synchronous_commit = on")
    cursor.close()
    connection.commit()


def _passes(error: DBAPIError) -> bool:
    """What may be over in a while: a lock, a server that is not there."""
    if not isinstance(error, OperationalError) and not error.connection_invalidated:
        return False
    return getattr(error.orig, "sqlite_errorname", "SQLITE_BUSY") in (
        "SQLITE_BUSY",
        "SQLITE_LOCKED",
        "SQLITE_BUSY_SNAPSHOT",
        "SQLITE_BUSY_RECOVERY",
    )


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
