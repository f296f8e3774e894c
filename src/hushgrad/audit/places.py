"""Data in which some places are canaries': who is there, and which is whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from hushgrad.training.data import Source

__all__ = ["Places", "Replaced"]


class Places(Source):
    """Another source, with each row's number among the canaries before it, or -1.

    Args:
      source: the data.
      places: rows that are canaries', in increasing order.
      included: which of them are there.
      lenders: rows that are not there, because canaries are made of them.
    """

    def __init__(
        self,
        source: Source,
        places: Int[np.ndarray, " canaries"],
        included: Bool[np.ndarray, " canaries"],
        lenders: Int[np.ndarray, " lenders"] | None = None,
    ) -> None:
        self._source, self._places, self._included = source, places, included
        self._lenders = np.empty(0, np.int64) if lenders is None else lenders
        self.size, self.hashed = source.size, source.hashed
        self.content = (source.content, places, included)

    def numbers(self, rows: Int[np.ndarray, " block"]) -> Int[np.ndarray, " block"]:
        """Which canary has a row's place; -1 for none."""
        at = np.minimum(np.searchsorted(self._places, rows), len(self._places) - 1)
        return np.where(self._places[at] == rows, at, -1).astype(np.int32)

    def present(self, rows: Int[np.ndarray, " block"]) -> Bool[np.ndarray, " block"]:
        """Whether a row is there, not a lender or a canary whose coin fell the other way."""
        numbers = self.numbers(rows)
        there = self._source.present(rows) & ~np.isin(rows, self._lenders)
        return there & ((numbers < 0) | self._included[numbers])

    def drawn(self, rows: Int[np.ndarray, " block"], rng: np.random.Generator) -> Any:
        """The canaries' numbers, and what the data draw."""
        return self.numbers(rows), self._source.drawn(rows, rng)

    def read(self, drawn: Any) -> tuple[Any, ...]:
        """The numbers before the loss's arguments."""
        numbers, inner = drawn
        return numbers, *self._source.read(inner)

    def loss(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """As the data's, without the number: who has it takes it off first."""
        return self._source.loss(loss)


class Replaced(Places):
    """Rows of which the canaries' are others.

    Formal guarantee: where each canary is made of its own row and of lenders that no other canary
    has, nobody has a part in two rows, and what hides a row hides all that is theirs.

    Args:
      source: the data.
      places: rows that are canaries', in increasing order.
      included: which of them are there.
      rows: what the canaries are, the loss's arguments stacked; None for the rows themselves.
      lenders: rows that are not there, because canaries are made of them.
    """

    def __init__(
        self,
        source: Source,
        places: Int[np.ndarray, " canaries"],
        included: Bool[np.ndarray, " canaries"],
        rows: Any,
        lenders: Int[np.ndarray, " lenders"] | None = None,
    ) -> None:
        super().__init__(source, places, included, lenders)
        self._rows, self.content = rows, (*self.content, lenders, rows)

    def read(self, drawn: Any) -> tuple[Any, ...]:
        """The loss's arguments, those of canaries in the places of the others'."""
        numbers, *batch = super().read(drawn)
        if self._rows is None:
            return tuple(batch)

        def replaced(leaf: np.ndarray, rows: np.ndarray) -> np.ndarray:
            canary = (numbers >= 0).reshape(-1, *[1] * (leaf.ndim - 1))
            return np.where(canary, rows[numbers], leaf).astype(leaf.dtype)

        return tuple(jax.tree.map(replaced, tuple(batch), self._rows))
