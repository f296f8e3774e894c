"""A stream: batches in an order that somebody else chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole
from hushgrad.errors import InputError

__all__ = ["Stream"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches come as they come: from a generator, a queue, a data loader of another library.

    Nothing is known of who is in which batch, so an example is accounted for as if it were in
    every one, once in each at most. That is the price of data that cannot be drawn at random:
    there is no amplification by sampling.

    Neighbouring data sets differ in one example that leaves an empty place ("replace-special"),
    as for streams it must be: closing the gap would move others to other batches.

    Raises:
      InputError: if `batch_size` is no positive whole number.
    """

    batch_size: int

    kind = "stream"
    neighbouring_relation = "replace-special"
    words = "each example in every batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size))

    @classmethod
    def of(cls, examples: int, batch_size: int) -> Stream:
        """The sampler for a batch size."""
        return cls(batch_size)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return f"batches of {batch_size:,} as they came, in an order that hushgrad did not choose"

    def expected_size(self, examples: int) -> float:
        """Of a batch."""
        return float(self.batch_size)

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """A stream's batches are given, not drawn.

        Raises:
          InputError: always.
        """
        raise InputError(
            "sampling=Stream is for batches that are given, as to Keras's fit(generator); data "
            "that can be drawn from is trained on with hg.sampling.Poisson"
        )
