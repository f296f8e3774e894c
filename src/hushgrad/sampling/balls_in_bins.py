"""Balls in bins: in every pass, each example chooses its batch by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole

__all__ = ["BallsInBins"]


@dataclasses.dataclass(frozen=True)
class BallsInBins:
    """In each pass, each example is in one of `bins` batches, chosen at random by itself.

    Every example once per pass, as with `Shuffle`, but no example's batch depends on
    another's: data sets may differ by one example more or less ("add-or-remove-one").
    Batches have random sizes (Chua et al. 2024, arXiv 2412.16802). Their amplification
    by sampling is known by simulation only, so none is claimed: each pass is accounted
    for as one release that the example is in.

    Raises:
      InputError: if `bins` is no positive whole number.
    """

    bins: int

    kind = "balls-in-bins"
    neighbouring_relation = "add-or-remove-one"
    words = "each example once per epoch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", whole("bins", self.bins))

    @classmethod
    def of(cls, examples: int, batch_size: int) -> BallsInBins:
        """The sampler for a data set and an expected batch size, rounded down."""
        return cls(-(-examples // batch_size))

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return (
            "in every epoch each example in one batch of its own choice "
            f"(expected batch size {batch_size:,})"
        )

    def expected_size(self, examples: int) -> float:
        """Of a batch."""
        return examples / self.bins

    def per_epoch(self, examples: int) -> int:
        """Batches in one pass."""
        return self.bins

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """The rows of one step, in increasing order.

        Args:
          step: its number, from 0.
          examples: how many rows there are.
          generator: number -> a source of chance; here one for each pass.
        """
        epoch, position = divmod(step, self.bins)
        chosen = generator(epoch).integers(0, self.bins, whole("examples", examples))
        return np.flatnonzero(chosen == position)
