"""In the order of the rows: no chance at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole

__all__ = ["InOrder"]


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Each pass over the data goes through the rows as they lie, `batch_size` at a time.

    For records in the order in which they arrived, of which the later ones need not be there
    when training begins, and for data too large to be read in any other order. The last batch of
    a pass may be smaller. In every pass a row is in the batch that it was in before, which noise
    that cancels between steps (`hushgrad.dp_ftrl`) hides at less cost than if it moved.

    Neighbouring data sets differ in one example that leaves an empty place, which adds
    nothing to a batch ("replace-special"): closing the gap would move others to other batches.
    The order itself must not tell of anybody: it is taken for public.

    Raises:
      InputError: if `batch_size` is no positive whole number.
    """

    batch_size: int

    kind = "in-order"
    neighbouring_relation = "replace-special"
    words = "each example once per epoch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size))

    @classmethod
    def of(cls, examples: int, batch_size: int) -> InOrder:
        """The sampler for a data set and a batch size."""
        return cls(batch_size)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return f"batches of {batch_size:,} in the order of the data"

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
          generator: not used.
        """
        start = step % self.per_epoch(examples) * self.batch_size
        return np.arange(start, min(start + self.batch_size, examples))
