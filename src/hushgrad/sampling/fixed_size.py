"""Batches of one size, drawn anew for every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole
from hushgrad.errors import InputError

__all__ = ["FixedSize"]


@dataclasses.dataclass(frozen=True)
class FixedSize:
    """Each batch is `batch_size` different examples, drawn without replacement.

    Neighbouring data sets differ in one example that is replaced by another
    ("replace-one"), since without it all others would be drawn otherwise; the example
    may move a sum by two clips, so the same epsilon takes more noise than `Poisson`'s.
    Amplified by sampling as by Balle, Barthe and Gaboardi 2018 (arXiv 1807.01647).

    Raises:
      InputError: if `batch_size` is no positive whole number.
    """

    batch_size: int

    kind = "fixed-size"
    neighbouring_relation = "replace-one"
    words = "samples of one size"

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size))

    @classmethod
    def of(cls, examples: int, batch_size: int) -> FixedSize:
        """The sampler for a data set and a batch size."""
        return cls(batch_size)

    def describe(self, batch_size: int) -> str:
        """After "so many steps", as in a statement."""
        return f"{batch_size:,} examples drawn for each without replacement"

    def expected_size(self, examples: int) -> float:
        """Of a batch."""
        return float(self.batch_size)

    def batch(
        self, step: int, examples: int, generator: Callable[[int], np.random.Generator]
    ) -> Int[np.ndarray, " drawn"]:
        """The rows of one step, in increasing order.

        Args:
          step: its number, from 0.
          examples: how many rows there are, at least a batch.
          generator: number -> a source of chance; here one for each step.
        """
        if self.batch_size > whole("examples", examples):
            raise InputError(f"examples must be at least a batch, got {examples}")
        return np.sort(generator(step).choice(examples, self.batch_size, replace=False))
