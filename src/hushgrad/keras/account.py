"""What a Keras model may spend, and where it is charged."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dp_accounting
import platformdirs

from hushgrad import accounting
from hushgrad._check import fraction, positive
from hushgrad._version import __version__
from hushgrad.errors import BudgetError, LedgerError, ResumeError, StorageError
from hushgrad.keras.history import History, Spent, strongest
from hushgrad.mechanism import Mechanism
from hushgrad.schedules import Schedule
from hushgrad.training import Budget
from hushgrad.training.data import fingerprint
from hushgrad.training.secret import RunSecret
from hushgrad.training.shared import SharedLedger, shared_secret
from hushgrad.training.team import Team

__all__ = ["Account", "default_ledger"]

# A limit of which so much is spent holds no further training.
_ALL = 0.99
# So many steps of an open end are as good as all.
_FAR = 1 << 20


def default_ledger() -> Path:
    """The user's own file of what Keras models have spent.

    Raises:
      StorageError: if its folder cannot be made.
    """
    folder = platformdirs.user_data_path("hushgrad", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{str(folder)!r} cannot be made ({error}), where steps would be charged: name a file "
            "in privatize(ledger=...)"
        ) from error
    return folder / "keras.sqlite"


class Account:
    """All that a model has released and may still release.

    Args:
      epsilon: the most that may ever be spent, or None.
      delta: at which epsilon is counted, or None for a tenth of one over the examples, and
        1e-5 at most.
      budget: of the data set, or None.
      ledger: SQLite file for a durable row of each step before its release.
      seed: for tests: makes all chance repeatable.
      before: what `to_dict` wrote, of a model that was saved.

    Attributes:
      history: what was released.
    """

    def __init__(
        self,
        epsilon: float | None,
        delta: float | None,
        budget: Budget | None = None,
        ledger: Path | None = None,
        seed: int | None = None,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        before = before or {}
        self.history = History(before)
        self.limit = None if epsilon is None else positive("epsilon", epsilon)
        self.delta = before.get("delta") if delta is None else fraction("delta", delta)
        self.ledger, self.seeded = ledger, seed is not None
        # Of a model that was saved: a budget that it must not go on without.
        self._wanted: str | None = before.get("budget")
        if budget is not None or self._wanted is None:
            self.budget = budget
        else:
            self._budget = None
        self._seed, self._number = None if seed is None else RunSecret.from_seed(seed), seed
        self._mechanism: Mechanism | None = None
        self._allowed = 0
        self._open: SharedLedger | None = None

    @property
    def budget(self) -> Budget | None:
        """The data set's, which must hold every training; to be set again after loading."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        self._budget, self._wanted = budget, None

    @property
    def spent(self) -> list[Spent]:
        """Mechanisms and their charged steps."""
        return self.history.spent

    @property
    def steps(self) -> int:
        """How many steps were charged in all."""
        return self.history.steps

    @property
    def plan(self) -> Schedule | None:
        """What was released, as phases of one run, if they fit together."""
        return self.history.plan

    @property
    def planned(self) -> Mechanism | None:
        """What was begun last; of a stream of unknown length, some of its steps."""
        return self._mechanism

    def delta_for(self, examples: int) -> float:
        """The delta to use; it stays as it is from then on."""
        if self.delta is None:
            self.delta = min(1e-5, 0.1 / examples)
        return self.delta

    def epsilon(self, delta: float | None = None, accountant: str = "pld") -> float:
        """What was spent."""
        made = self.history.made
        if not made:
            return 0.0
        delta = self.delta_for(made[0].examples) if delta is None else fraction("delta", delta)
        return self.history.epsilon(delta, accountant)

    def epsilon_after(self, steps: int) -> float:
        """What will have been spent after so many steps more of what is open."""
        last = self.history.spent[-1]
        more = last.mechanism.after(last.steps + steps)
        delta = self.delta_for(more.examples)
        return self.history.before_last().epsilon(delta, more=more)

    def noise_for(
        self, event: Callable[[float], dp_accounting.DpEvent], delta: float, relation: str
    ) -> float:
        """The smallest noise multiplier under which the limit holds a mechanism with all before.

        Args:
          event: what the mechanism releases, by its noise multiplier.
          delta: at which epsilon is counted.
          relation: the mechanism's neighbouring relation.

        Raises:
          BudgetError: if nothing of the limit is left.
        """
        assert self.limit is not None
        spent = self.history.made
        if spent and self.epsilon() > _ALL * self.limit:
            raise BudgetError(
                f"epsilon={self.limit:g} is spent ({self.epsilon():.4g} of it): plan all epochs in "
                "one fit, or give more epsilon to a new model"
            )

        def total(noise: float) -> dp_accounting.DpEvent:
            return dp_accounting.ComposedDpEvent([*(m.event for m in spent), event(noise)])

        relation = strongest([relation, *(m.neighbouring_relation for m in spent)])
        return accounting.smallest_noise(total, self.limit, delta, relation=relation)

    def room(self, mechanism: Mechanism) -> int:
        """How many steps of a mechanism the limit still holds, up to all of its own."""
        if self.limit is None:
            return mechanism.steps
        delta = self.delta_for(mechanism.examples)
        return self.history.room(mechanism, self.limit, delta)

    def steps_within(self, limit: float, delta: float | None = None) -> int | None:
        """How many steps in all a limit holds, of what is open now and more of it; or None."""
        if self._open is None or self._mechanism is None:
            return None
        m, before = self._mechanism, self.history.before_last()
        delta = self.delta_for(m.examples) if delta is None else delta
        # Of a last mechanism that is more of the same, all its steps count.
        steps = self.history.spent[-1].steps + m.steps
        # What follows of a stream of unknown length is not planned yet.
        while (room := before.room(m.after(steps), limit, delta)) == steps < _FAR:
            steps *= 4
        return before.steps + room

    def open(self, mechanism: Mechanism, team: Team, content: Any) -> RunSecret:
        """Begins to spend on a mechanism; gives the secret of its batches and noise.

        Args:
          mechanism: what is to be released.
          team: the processes that release it together; the first keeps ledger and budget.
          content: arrays that they must all hold alike.

        Raises:
          BudgetError: if the limit or the data set's budget does not hold all its steps;
            nothing has been spent.
          LedgerError: if there is no ledger to charge to.
          InputError: if the calls of several processes differ.
        """
        with team.alike() as facts:
            facts |= self._facts(mechanism)
            self._check_room(mechanism)
        secret = shared_secret(team, self._secret)
        assert secret is not None
        if team.size > 1:
            with team.alike() as facts:
                facts["a keyed hash of the data"] = fingerprint(content, secret)
        # One for all: who loads weights that another process saved knows whose they are.
        name = team.first(lambda: uuid.uuid4().hex)
        self._open, self._mechanism = self._ledger(mechanism, team, name), mechanism
        self.history.begin(mechanism, name)
        self._allowed = mechanism.steps
        return secret

    def charge(self, step: int, failure: Exception | None = None) -> None:
        """Charges a step of the mechanism that is open, durably, before its release.

        Where this process failed to read its part of the batch, it fails on all.

        Raises:
          BudgetError, LedgerError: if it must not be released.
        """
        if self._open is None or step >= self._allowed:
            raise BudgetError(
                f"{self._allowed:,} steps were planned and are within the limit: no other may be "
                "released; plan more in another fit"
            )
        self._open.charge(step, failure=failure)
        self.history.charge()

    def close(self) -> None:
        """Ends what is open; what was reserved and not charged is given back."""
        ledger, self._open = self._open, None
        if ledger is not None:
            ledger.end()

    def take_over(self, before: Mapping[str, Any]) -> None:
        """Weights were loaded that had cost what `to_dict` wrote."""
        self.history.take_over(History(before), self._open is not None)
        if self.delta is None:
            self.delta = before["delta"]
        if self._open is not None and self._mechanism is not None:
            self._allowed = self._allowed_still(self._mechanism, self._open.charged)

    def _allowed_still(self, mechanism: Mechanism, made: int) -> int:
        """How many steps of what is open the limit holds, of which some are made."""
        if self.limit is None:
            return self._allowed
        # All its steps together: those to come may cost more after those that were made.
        earlier = self.history.spent[-1].steps - made
        whole = mechanism.after(earlier + self._allowed)
        delta = self.delta_for(mechanism.examples)
        return max(made, self.history.before_last().room(whole, self.limit, delta) - earlier)

    def to_dict(self) -> dict[str, Any]:
        """All that was spent, as plain data."""
        budget = self._wanted if self._budget is None else self._budget.name
        return {**self.history.to_dict(), "delta": self.delta, "budget": budget}

    def statement(self) -> str:
        """What is promised, to whom and against what, in plain words."""
        if not self.steps:
            return "Nothing was trained yet: nothing is spent, and nothing promised."
        chosen = "private" if self.history.validated else None
        if self.plan is not None:
            return accounting.statement(self.plan, seeded=self.seeded, validation=chosen)
        made = self.history.made
        told = [accounting.statement(m, seeded=self.seeded, validation=chosen) for m in made]
        head = (
            f"{len(told)} trainings of one model, on data of which each is told below. For who is "
            f"in all of them they cost together, at delta = {self.delta:g}:\n"
            f"    epsilon = {self.epsilon():.4f}"
        )
        return "\n\n".join([head, *told])

    def _facts(self, mechanism: Mechanism) -> dict[str, Any]:
        """What several processes must agree on, by name."""
        return {
            "mechanism": mechanism.to_dict(),
            "seed": self._number,
            "epsilon": self.limit,
            "budget": None if self._budget is None else self._budget.name,
            "what was spent before": [[s.mechanism.to_dict(), s.steps] for s in self.spent],
            "version of hushgrad": __version__,
        }

    def _check_room(self, mechanism: Mechanism) -> None:
        room = self.room(mechanism)
        if room < mechanism.steps:
            raise BudgetError(
                f"epsilon={self.limit:g} at delta={self.delta:g} holds {room:,} of the "
                f"{mechanism.steps:,} steps asked for ({self.epsilon():.4g} is spent): train fewer "
                "epochs, plan all of them in one fit, or use more noise"
            )
        if self._wanted is not None:
            raise BudgetError(
                f"this model was saved under the budget {self._wanted!r}: set "
                "private.account.budget = hg.Budget(...), or None to go on without one"
            )

    def _secret(self) -> RunSecret:
        """Of what is opened next."""
        if self._seed is None:
            return RunSecret.fresh()
        return RunSecret(self._seed.derive("fit", self.history.opened + 1))

    def _ledger(self, mechanism: Mechanism, team: Team, name: str) -> SharedLedger:
        """A run's ledger, and what it may take of the budget."""
        default = self.ledger is None
        path = team.first(lambda: str(default_ledger() if default else self.ledger))
        try:
            ledger = SharedLedger(team, Path(path), name, mechanism.to_dict())
        except ResumeError as error:
            raise LedgerError(
                f"{path!r} cannot be charged to, so nothing is trained "
                f"({error.__cause__ or error}); name another file in privatize(ledger=...)"
            ) from error
        budget = self._budget
        try:
            if budget is not None:
                ledger.hold(lambda: budget.reserve(mechanism, name, directory=path))
        except BaseException:
            ledger.close()
            raise
        return ledger
