"""Cyclic Poisson sampling: coins for one part of the data after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.sampling.poisson import Poisson

__all__ = ["CyclicPoisson"]


@dataclasses.dataclass(frozen=True)
class CyclicPoisson:
    """Step t draws each example of part t mod `cycle` with probability `rate`.

    Row i is in part i mod `cycle`, so between two batches with the same example lie at
    least `cycle` steps: what correlated noise needs (Choquette-Choo et al. 2023, arXiv
    2306.08153). With independent noise, `Poisson` costs less for the same batch size.

    Neighbouring data sets differ in one example that leaves an empty place, which adds
    nothing to a batch ("replace-special"): closing the gap would move others to other
    parts.

    Raises:
      InputError: if `rate` is not in (0, 1] or `cycle` is no positive whole number.
    """

    rate: float
    cycle: int

    kind = "cyclic-poisson"
    neighbouring_relation = "replace-special"
    words = "Poisson samples of parts of the data"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", Poisson(self.rate).rate)
        object.__setattr__(self, "cycle", whole("cycle", self.cycle))

    @classmethod
    def of(cls, examples: int, batch_size: int, cycle: int = 2) -> CyclicPoisson:
        """The sampler for a data set and an expected batch size.

        Raises:
          InputError: if a part of the data is smaller than a batch.
        """
        if batch_size * cycle > examples:
            raise InputError(
                f"batch_size must be at most examples / cycle = {examples / cycle:g}, got "
                f"{batch_size}; take a shorter cycle"
            )
        return cls(batch_size * cycle / examples, cycle)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return (
            f"Poisson sampling with probability {self.rate:.6g} from one of {self.cycle:,} "
            f"parts of the data after the other (expected batch size {batch_size:,})"
        )

    def expected_size(self, examples: int) -> float:
        """Of a batch, on average over a cycle."""
        return self.rate * examples / self.cycle

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """The rows of one step, in increasing order.

        Args:
          step: its number, from 0.
          examples: how many rows there are.
          generator: number -> a source of chance; here one for each step.
        """
        part = step % self.cycle
        rows = len(range(part, whole("examples", examples), self.cycle))
        if not rows:
            return np.zeros(0, np.int64)
        return part + self.cycle * Poisson(self.rate).draw(rows, generator(step))
