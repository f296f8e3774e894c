"""What a run has spent: one durable row per step, written before its release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hushgrad.errors import LedgerError, ResumeError
from hushgrad.training.journal import PATIENCE, Entry, Journal, Row

__all__ = ["Ledger"]


class Ledger:
    """A SQLite file with the steps that a run was charged for, chained by hash.

    A charge is on disk (write-ahead log, full sync) when `charge` returns, so a
    crash can leave a step charged that was never released, and never the reverse.

    Attributes:
      notes: facts of the run, by name.
      checkpoints: the hash of each checkpoint, by the number of steps before it.
      finished: after how many steps the run ended, or None.
    """

    def __init__(
        self, path: Path, run: str, mechanism: dict[str, Any], patience: float = PATIENCE
    ) -> None:
        """Opens or makes the ledger.

        Raises:
          ResumeError: if the file is not a ledger, was changed by somebody, or has the
            run under another mechanism.
        """
        self._mechanism: dict[str, Any] | None = None
        self._charged: dict[int, str | None] = {}
        self.notes: dict[str, str] = {}
        self.checkpoints: dict[int, str] = {}
        self.finished: int | None = None
        url = sa.URL.create("sqlite", database=str(path))
        try:
            self._journal = Journal(url, run, self._absorb, patience)
            self._journal.write(lambda: self._opening(mechanism))
        except LedgerError as error:
            raise ResumeError(f"{path} cannot be used as a ledger: {error}") from error

    @property
    def charged(self) -> int:
        """How many steps were charged."""
        return len(self._charged)

    def charge(self, step: int, mark: str | None = None) -> None:
        """Writes, durably, that `step` is being released.

        A step that is charged already is repeated after a crash: it releases the
        same numbers again and costs nothing more.

        Args:
          step: its number, from 0.
          mark: a keyed hash of its batch, where the data are not hashed as a whole.

        Raises:
          LedgerError: if it cannot be written; then it must not be released.
          ResumeError: if the step was charged for another batch: its noise with two
            batches would show their difference.
        """

        def row() -> list[Row]:
            if step in self._charged:
                return []
            return [("charge", {"step": step} if mark is None else {"step": step, "batch": mark})]

        if step not in self._charged:
            self._journal.write(row)
        if self._charged[step] != mark:
            raise ResumeError(
                f"the data have changed: step {step} was begun with another batch before the run "
                "stopped; restore the data, or use another directory, which spends anew"
            )

    def note(self, name: str, value: str) -> None:
        """Writes down a fact of the run, once."""
        if self.notes.get(name) != value:
            self._journal.write(
                lambda: [] if self.notes.get(name) == value else [("note", {name: value})]
            )

    def saved(self, step: int, digest: str) -> None:
        """Writes the hash of the checkpoint after so many steps."""
        self._journal.write(
            lambda: (
                []
                if self.checkpoints.get(step) == digest
                else [("checkpoint", {"step": step, "digest": digest})]
            )
        )

    def finish(self, steps: int) -> None:
        """Writes that the run is over, after so many steps."""
        self._journal.write(
            lambda: [] if self.finished is not None else [("finish", {"steps": steps})]
        )

    def close(self) -> None:
        """Closes the file."""
        self._journal.close()

    def _absorb(self, entry: Entry) -> None:
        if entry.kind == "open":
            self._mechanism = entry.content["mechanism"]
        elif entry.kind == "charge":
            self._charged[entry.content["step"]] = entry.content.get("batch")
        elif entry.kind == "checkpoint":
            self.checkpoints[entry.content["step"]] = entry.content["digest"]
        elif entry.kind == "note":
            self.notes.update(entry.content)
        elif entry.kind == "finish":
            self.finished = entry.content["steps"]

    def _opening(self, mechanism: dict[str, Any]) -> list[Row]:
        if self._mechanism is None:
            return [("open", {"mechanism": mechanism})]
        if self._mechanism != mechanism:
            raise ResumeError("the ledger holds this run under another mechanism")
        return []
