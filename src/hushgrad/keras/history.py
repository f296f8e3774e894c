"""What the weights of a model have cost, from their first private step on."""

from __future__ import annotations

import bisect
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dp_accounting

from hushgrad import accounting
from hushgrad.accounting import RELATIONS
from hushgrad.errors import InputError
from hushgrad.mechanism import Mechanism
from hushgrad.sampling import Poisson, Stream
from hushgrad.schedules import Schedule

__all__ = ["History", "Spent", "strongest"]

# What hides more, the last: a mechanism for one is one for those that stand before it.
_STRENGTH = ("add-or-remove-one", "replace-special", "replace-one")
assert set(_STRENGTH) == set(RELATIONS)


@dataclasses.dataclass(frozen=True)
class Spent:
    """Steps that were charged of one mechanism."""

    mechanism: Mechanism
    steps: int

    @property
    def made(self) -> Mechanism:
        """The mechanism with the steps that were charged alone."""
        return self.mechanism.after(self.steps)


class History:
    """Mechanisms and their charged steps, one after the other.

    Models of one model's weights share one. It is saved with weights, so that who loads them
    takes over what they cost; names tell which of two histories began as the other.

    Args:
      before: what `to_dict` wrote.

    Attributes:
      spent: in the order in which it was.
      opened: how many trainings were begun.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        before = before or {}
        self.spent = [
            Spent(Mechanism.from_dict(part["mechanism"]), part["steps"])
            for part in before.get("spent", [])
        ]
        self.opened: int = before.get("opened", 0)
        self.validated: bool = before.get("validated", False)
        self._name: str = before.get("name", uuid.uuid4().hex)
        # Names of what this began as or took over, with the steps that it had by then.
        self._ancestors: dict[str, int] = dict(before.get("ancestors", {}))
        self._began_as = self._name

    @property
    def steps(self) -> int:
        """How many steps were charged in all."""
        return sum(part.steps for part in self.spent)

    @property
    def made(self) -> list[Mechanism]:
        """Mechanisms of the steps that were charged."""
        return [part.made for part in self.spent if part.steps]

    @property
    def plan(self) -> Schedule | None:
        """What was released, as phases of one run, if they fit together."""
        try:
            return Schedule(tuple(self.made)) if self.made else None
        except InputError:
            return None

    def begin(self, mechanism: Mechanism, name: str) -> None:
        """Another training begins, of a name that no other has."""
        self._ancestors[self._name], self._began_as = self.steps, self._name
        self._name, self.opened = name, self.opened + 1
        # The same once more, where each step is drawn for itself, is more of the same.
        alike = isinstance(mechanism.sampling, Poisson | Stream)
        alike = alike and not mechanism.strategy.correlated
        if alike and self.spent and self.spent[-1].mechanism.after(1) == mechanism.after(1):
            return
        self.spent.append(Spent(mechanism, 0))

    def charge(self) -> None:
        """One step more of what was begun last."""
        last = self.spent[-1]
        self.spent[-1] = dataclasses.replace(last, steps=last.steps + 1)

    def take_over(self, weights: History, under_way: bool) -> None:
        """The history of weights that are loaded becomes part of this one.

        Args:
          weights: theirs. What both have in common counts once where one began as the other.
          under_way: whether a training has begun here, which goes on with those weights.
        """
        if weights.steps <= self._ancestors.get(weights._name, -1):
            return
        if weights._name == self._name:
            if weights.steps > self.steps:
                self.spent[:] = weights.spent
            return
        own = self.spent[:-1] if under_way else list(self.spent)
        going_on = self.spent[-1:] if under_way else []
        name = self._began_as if under_way else self._name
        steps = self._ancestors[name] if under_way else self.steps
        if weights._ancestors.get(name, -1) >= steps:
            own = []  # theirs begins with all of it
        self.spent[:] = [*own, *weights.spent, *going_on]
        for known, made in {**weights._ancestors, weights._name: weights.steps}.items():
            self._ancestors[known] = max(made, self._ancestors.get(known, -1))
        self.validated |= weights.validated

    def epsilon(
        self, delta: float, accountant: str = "pld", more: Mechanism | None = None
    ) -> float:
        """What was spent, with another mechanism perhaps."""
        made = [*self.made, *([more] if more is not None and more.steps else [])]
        if not made:
            return 0.0
        event = dp_accounting.ComposedDpEvent([m.event for m in made])
        relation = strongest([m.neighbouring_relation for m in made])
        return accounting.epsilon(event, delta, accountant, relation=relation)

    def room(self, mechanism: Mechanism, limit: float, delta: float) -> int:
        """How many steps of a mechanism a limit still holds, up to all of its own."""

        def exceeds(steps: int) -> bool:
            return self.epsilon(delta, more=mechanism.after(steps)) > limit

        if not exceeds(mechanism.steps):
            return mechanism.steps
        return max(0, bisect.bisect_left(range(mechanism.steps), True, key=exceeds) - 1)

    def before_last(self) -> History:
        """Without the mechanism that was begun last."""
        before = History()
        before.spent = self.spent[:-1]
        return before

    def to_dict(self) -> dict[str, Any]:
        """All of it, as plain data."""
        spent = [{"mechanism": p.mechanism.to_dict(), "steps": p.steps} for p in self.spent]
        return {
            "spent": spent,
            "opened": self.opened,
            "validated": self.validated,
            "name": self._name,
            "ancestors": self._ancestors,
        }


def strongest(relations: Sequence[str]) -> str:
    """Under which what holds under each can be counted together."""
    return max(relations, key=_STRENGTH.index)
