"""Poisson sampling with a ceiling on the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int
from scipy import stats

from hushgrad._check import whole
from hushgrad.sampling.poisson import Poisson

__all__ = ["TruncatedPoisson"]

# How often, at most, a batch is cut where the user does not say where.
_RARELY = 1e-9


@dataclasses.dataclass(frozen=True)
class TruncatedPoisson:
    """A Poisson sample, cut to `most` examples chosen at random among those drawn.

    So no batch exceeds what the memory holds. Where the batch is full, an example that
    joins it takes another's place, and the sum moves by two clips: the cost is that of
    `Poisson` and a little more, by the probability that a batch is full.

    Raises:
      InputError: if `rate` is not in (0, 1] or `most` is no positive whole number.
    """

    rate: float
    most: int

    kind = "truncated-poisson"
    neighbouring_relation = "add-or-remove-one"
    words = "Poisson samples cut to a size"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", Poisson(self.rate).rate)
        object.__setattr__(self, "most", whole("most", self.most))

    @classmethod
    def of(cls, examples: int, batch_size: int, most: int | None = None) -> TruncatedPoisson:
        """The sampler for a data set and an expected batch size.

        Args:
          examples: how many rows there are.
          batch_size: expected before the cut.
          most: where to cut; by default where one in 1e9 batches is.
        """
        rate = batch_size / examples
        if most is None:
            most = int(stats.binom.isf(_RARELY, examples, rate))
        return cls(rate, most)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return (
            f"Poisson sampling with probability {self.rate:.6g} "
            f"(expected batch size {batch_size:,}), cut to {self.most:,}"
        )

    def expected_size(self, examples: int) -> float:
        """Of a batch, before the cut."""
        return self.rate * examples

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """The rows of one step, in increasing order.

        Args:
          step: its number, from 0.
          examples: how many rows there are.
          generator: number -> a source of chance; here one for each step.
        """
        rng = generator(step)
        drawn = Poisson(self.rate).draw(examples, rng)
        if len(drawn) <= self.most:
            return drawn
        return np.sort(rng.choice(drawn, self.most, replace=False))
