"""Batches of whoever comes, each seldom enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole
from hushgrad.errors import InputError

__all__ = ["CheckIn"]


@dataclasses.dataclass(frozen=True)
class CheckIn:
    """Batches are of those who are there, but nobody is in them too often or too soon again.

    ```python
    sampling = hg.sampling.CheckIn(6500, min_separation=313, max_participations=6)
    m = hg.dp_ftrl(examples=users, batch_size=6500, steps=2000, sampling=sampling, ...)
    ```

    What devices on a network do: they come when they are idle and charging, so no batch can be
    drawn at random, and there is no amplification by sampling. Whoever gives the batches must
    keep the two rules; `hushgrad.federated` does, by a durable record of who took part.

    Neighbouring data sets differ in one user who leaves an empty place ("replace-special"):
    whether they come must not depend on others.

    Args:
      batch_size: expected size of a batch.
      min_separation: least number of steps from one in which somebody takes part to the next: 1
        allows for every step.
      max_participations: most steps that anybody takes part in; None for any number.

    Raises:
      InputError: if a number is not positive and whole.
    """

    batch_size: int
    _: dataclasses.KW_ONLY
    min_separation: int = 1
    max_participations: int | None = None

    kind = "check-in"
    neighbouring_relation = "replace-special"
    words = "whoever comes, seldom enough"

    def __post_init__(self) -> None:
        for name in ("batch_size", "min_separation", "max_participations"):
            if getattr(self, name) is not None or name != "max_participations":
                object.__setattr__(self, name, whole(name, getattr(self, name)))

    @classmethod
    def of(cls, examples: int, batch_size: int) -> CheckIn:
        """The sampler for a batch size, by whose rules anybody may be in every batch."""
        return cls(batch_size)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        most = self.max_participations
        turns = "any number of" if most is None else f"at most {most:,}"
        return (
            f"batches of about {batch_size:,} of whoever was there, each in {turns} steps, with at "
            f"least {self.min_separation:,} from one to the next"
        )

    def expected_size(self, examples: int) -> float:
        """Of a batch."""
        return float(self.batch_size)

    def turns(self, steps: int) -> int:
        """How many of so many steps anybody takes part in at most."""
        fitting = -(-steps // self.min_separation)
        return fitting if self.max_participations is None else min(self.max_participations, fitting)

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """Who comes is not drawn.

        Raises:
          InputError: always.
        """
        raise InputError(
            "sampling=CheckIn is for cohorts that are given, as to hushgrad.federated; data that "
            "can be drawn from is trained on with hg.sampling.Poisson"
        )
