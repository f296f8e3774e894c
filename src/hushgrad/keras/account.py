"""What a Keras model has spent, over all calls that train it."""

from __future__ import annotations

import bisect
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dp_accounting
import platformdirs

from hushgrad import accounting
from hushgrad._check import fraction, positive
from hushgrad.accounting import RELATIONS
from hushgrad.errors import BudgetError, InputError, StorageError
from hushgrad.mechanism import Mechanism
from hushgrad.sampling import Poisson, Stream
from hushgrad.schedule import Schedule
from hushgrad.training import Budget, Reservation
from hushgrad.training.ledger import Ledger
from hushgrad.training.secret import RunSecret

__all__ = ["Account", "Spent", "default_ledger"]

# What hides more, the last: a mechanism for one is one for those that stand before it.
_STRENGTH = ("add-or-remove-one", "replace-special", "replace-one")
assert set(_STRENGTH) == set(RELATIONS)
# A limit of which so much is spent holds no further training.
_ALL = 0.99


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


@dataclasses.dataclass(frozen=True)
class Spent:
    """Steps that were charged of one mechanism."""

    mechanism: Mechanism
    steps: int

    @property
    def made(self) -> Mechanism:
        """The mechanism with the steps that were charged alone."""
        return self.mechanism.after(self.steps)


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
        before = before or {"spent": [], "opened": 0, "delta": None}
        self.limit = None if epsilon is None else positive("epsilon", epsilon)
        self.delta = before["delta"] if delta is None else fraction("delta", delta)
        self.budget, self.ledger, self.seeded = budget, ledger, seed is not None
        self.spent = [
            Spent(Mechanism.from_dict(part["mechanism"]), part["steps"]) for part in before["spent"]
        ]
        self._opened: int = before["opened"]
        self._secret = RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)
        self._run = uuid.uuid4().hex
        # Of the last mechanism, those that earlier trainings charged included.
        self._planned = 0
        self._open: tuple[Ledger, Reservation | None] | None = None

    @property
    def steps(self) -> int:
        """How many steps were charged in all."""
        return sum(part.steps for part in self.spent)

    @property
    def plan(self) -> Schedule | None:
        """What was released, as phases of one run, if they fit together."""
        phases = [part.made for part in self.spent if part.steps]
        try:
            return Schedule(tuple(phases)) if phases else None
        except InputError:
            return None

    def delta_for(self, examples: int) -> float:
        """The delta to use; it stays as it is from then on."""
        if self.delta is None:
            self.delta = min(1e-5, 0.1 / examples)
        return self.delta

    def epsilon(
        self, delta: float | None = None, accountant: str = "pld", more: Mechanism | None = None
    ) -> float:
        """What was spent, with another mechanism perhaps."""
        made = [*(part.made for part in self.spent), *([more] if more is not None else [])]
        if not any(m.steps for m in made):
            return 0.0
        delta = self.delta_for(made[0].examples) if delta is None else fraction("delta", delta)
        event = dp_accounting.ComposedDpEvent([m.event for m in made])
        return accounting.epsilon(
            event, delta, accountant, relation=_strongest([m.neighbouring_relation for m in made])
        )

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
        spent = [part.made for part in self.spent if part.steps]
        if spent and self.epsilon() > _ALL * self.limit:
            raise BudgetError(
                f"epsilon={self.limit:g} is spent ({self.epsilon():.4g} of it): plan all epochs in "
                "one fit, or give more epsilon to a new model"
            )

        def total(noise: float) -> dp_accounting.DpEvent:
            return dp_accounting.ComposedDpEvent([*(m.event for m in spent), event(noise)])

        relation = _strongest([relation, *(m.neighbouring_relation for m in spent)])
        return accounting.smallest_noise(total, self.limit, delta, relation=relation)

    def room(self, mechanism: Mechanism) -> int:
        """How many steps of a mechanism the limit still holds, up to all of its own."""
        limit = self.limit
        if limit is None:
            return mechanism.steps

        def exceeds(steps: int) -> bool:
            return self.epsilon(more=mechanism.after(steps)) > limit

        if not exceeds(mechanism.steps):
            return mechanism.steps
        return max(0, bisect.bisect_left(range(mechanism.steps), True, key=exceeds) - 1)

    def steps_within(self, limit: float, delta: float | None = None) -> int | None:
        """How many steps in all a limit holds, of what is open now; None if nothing is."""
        if self._open is None:
            return None
        *earlier, last = self.spent
        before = Account(limit, self.delta if delta is None else delta)
        before.spent = earlier
        return sum(p.steps for p in earlier) + before.room(last.mechanism.after(self._planned))

    def open(self, mechanism: Mechanism) -> RunSecret:
        """Begins to spend on a mechanism; gives the secret of its batches and noise.

        Raises:
          BudgetError: if the limit or the data set's budget does not hold all its steps;
            nothing has been spent.
        """
        room = self.room(mechanism)
        if room < mechanism.steps:
            raise BudgetError(
                f"epsilon={self.limit:g} at delta={self.delta:g} holds {room:,} of the "
                f"{mechanism.steps:,} steps asked for ({self.epsilon():.4g} is spent): train fewer "
                "epochs, plan all of them in one fit, or use more noise"
            )
        name = f"{self._run}-{self._opened}"
        path = default_ledger() if self.ledger is None else self.ledger
        held = None
        if self.budget is not None:
            held = self.budget.reserve(mechanism, name, directory=str(path))
        self._open = Ledger(path, name, mechanism.to_dict()), held
        self._began(mechanism)
        self._planned = self.spent[-1].steps + mechanism.steps
        self._opened += 1
        return RunSecret(self._secret.derive("fit", self._opened))

    def charge(self, step: int) -> None:
        """Charges a step of the mechanism that is open, durably, before its release.

        Raises:
          BudgetError, LedgerError: if it must not be released.
        """
        assert self._open is not None
        ledger, held = self._open
        if held is not None:
            held.charge(step + 1)
        ledger.charge(step)
        last = self.spent[-1]
        self.spent[-1] = dataclasses.replace(last, steps=last.steps + 1)

    def close(self) -> None:
        """Ends what is open; what was reserved and not charged is given back."""
        if self._open is None:
            return
        (ledger, held), self._open = self._open, None
        try:
            ledger.finish(ledger.charged)
            if held is not None:
                held.finish(ledger.charged)
        finally:
            ledger.close()

    def to_dict(self) -> dict[str, Any]:
        """All that was spent, as plain data."""
        spent = [{"mechanism": p.mechanism.to_dict(), "steps": p.steps} for p in self.spent]
        return {"spent": spent, "opened": self._opened, "delta": self.delta}

    def statement(self) -> str:
        """What is promised, to whom and against what, in plain words."""
        if not self.steps:
            return "Nothing was trained yet: nothing is spent, and nothing promised."
        if self.plan is not None:
            return accounting.statement(self.plan, seeded=self.seeded)
        parts = [p for p in self.spent if p.steps]
        told = [accounting.statement(p.made, seeded=self.seeded) for p in parts]
        head = (
            f"{len(told)} trainings of one model, on data of which each is told below. For who is "
            f"in all of them they cost together, at delta = {self.delta:g}:\n"
            f"    epsilon = {self.epsilon():.4f}"
        )
        return "\n\n".join([head, *told])

    def _began(self, mechanism: Mechanism) -> None:
        # The same once more, where each step is drawn for itself, is more of the same.
        alike = isinstance(mechanism.sampling, Poisson | Stream)
        alike = alike and not mechanism.strategy.correlated
        if alike and self.spent and self.spent[-1].mechanism.after(1) == mechanism.after(1):
            return
        self.spent.append(Spent(mechanism, 0))


def _strongest(relations: Sequence[str]) -> str:
    """Under which what holds under each can be counted together."""
    return max(relations, key=_STRENGTH.index)
