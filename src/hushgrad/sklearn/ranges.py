"""The bounds of features and targets: declared, or estimated at a price; and what they scale."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hushgrad.errors import BudgetError, InputError, ResumeError
from hushgrad.mechanism import Mechanism
from hushgrad.summaries import Counts, Histograms, bounds_of, survey
from hushgrad.training import Budget
from hushgrad.training.directory import RunDirectory

__all__ = ["Ranges", "declared", "estimated"]

_FILE = "bounds.json"


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Bounds of columns, and the scale that follows from them.

    Values are clipped to them. Where the bounds hold zero it stays zero, so that columns of
    zeros and ones stay sparse and their gradients small; else the middle becomes zero. What
    comes out lies within -1 .. 1.

    Attributes:
      low: least value of each column.
      high: largest.
    """

    low: Float[np.ndarray, " columns"]
    high: Float[np.ndarray, " columns"]

    @property
    def centre(self) -> Float[np.ndarray, " columns"]:
        """What becomes zero."""
        holds_zero = (self.low <= 0) & (self.high >= 0)
        return np.where(holds_zero, 0.0, self.low + (self.high - self.low) / 2)

    @property
    def half(self) -> Float[np.ndarray, " columns"]:
        """What becomes one unit."""
        return np.maximum(np.abs(self.low - self.centre), np.abs(self.high - self.centre))

    def clipped(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "..."]:
        """The values, or the bound nearest to them."""
        return np.clip(values, self.low, self.high)

    def scaled(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "..."]:
        """Within -1 .. 1."""
        return (self.clipped(values) - self.centre) / self.half


def declared(name: str, bounds: Any, columns: int) -> Ranges:
    """Bounds as the user gave them: a pair of numbers, or of one number for each column.

    Raises:
      InputError: if they are something else.
    """
    try:
        low, high = bounds
        ends = [np.broadcast_to(np.asarray(end, np.float64), (columns,)) for end in (low, high)]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be a pair (low, high), each a number or one for each of the {columns} "
            f"columns, got {bounds!r}"
        ) from error
    if not (np.isfinite(ends).all() and (ends[0] < ends[1]).all()):
        raise InputError(f"{name} must be finite, with low below high in each, got {bounds!r}")
    return Ranges(ends[0].copy(), ends[1].copy())


def estimated(
    values: Float[np.ndarray, "rows columns"],
    names: Sequence[str],
    histograms: Histograms,
    *,
    then: Mechanism,
    budget: Budget | None,
    directory: Path,
    seed: int | None,
) -> Ranges:
    """Bounds from noisy histograms of all columns, released once.

    They are kept in the directory, so that a fit that goes on there spends nothing again.

    Formal guarantee: that of `histograms`.

    Warns: where noise hides a column's range.
    """
    folder, facts = RunDirectory(directory), histograms.to_dict()
    with folder.locked():
        found = folder.read(_FILE)
        if found is None:
            # Before the release: should it be lost, nobody makes it a second time unawares.
            folder.write(_FILE, {**facts, "low": None, "high": None})
            counts = [Counts.of_numbers(column) for column in values.T]
            where = str(directory.resolve())
            try:
                noisy = survey(
                    counts, histograms, budget=budget, then=then, directory=where, seed=seed
                )
            except BudgetError:  # nothing was released
                (folder.path / _FILE).unlink()
                raise
            ranges = bounds_of(noisy)
            found = {**facts, "low": [r.low for r in ranges], "high": [r.high for r in ranges]}
            folder.write(_FILE, found)
            _warn([name for name, r in zip(names, ranges, strict=True) if not r.found])
    if found["low"] is None or found["histograms"] != facts["histograms"]:
        raise ResumeError(
            f"{str(directory)!r} holds other bounds, or lost those that it was charged for; use "
            "another directory, which spends anew"
        )
    return Ranges(np.array(found["low"]), np.array(found["high"]))


def _warn(hidden: list[str]) -> None:
    if hidden:
        warnings.warn(
            f"noise hides the range of {', '.join(hidden)}, which is taken as -1 to 1: declare "
            "bounds, or give bounds_fraction a larger share",
            stacklevel=5,
        )
