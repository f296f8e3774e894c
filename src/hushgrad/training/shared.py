"""A run's ledger where several processes carry out the run: one writes it, and all know it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hushgrad.training.ledger import Ledger
from hushgrad.training.reservation import Reservation
from hushgrad.training.secret import RunSecret
from hushgrad.training.team import Team

__all__ = ["SharedLedger", "shared_secret"]


class SharedLedger:
    """A `Ledger` in the hands of the first process; all call the same methods together.

    What it writes is on disk when a method returns, on every process; what cannot be written
    is an error on every process.

    Args:
      team: the processes.
      path: of the ledger's file.
      run: its name.
      mechanism: as plain data.

    Attributes:
      charged: how many steps were charged.
      notes: facts of the run, by name.
      checkpoints: the hash of each checkpoint, by the number of steps before it.
      finished: after how many steps the run ended, or None.
    """

    def __init__(
        self,
        team: Team,
        path: Path,
        run: str,
        mechanism: dict[str, Any],
    ) -> None:
        self._team = team
        self._held: Reservation | None = None
        self._ledger: Ledger | None = None

        def opened() -> dict[str, Any]:
            self._ledger = ledger = Ledger(path, run, mechanism)
            return {
                "charged": ledger.charged,
                "notes": ledger.notes,
                "checkpoints": list(ledger.checkpoints.items()),
                "finished": ledger.finished,
            }

        found = team.first(opened)
        self.charged: int = found["charged"]
        self.notes: dict[str, str] = dict(found["notes"])
        self.checkpoints: dict[int, str] = dict(found["checkpoints"])
        self.finished: int | None = found["finished"]

    def hold(self, reserve: Callable[[], Reservation | None]) -> None:
        """Charges a budget too from now on: with what the first process reserves of it."""

        def do() -> None:
            self._held = reserve()

        self._team.first(do)

    def charge(self, step: int, mark: str | None = None, failure: Exception | None = None) -> None:
        """Writes, durably, that `step` is being released; see `Ledger.charge`.

        Where this process failed to read its part of the batch, it fails on all.
        """

        def write(ledger: Ledger) -> None:
            if self._held is not None:
                self._held.charge(step + 1)
            ledger.charge(step, mark)

        self._written(write, failure)
        self.charged = max(self.charged, step + 1)

    def note(self, name: str, value: str) -> None:
        """Writes down a fact of the run, once."""
        self._written(lambda ledger: ledger.note(name, value))
        self.notes[name] = value

    def saved(self, step: int, digest: str) -> None:
        """Writes the hash of the checkpoint after so many steps."""
        self._written(lambda ledger: ledger.saved(step, digest))
        self.checkpoints[step] = digest

    def finish(self, steps: int) -> None:
        """Writes that the run is over, after so many steps."""
        self._written(lambda ledger: ledger.finish(steps))
        self.finished = steps

    def give_back(self) -> None:
        """Ends the run in its budget, which keeps what was charged."""
        if self._held is not None:
            self._held.finish(self.charged)

    def end(self) -> None:
        """Ends the run where it is, and closes the file; the first process alone, nobody waits."""
        if self._ledger is None:
            return
        try:
            # A step that was written, and then failed elsewhere, stays charged.
            self.charged = self._ledger.charged
            self._ledger.finish(self.charged)
            self.give_back()
        finally:
            self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._ledger is not None:
            self._ledger.close()

    def _written(self, write: Callable[[Ledger], None], failure: Exception | None = None) -> None:
        def do() -> None:
            if failure is not None:
                raise failure
            if self._ledger is not None:
                write(self._ledger)

        self._team.each(do)


def shared_secret(team: Team, known: Callable[[], RunSecret | None]) -> RunSecret | None:
    """A run's secret, which the first process knows, and the others keep in memory alone."""

    def content() -> str | None:
        secret = known()
        return None if secret is None else secret.content.hex()

    found = team.first(content)
    return None if found is None else RunSecret(bytes.fromhex(found))
