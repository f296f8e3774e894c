"""Mechanisms one after the other in one run: noise, batch size or clip that change."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from typing import Any

import dp_accounting

from hushgrad import accounting
from hushgrad._check import positive, whole
from hushgrad.errors import InputError
from hushgrad.mechanism import Mechanism, Plan

__all__ = ["Schedule", "schedule"]


@dataclasses.dataclass(frozen=True)
class Schedule(Plan):
    """A run in phases; made by `hushgrad.schedule`.

    Attributes:
      phases: what runs, one after the other.
    """

    phases: tuple[Mechanism, ...]

    def __post_init__(self) -> None:
        if not self.phases or not all(isinstance(m, Mechanism) for m in self.phases):
            raise InputError(f"phases must be mechanisms from hg.dp_sgd, got {self.phases!r}")
        for name in ("examples", "delta", "unit", "neighbouring_relation"):
            values = [getattr(m, name) for m in self.phases]
            if any(value != values[0] for value in values):
                raise InputError(f"all phases must have the same {name}, got {values}")
        if len({m.clip.init() is None for m in self.phases}) > 1:
            raise InputError("either all phases clip adaptively or none does; change the clips")
        sparse = {m.strategy if m.strategy.counts else None for m in self.phases}
        if len(sparse) > 1:
            raise InputError(
                "either all phases have the same sparse noise or none has, got "
                f"{[m.strategy for m in self.phases]}; change the strategies"
            )

    @property
    def examples(self) -> int:
        """Number of examples in the data set, a public fact."""
        return self.phases[0].examples

    @property
    def delta(self) -> float:
        """At which epsilon is stated unless another is asked for."""
        return self.phases[0].delta

    @property
    def unit(self) -> str:
        """Whose presence is hidden."""
        return self.phases[0].unit

    @property
    def neighbouring_relation(self) -> str:
        """What may differ between two data sets that nobody can tell apart."""
        return self.phases[0].neighbouring_relation

    @property
    def steps(self) -> int:
        """Number of noisy releases in all."""
        return sum(m.steps for m in self.phases)

    @property
    def event(self) -> dp_accounting.DpEvent:
        """All releases, composed."""
        return dp_accounting.ComposedDpEvent([m.event for m in self.phases])

    def at(self, step: int) -> tuple[Mechanism, int]:
        """The phase that a step belongs to, and the number of that phase's first step."""
        found = bisect.bisect_right(self._ends, step)
        return self.phases[found], self._ends[found] - self.phases[found].steps

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(m.steps for m in self.phases))

    def after(self, steps: int | None) -> Schedule:
        """The same schedule, stopped after so many steps."""
        if steps is None:
            return self
        left, kept = whole("steps", steps, at_least=0), []
        for m in self.phases:
            # A phase that is not reached is kept, with no steps: it says what was planned.
            made = min(left, m.steps)
            kept.append(m.after(made))
            left -= made
        kept[-1] = self.phases[-1].after(kept[-1].steps + left)
        return Schedule(tuple(kept))

    def to_dict(self) -> dict[str, Any]:
        """The schedule as plain data; equal dictionaries mean equal schedules."""
        return {"phases": [m.to_dict() for m in self.phases]}


def schedule(*phases: Mechanism, epsilon: float | None = None) -> Schedule:
    """A run whose noise, batch size, sampling or clip change along the way.

    ```python
    rough = hg.dp_sgd(examples=n, batch_size=256, epochs=5, delta=1e-5, noise_multiplier=2.0)
    fine = hg.dp_sgd(examples=n, batch_size=1024, epochs=5, delta=1e-5, noise_multiplier=1.0)
    m = hg.schedule(rough, fine, epsilon=3.0)     # or without: what they cost together
    ```

    Formal guarantee: all phases' releases together are (epsilon, delta)-differentially
    private; their losses are composed exactly, not their epsilons added.

    Args:
      phases: mechanisms for the same examples, delta, unit and neighbouring relation.
      epsilon: the target; all noise is scaled by one factor, the smallest that keeps it.

    Raises:
      InputError: if phases do not fit together, or no noise keeps the target.
    """
    planned = Schedule(phases)
    if epsilon is None:
        return planned

    def scaled(factor: float) -> dp_accounting.DpEvent:
        return dp_accounting.ComposedDpEvent(
            [m.event_with(factor * m.noise_multiplier) for m in phases]
        )

    factor = accounting.smallest_noise(
        scaled,
        positive("epsilon", epsilon),
        planned.delta,
        relation=planned.neighbouring_relation,
    )
    return Schedule(
        tuple(dataclasses.replace(m, noise_multiplier=factor * m.noise_multiplier) for m in phases)
    )
