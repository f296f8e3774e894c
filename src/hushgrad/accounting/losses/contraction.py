"""From above the truth to below it: a distribution of losses with less spread.

The share of time that the ratio P/Q exceeds a number, summed up, is the convex function
delta(a) = E_Q[(P/Q - a)+]. Lower convex functions belong to pairs that are harder to tell
apart. So a piecewise linear convex function below delta(a), with its corners on the
grid, gives losses on the grid whose compositions are bounds from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

__all__ = ["contracted"]

_TRIES = 64


def contracted(
    points: Int[np.ndarray, " n"],
    interval: float,
    above: Float[np.ndarray, " n"],
    dips: Float[np.ndarray, " n-1"],
) -> Float[np.ndarray, " n"]:
    """Masses at grid points that are dominated by the true losses.

    Args:
      points: the grid points, as multiples of `interval`.
      interval: the spacing of the finest grid.
      above: masses under P whose delta(a) joins the true one at the grid points by
        straight lines (connect the dots).
      dips: by how much the true curve at most lies below each line.
    """
    width = np.diff(points) * interval
    fall = np.maximum(np.concatenate([[0], dips]), np.concatenate([dips, [0]]))
    put, call = _ends(points, interval, above)
    first, last = 0, len(points) - 1
    # Lowered by `fall` at its corners, a line lies below the curve. On the left the
    # curve's own first line takes over where it is higher, on the right zero.
    for _ in range(_TRIES):
        first = _next(fall, put, range(first, len(points)))
        last = _next(fall, call, range(last, -1, -1))
        if first >= last:
            break
        lowered = fall.copy()
        for i in range(max(0, first - 1), first + 1):
            lowered[i] = put(i)
        for i in range(last, min(last + 2, len(points))):
            lowered[i] = call(i)
        out = above - _bend(lowered, width)
        out[:first], out[last + 1 :] = 0, 0
        out[first : last + 1] = _convex(points[first : last + 1], interval, out[first : last + 1])
        if out[first] >= 0 and out[last] >= 0:
            return out
        first, last = first + int(out[first] < 0), last - int(out[last] < 0)
    return _one_point(points, interval, above)


def _bend(lowered: Float[np.ndarray, " n"], width: Float[np.ndarray, " n-1"]) -> np.ndarray:
    """Mass that a change of the curve at the grid points takes away."""
    rise = np.diff(lowered)
    right = np.append(rise / np.expm1(width), -lowered[-1])
    left = np.insert(rise / -np.expm1(-width), 0, lowered[0])
    return right - left


def _ends(
    points: np.ndarray, interval: float, above: np.ndarray
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """The curve's height over its first line, and over zero, at a grid point."""

    def put(i: int) -> float:
        far = np.expm1(np.minimum((points[i] - points[:i]) * interval, 700.0))
        return float(above[:i] @ far)

    def call(i: int) -> float:
        return float(above[i + 1 :] @ -np.expm1((points[i] - points[i + 1 :]) * interval))

    return put, call


def _next(fall: np.ndarray, height: Callable[[int], float], order: range) -> int:
    for i in order:
        if fall[i] <= height(i):
            return i
    return order[-1]


def _one_point(points: np.ndarray, interval: float, above: np.ndarray) -> np.ndarray:
    """All mass at one point, no higher than the logarithm of the mean ratio."""
    under_q = float(above @ np.exp(-points * interval))
    at = int(np.searchsorted(points * interval, math.log(above.sum() / under_q), "right")) - 1
    out = np.zeros_like(above)
    if at >= 0:
        out[at] = under_q * math.exp(points[at] * interval)
    return out


def _convex(points: np.ndarray, interval: float, mass: np.ndarray) -> np.ndarray:
    """The curve's convex hull: corners that bend the wrong way go to their neighbours.

    The first or the last may stay negative: then they are no corners of the hull.
    """
    wrong = [int(i) for i in np.flatnonzero(mass < 0)]
    out = mass.copy()
    before = np.arange(-1, len(out) - 1)
    after = np.arange(1, len(out) + 1)
    while wrong:
        i = wrong.pop()
        a, b = int(before[i]), int(after[i])
        if out[i] >= 0 or a < 0 or b >= len(out):
            continue
        share, out[i] = out[i], 0.0
        left, right = (points[i] - points[a]) * interval, (points[b] - points[i]) * interval
        whole = math.expm1(-left - right)
        out[a] += share * math.exp(-left) * math.expm1(-right) / whole
        out[b] += share * math.expm1(-left) / whole
        after[a], before[b] = b, a
        wrong.extend(j for j in (a, b) if out[j] < 0)
    return out
