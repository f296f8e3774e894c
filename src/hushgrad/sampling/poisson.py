"""Poisson sampling: every example joins every batch by its own coin."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import positive, whole
from hushgrad.errors import InputError

__all__ = ["Poisson"]


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Each example is in each batch with probability `rate`, independently.

    ```python
    sampler = hg.sampling.Poisson(rate=256 / 60_000)
    rows = sampler.draw(60_000, rng)          # sorted, distinct, about 256 of them
    ```

    Batches have random sizes, zero included: an empty batch is an ordinary one.
    This is the sampling that privacy amplification by subsampling is proved for
    (Abadi et al. 2016, arXiv 1607.00133; Balle et al. 2018, arXiv 1807.01647);
    shuffled batches do not have it.

    Raises:
      InputError: if `rate` is not in (0, 1].
    """

    rate: float

    kind = "poisson"
    neighbouring_relation = "add-or-remove-one"
    words = "Poisson sampling"

    def __post_init__(self) -> None:
        rate = positive("rate", self.rate)
        if rate > 1:
            raise InputError(f"rate is a probability, at most 1, got {self.rate!r}")
        object.__setattr__(self, "rate", rate)

    @classmethod
    def of(cls, examples: int, batch_size: int) -> Poisson:
        """The sampler for a data set and an expected batch size."""
        return cls(batch_size / examples)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        expected = f"(expected batch size {batch_size:,})"
        return f"Poisson sampling with probability {self.rate:.6g} {expected}"

    def expected_size(self, examples: int) -> float:
        """Of a batch."""
        return self.rate * examples

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """The rows of one step, from a source of chance of its own."""
        return self.draw(examples, generator(step))

    def draw(self, examples: int, rng: np.random.Generator) -> Int[np.ndarray, " drawn"]:
        """Draws one batch of row numbers, in increasing order.

        The gaps between chosen rows are geometric, so the cost is that of the
        batch, not of the data set.

        Args:
          examples: how many rows there are.
          rng: the source of chance; who was drawn is as secret as the noise.
        """
        examples = whole("examples", examples)
        if self.rate == 1:
            return np.arange(examples)
        expected = examples * self.rate
        size = int(expected + 6 * math.sqrt(expected)) + 16
        chosen, last = [], -1
        while last < examples:
            # A gap beyond the end may be as large as an int64; cut before summing.
            gaps = np.minimum(rng.geometric(self.rate, size=size), examples + 1)
            rows = last + np.cumsum(gaps)
            chosen.append(rows)
            last = int(rows[-1])
        rows = np.concatenate(chosen)
        return rows[: np.searchsorted(rows, examples)]
