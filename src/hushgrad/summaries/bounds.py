"""The range of a column of numbers, from a histogram over a grid that suits all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

if TYPE_CHECKING:
    from hushgrad.summaries.release import Noisy

__all__ = ["EDGES", "Range", "bounds_of", "cells", "records_of"]

# Four cells for each doubling, from a millionth to 2^63, on either side of zero: a bound is
# at most 19% too wide.
_PER_DOUBLING, _FIRST, _LAST = 4, -20, 63
_MAGNITUDES = 2.0 ** np.linspace(_FIRST, _LAST, (_LAST - _FIRST) * _PER_DOUBLING + 1)
EDGES = np.concatenate([-_MAGNITUDES[::-1], [0.0], _MAGNITUDES])
"""The grid: cell i has magnitudes from the edge nearer to zero, excluded, to the other."""

_ZERO = len(_MAGNITUDES)
# The probability that noise alone is taken for records, in one column.
_SPURIOUS = 1e-3


class Range(NamedTuple):
    """A column's range.

    Attributes:
      low: least value.
      high: largest.
      found: noise did not hide it.
    """

    low: float
    high: float
    found: bool


def cells(values: Float[np.ndarray, " examples"]) -> Float[np.ndarray, " cells"]:
    """How many values are in each cell of the grid; NaN is in none.

    A value nearer to zero than a millionth counts as zero; one beyond 2^63 as that.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    size = np.clip(np.abs(values), 0, _MAGNITUDES[-1])
    # 0 for zeros; 1 for the first cell, which ends at the first magnitude; and so on.
    place = np.searchsorted(_MAGNITUDES, size, side="left") + (size >= _MAGNITUDES[0])
    place = np.where(size < _MAGNITUDES[0], 0, np.minimum(place, _ZERO))
    signed = np.where(values < 0, -place, place) + _ZERO
    return np.bincount(signed, minlength=2 * _ZERO + 1).astype(np.float64)


def bounds_of(columns: Sequence[Noisy]) -> list[Range]:
    """The range of each column, from its histogram with noise.

    It reaches from the first to the last cell whose count is above what noise alone gives; so
    few records beyond do not count, and are clipped to it. Where there is no such cell, the
    range is that from -1 to 1, and `found` says so. It looks at counts with noise alone, so it
    costs nothing more.
    """
    return [_range(column.numbers, column.stddev) for column in columns]


def records_of(column: Noisy) -> float:
    """About how many records have a number in a column, from its histogram with noise."""
    return float(column.numbers[_above(column.numbers, column.stddev)].sum())


def _above(counts: Float[np.ndarray, " cells"], stddev: float) -> np.ndarray:
    """The cells with more than what noise alone gives."""
    least = stddev * float(stats.norm.isf(_SPURIOUS / len(counts)))
    return np.flatnonzero(counts > max(least, 0.5))


def _range(counts: Float[np.ndarray, " cells"], stddev: float) -> Range:
    above = _above(counts, stddev)
    if not len(above):
        return Range(-1.0, 1.0, False)
    low, high = _edges(int(above[0]))[0], _edges(int(above[-1]))[1]
    # One cell alone, of zeros, has no width.
    return Range(low, high if high > low else low + 1.0, True)


def _edges(cell: int) -> tuple[float, float]:
    """Of one cell, the lower one first."""
    place = cell - _ZERO
    if not place:
        return 0.0, 0.0
    ends = [0.0 if p == 0 else float(_MAGNITUDES[p - 1]) for p in (abs(place) - 1, abs(place))]
    return (ends[0], ends[1]) if place > 0 else (-ends[1], -ends[0])
