"""How far one participant can move the steps of a matrix mechanism, for any way to take part.

Whoever takes part in the steps of a set S moves C G by the sum over S of column i of C times a
vector of at most unit length, in squared norm at most by the sum over S x S of |C^T C|. That sum
is reached where the entries are not negative. Where the worst set is found exactly or only
bounded from above stands with each function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from hushgrad.noise.participation import OncePerPass, Participation, Periodic, Spaced
from hushgrad.noise.series import turns_norm

__all__ = ["Columns", "of_columns", "of_series"]

# Row i: column i of a lower-triangular matrix, from its diagonal down.
Columns = Float[np.ndarray, "steps bands"]
# Lag d from 0 up -> |C^T C| at (i, i + d), for each i.
_Lags = Iterator[Float[np.ndarray, " steps"]]
# The noise is made with coefficients in float32, each within 2^-24 of what is counted with here.
_HEAD_ROOM = 1 + 1e-6


def of_columns(columns: Columns, pattern: Participation) -> float:
    """What one participant moves at most, in Euclidean norm.

    Exact for `Periodic`, and for `Spaced` where columns are no longer than the least separation;
    otherwise a bound, each turn with those that are worst beside it.
    """
    columns = _ended(np.asarray(columns, float))
    return _root(_largest(lambda: _gram(columns), len(columns), pattern))


def of_series(
    coefficients: Float[np.ndarray, " terms"], steps: int, pattern: Participation
) -> float:
    """The same for a Toeplitz matrix, given by its first column's first coefficients.

    Exact also for `Spaced` where they are not negative and do not grow: turns as early and as near
    to each other as they may be move most (Kalinin and Lampert 2024, arXiv 2405.13763).
    """
    c = np.asarray(coefficients, float)[:steps]
    if isinstance(pattern, Spaced | Periodic) and np.all(c >= 0) and np.all(np.diff(c) <= 0):
        turns, apart = (
            (pattern.turns, pattern.apart)
            if isinstance(pattern, Spaced)
            else (-(-steps // pattern.length), pattern.length)
        )
        return _root(turns_norm(c, steps, turns, apart)[0])
    return _root(_largest(lambda: _toeplitz_gram(c, steps), steps, pattern))


def _root(square: float) -> float:
    return math.sqrt(square) * _HEAD_ROOM


def _ended(columns: Columns) -> Columns:
    """Nothing below the last row."""
    steps, bands = columns.shape
    inside = np.arange(steps)[:, None] + np.arange(bands) < steps
    return np.where(inside, columns, 0.0)[:, : max(steps, 1)]


def _gram(columns: Columns) -> _Lags:
    steps, bands = columns.shape
    for lag in range(min(steps, bands)):
        both = columns[: steps - lag, lag:] * columns[lag:, : bands - lag]
        yield np.abs(both.sum(axis=1))


def _toeplitz_gram(c: Float[np.ndarray, " terms"], steps: int) -> _Lags:
    for lag in range(len(c)):
        sums = np.cumsum(c[: len(c) - lag] * c[lag:])
        # Row i + lag ends steps - 1 - (i + lag) rows further down.
        left = np.arange(steps - lag - 1, -1, -1)
        yield np.abs(sums[np.minimum(left, len(sums) - 1)])


def _largest(lags: Callable[[], _Lags], steps: int, pattern: Participation) -> float:
    if isinstance(pattern, Periodic):
        return _of_period(lags(), steps, pattern.length)
    if isinstance(pattern, OncePerPass):
        return _of_passes(lags(), steps, pattern.length)
    return _of_spaced(lags(), steps, pattern.turns, pattern.apart)


def _of_period(lags: _Lags, steps: int, length: int) -> float:
    total = np.zeros(steps)
    for lag, products in enumerate(lags):
        if lag % length == 0:
            total[: steps - lag] += products if lag == 0 else 2 * products
    return float(np.bincount(np.arange(steps) % length, total).max())


def _of_passes(lags: _Lags, steps: int, length: int) -> float:
    # For each step and each pass the worst turn in it beside that step.
    passes = -(-steps // length)
    worst = np.zeros((steps, passes))
    number = np.arange(steps) // length
    for lag, products in enumerate(lags):
        first = np.arange(steps - lag)
        second = first + lag
        apart = number[first] != number[second]
        if lag == 0:
            worst[first, number] = products
            continue
        for a, b in ((first, second), (second, first)):
            a, to, found = a[apart], number[b][apart], products[apart]
            worst[a, to] = np.maximum(worst[a, to], found)
    each = worst.sum(axis=1)
    return float(sum(each[number == one].max() for one in range(passes)))


def _of_spaced(lags: _Lags, steps: int, turns: int, apart: int) -> float:
    turns = min(turns, -(-steps // apart))
    each, blocks = np.zeros(steps), {}
    for lag, products in enumerate(lags):
        if lag == 0:
            each = products.copy()
        elif lag >= apart and turns > 1:
            # At most one other turn is so many separations before, and one after.
            for side, part in ((0, slice(0, steps - lag)), (1, slice(lag, steps))):
                found = blocks.setdefault((side, lag // apart), np.zeros(steps))
                found[part] = np.maximum(found[part], products)
    if blocks:
        beside = np.sort(np.stack(list(blocks.values())), axis=0)[::-1]
        each += beside[: turns - 1].sum(axis=0)
    best = np.zeros(steps)
    for _ in range(turns):
        before = np.concatenate([np.zeros(min(apart, steps)), best[: max(steps - apart, 0)]])
        best = np.maximum.accumulate(each + before)
    return float(best[-1])
