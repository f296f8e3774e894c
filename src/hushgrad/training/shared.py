"""A run's ledger where several processes carry out the run: one writes it, and all know it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hushgrad.training.ledger import Ledger
from hushgrad.training.reservation import Reservation
from hushgrad.training.team import Team

__all__ = ["SharedLedger"]


class SharedLedger:
    """A `Ledger` in the hands of the first process; all call the same methods together.

    What it writes is on disk when a method returns, on every process; what cannot be written
    is an error on every process.

    Args:
      team: the processes.
      path: of the ledger's file.
      run: its name.
      mechanism: as plain data.
      held: of the run's budget, on the first process, or None.

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
        held: Reservation | None,
    ) -> None:
        self._team, self._held = team, held
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

    def charge(self, step: int, mark: str | None = None) -> None:
        """Writes, durably, that `step` is being released; see `Ledger.charge`."""

        def write(ledger: Ledger) -> None:
            if self._held is not None:
                self._held.charge(step + 1)
            ledger.charge(step, mark)

        self._written(write)
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

    def close(self) -> None:
        """Closes the file."""
        if self._ledger is not None:
            self._ledger.close()

    def _written(self, write: Callable[[Ledger], None]) -> None:
        def do() -> None:
            assert self._ledger is not None
            write(self._ledger)

        self._team.first(do)
