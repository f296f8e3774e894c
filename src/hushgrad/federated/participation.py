"""A durable record of who took part in which round, and the rules that it enforces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from hushgrad.costs import participation
from hushgrad.errors import InputError, LedgerError, ResumeError
from hushgrad.mechanism import Mechanism
from hushgrad.noise import OncePerPass, Participation, Periodic, Spaced
from hushgrad.training.journal import PATIENCE, Entry, Journal, Row

__all__ = ["Attendance"]

_SHOWN = 5


class Attendance:
    """Who took part in which round: as secret as the noise.

    A mechanism whose guarantee rests on who takes part when (`CheckIn`, or any with noise that
    depends on other rounds') has a rule, and a cohort that breaks it is refused. Where clients
    are drawn by coins of their own there is none.

    Args:
      mechanism: what is accounted.
      path: of the record's file, for its owner alone; None to keep it in memory.
      run: the run's name.
    """

    def __init__(self, mechanism: Mechanism, path: Path | None, run: str) -> None:
        self._rule = _rule(mechanism)
        self._clients = mechanism.examples
        self._last = np.full(self._clients, -1, np.int64)
        self._times = np.zeros(self._clients, np.int64)
        self._rounds: set[int] = set()
        self._journal: Journal | None = None
        if path is None or self._rule is None:
            return
        path.touch(0o600)
        url = sa.URL.create("sqlite", database=str(path))
        try:
            self._journal = Journal(url, run, self._absorb, PATIENCE)
            self._journal.write(list)  # nothing, but reads what is there
        except LedgerError as error:
            raise ResumeError(f"{path} cannot be used: {error}") from error

    @property
    def ruled(self) -> bool:
        """Whether there is a rule."""
        return self._rule is not None

    def allowed(self, number: int, clients: Iterable[int]) -> np.ndarray:
        """Those of some clients who may take part in round `number`."""
        some = np.asarray(sorted(set(clients)), np.int64)
        return some[[self._may(number, int(client)) for client in some]] if len(some) else some

    def check(self, number: int, clients: Iterable[int]) -> None:
        """Refuses a cohort of which somebody may not take part.

        Raises:
          InputError: naming some of them, and the rule.
        """
        some = sorted(set(clients))
        refused = [client for client in some if not self._may(number, client)]
        if refused:
            shown = ", ".join(str(c) for c in refused[:_SHOWN])
            more = ", ..." if len(refused) > _SHOWN else ""
            raise InputError(
                f"cohort has {len(refused)} clients (numbers {shown}{more}) who may not take part "
                f"in round {number}, having taken part before: the mechanism accounts for "
                f"{self._rule}; leave them out: process.allowed(state, clients) says who may come"
            )

    def record(self, number: int, clients: Iterable[int]) -> None:
        """Writes, durably, who takes part in a round; of a round begun again, who comes new."""
        if self._rule is None:
            return
        content = {"round": number, "clients": sorted(int(c) for c in set(clients))}
        entry: list[Row] = [("cohort", content)]
        if self._journal is None:
            self._take(content["round"], content["clients"])
            return
        self._journal.write(lambda: entry)

    def close(self) -> None:
        """Closes the file."""
        if self._journal is not None:
            with contextlib.suppress(LedgerError):
                self._journal.close()

    def _may(self, number: int, client: int) -> bool:
        last, times = int(self._last[client]), int(self._times[client])
        if self._rule is None or last < 0 or last == number:
            return True
        match self._rule:
            case Spaced(turns, apart):
                return times < turns and number - last >= apart
            case OncePerPass(length):
                return number // length != last // length
            case Periodic(length):
                return (number - last) % length == 0

    def _absorb(self, entry: Entry) -> None:
        if entry.kind == "cohort":
            self._take(entry.content["round"], entry.content["clients"])

    def _take(self, number: int, clients: list[int]) -> None:
        some = np.asarray(clients, np.int64)
        fresh = some[self._last[some] != number]
        self._times[fresh] += 1
        self._last[fresh] = number


def _rule(mechanism: Mechanism) -> Participation | None:
    try:
        return participation(mechanism.sampling, mechanism.examples, mechanism.steps)
    except InputError:
        return None
