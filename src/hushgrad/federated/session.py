"""What a learning process has released, and where that is kept."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from hushgrad.errors import BudgetError, ResumeError
from hushgrad.federated.participation import Attendance
from hushgrad.mechanism import Mechanism
from hushgrad.training.budget import Budget
from hushgrad.training.checkpoint import Checkpoints, digests
from hushgrad.training.data import fingerprint
from hushgrad.training.directory import Identity, RunDirectory
from hushgrad.training.identity import check
from hushgrad.training.ledger import Ledger
from hushgrad.training.reservation import Reservation
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import State, Sums

__all__ = ["Lost", "Session"]

_AND = ":"


class Lost(Exception):
    """A round was charged, but what it released is gone and cannot be made again."""


class Session:
    """One run of a process: its secret, what it has charged, its checkpoints.

    Args:
      mechanism: what is charged.
      state: before the first round.
      program: fingerprint of what is computed.
      directory: where all is kept, or None to keep it in memory.
      budget: of the data set, or None.
      seed: for tests: makes all chance repeatable.

    Attributes:
      name: the run's.
      begun: how many rounds had been charged when it was opened.
      secret: from which all chance follows; None of a finished run.
      seeded: whether it came from a seed.
      path: the directory.

    Raises:
      ResumeError: if the directory holds a run that this call may not continue.
      BudgetError: if the budget does not hold the run; nothing has been spent.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        state: State,
        program: str,
        directory: str | Path | None,
        budget: Budget | None,
        seed: int | None,
    ) -> None:
        self._mechanism, self.seeded = mechanism, seed is not None
        self._open = contextlib.ExitStack()
        self._marks: dict[int, str] = {}
        self._ledger: Ledger | None = None
        self._checkpoints: Checkpoints | None = None
        self._folder = None if directory is None else RunDirectory(directory)
        self._held: Reservation | None = None
        self.name, self.secret = uuid.uuid4().hex, _secret(seed)
        self.over = False
        try:
            if self._folder is not None:
                self._open.enter_context(self._folder.locked())
            self._begin(state, program, budget, seed)
        except BaseException:
            self._open.close()
            raise

    def _begin(self, state: State, program: str, budget: Budget | None, seed: int | None) -> None:
        folder, path = self._folder, None
        found = None if folder is None else folder.load()
        if folder is not None and found is not None:
            self.name, self.secret = found[0], folder.secret()
        content = "" if self.secret is None else fingerprint(state, self.secret)
        facts = {"seeded": self.seeded, "budget": None if budget is None else budget.name}
        here = Identity(self._mechanism.to_dict(), program, content, 0, **facts)
        if folder is not None and found is not None:
            check(folder, here, found[1], self.secret, seed)
        if budget is not None:
            place = "" if folder is None else str(folder.path.resolve())
            self._held = budget.reserve(self._mechanism, self.name, directory=place)
        if folder is not None:
            if found is None:
                assert self.secret is not None
                folder.keep_secret(self.secret)
                folder.begin(self.name, here)
            self._ledger = Ledger(folder.ledger, self.name, self._mechanism.to_dict())
            self._open.callback(self._ledger.close)
            self._checkpoints = Checkpoints(folder.checkpoints, folder.noise)
            self._open.callback(self._checkpoints.close)
            self.over = self._ledger.finished is not None
            path = folder.path / "secret.participation.sqlite"
            if self.over:
                path = None
        self.attendance = Attendance(self._mechanism, path, self.name)
        self._open.callback(self.attendance.close)
        self.begun = self.charged

    @property
    def path(self) -> Path | None:
        """The directory."""
        return None if self._folder is None else self._folder.path

    @property
    def charged(self) -> int:
        """How many rounds were charged."""
        return len(self._marks) if self._ledger is None else self._ledger.charged

    def restored(self, state: State) -> tuple[State, int]:
        """The last state that was saved, and after how many rounds; `state` if there is none."""
        if self._checkpoints is None or self._ledger is None:
            return state, 0
        refused: ResumeError | None = None
        for number in self._checkpoints.steps:
            try:
                found = self._checkpoints.restore(number, state, noise=not self.over)
            except ResumeError as error:
                refused = refused or error
                continue
            known = self._ledger.checkpoints.get(number, "").split(_AND)
            made = digests(found)
            if known[0] == made[0] and (self.over or known == made):
                self._checkpoints.forget_after(number)
                return found, number
        if self._ledger.charged or self.over:
            raise refused or ResumeError(
                f"no checkpoint in {str(self.path)!r} is one that its ledger knows, though "
                f"{self._ledger.charged} rounds were charged; restore them, or use another "
                "directory, which spends anew"
            )
        self.save(state, 0)
        return state, 0

    def charge(self, number: int, sums: Sums, clients: Iterable[int], *, again: bool) -> None:
        """Writes, durably, that a round is being released.

        Args:
          number: of the round, from 0.
          sums: that its noise will serve, and no others.
          clients: who took part.
          again: whether a round that was charged for other sums is given up; else it is an error.

        Raises:
          Lost: if it was charged for other sums, and is given up.
          BudgetError: if it was charged for other sums.
          LedgerError: if it cannot be written; then nothing may be released.
        """
        mark = self._mark(sums)
        self.attendance.record(number, clients)
        try:
            if self._ledger is None:
                if self._held is not None:
                    self._held.charge(number + 1)
                if self._marks.setdefault(number, mark) != mark:
                    raise ResumeError
            else:
                if self._held is not None:
                    self._held.charge(number + 1)
                self._ledger.charge(number, mark)
        except ResumeError as error:
            if again:
                raise Lost from error
            raise BudgetError(
                f"round {number} was released before, for other updates: its noise with two sums "
                "would show their difference. Go on from the state that it gave, which process."
                "initialize(..., directory=...) finds again"
            ) from error

    def save(self, state: State, number: int) -> None:
        """Writes the state after so many rounds, durably, before anybody may see it."""
        if self._checkpoints is None or self._ledger is None:
            return
        made = _AND.join(digests(state))
        if self._ledger.checkpoints.get(number) != made or number not in self._checkpoints.steps:
            self._checkpoints.save(number, state)
            self._ledger.saved(number, made)

    def finish(self, rounds: int) -> None:
        """Ends the run: nobody can repeat its noise any more."""
        self.over = True
        if self._ledger is not None:
            self._ledger.finish(rounds)
        if self._held is not None:
            self._held.finish(self.charged)
        if self._checkpoints is not None and self._folder is not None:
            self._checkpoints.forget_secret()
            self._folder.forget_secret()
            self.attendance.close()
            for file in self._folder.path.glob("secret.participation.sqlite*"):
                file.unlink()
        self.secret = None

    def close(self) -> None:
        """Closes its files; the run may be gone on with."""
        self._open.close()

    def _mark(self, sums: Sums) -> str:
        """A keyed hash of what noise is to be added to."""
        assert self.secret is not None
        made: hashlib.blake2b = self.secret.authenticator()
        for leaf in jax.tree.leaves((sums.grads, sums.centred_bits)):
            made.update(np.ascontiguousarray(leaf).tobytes())
        return made.hexdigest()


def _secret(seed: int | None) -> RunSecret | None:
    return RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)
