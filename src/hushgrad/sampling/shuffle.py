"""Shuffled epochs: every example once in every pass over the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole

__all__ = ["Shuffle"]


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """Each pass over the data is one permutation, cut into batches of `batch_size`.

    The last batch of a pass may be smaller. No amplification by sampling is claimed:
    what is proved for Poisson sampling does not hold for shuffled batches (Chua et al.
    2024, arXiv 2403.17673), so each pass is accounted for as one release that the
    example is in. It is what other systems' data loaders do, at the price of far more
    noise for the same epsilon; `Poisson` is the better choice wherever it can be had.

    Neighbouring data sets differ in one example that leaves an empty place, which adds
    nothing to a batch ("replace-special"): closing the gap would change other batches.

    Raises:
      InputError: if `batch_size` is no positive whole number.
    """

    batch_size: int

    kind = "shuffle"
    neighbouring_relation = "replace-special"
    words = "each example once per epoch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size))

    @classmethod
    def of(cls, examples: int, batch_size: int) -> Shuffle:
        """The sampler for a data set and a batch size."""
        return cls(batch_size)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return f"shuffled batches of {batch_size:,}"

    def expected_size(self, examples: int) -> float:
        """Of a batch, but for the last of a pass."""
        return float(self.batch_size)

    def per_epoch(self, examples: int) -> int:
        """Batches in one pass."""
        return -(-whole("examples", examples) // self.batch_size)

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """The rows of one step, in increasing order.

        Args:
          step: its number, from 0.
          examples: how many rows there are.
          generator: number -> a source of chance; here one for each pass.
        """
        epoch, position = divmod(step, self.per_epoch(examples))
        order = generator(epoch).permutation(examples)
        start = position * self.batch_size
        return np.sort(order[start : start + self.batch_size])
