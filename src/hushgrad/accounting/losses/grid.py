"""The privacy losses of one pair on a grid, bounded from above and from below.

From above by connecting the dots (Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022,
arXiv 2207.04380): between two grid points, mass goes to both so that its mean ratio P/Q
stays. What that adds is of second order in the spacing, so a coarse grid is enough.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Float, Int

from hushgrad.accounting.losses.contraction import contracted
from hushgrad.accounting.losses.pairs import Pair

__all__ = ["Losses", "discretised", "moments"]

# Panels of this width, in standard deviations, are exact to rounding with six nodes of
# Gauss and Legendre up to 14 standard deviations out; those far narrower with three.
_PANEL, _NARROW = 0.1, 1e-3
# Far from zero the grid is coarser: spacing over loss, and at most.
_COARSER, _MOST = 256, 0.01


_GAUSS = {order: np.polynomial.legendre.leggauss(order) for order in (3, 6)}


@dataclasses.dataclass(frozen=True, eq=False)
class Losses:
    """Masses of privacy losses at some points of a grid.

    Attributes:
      points: whole numbers, ascending; the loss is `interval` times this.
      mass: probability of the loss under P.
      beyond: probability, at most, of a loss above them all.
    """

    interval: float
    points: Int[np.ndarray, " n"]
    mass: Float[np.ndarray, " n"]
    beyond: float


def moments(pair: Pair, tail: float) -> tuple[float, float]:
    """Mean and variance of the loss under P, but for `tail` on either side."""
    loss, mass, _ = _measured(pair, tail, None)
    mean = float(mass @ loss)
    return mean, float(mass @ np.square(loss - mean))


@functools.lru_cache(maxsize=64)
def discretised(pair: Pair, interval: float, tail: float) -> tuple[Losses, Losses]:
    """Losses at least and at most as large as the pair's.

    Args:
      pair: two mixtures of unit Gaussians.
      interval: spacing of the grid near zero.
      tail: mass that may be cut off at either end.

    Returns:
      Bounds from above and from below: composed in place of the true losses, they
      give a delta that is no lower and no higher at every epsilon.
    """
    points = _points(*pair.ends(tail), interval)
    losses = points * interval
    loss, mass, without = _measured(pair, tail, losses)
    loss = np.clip(loss, losses[0], losses[-1])
    cell = np.clip(np.searchsorted(losses, loss, "right") - 1, 0, len(points) - 2)
    width = -np.expm1(-np.diff(losses))
    share = np.clip(-np.expm1(losses[cell] - loss) / width[cell], 0, 1)
    count = len(points) - 1
    right = np.bincount(cell, mass * share, count)
    left = np.bincount(cell, mass * (1 - share), count)
    above = np.append(left, 0) + np.insert(right, 0, 0)
    above[np.searchsorted(points, 0)] += without
    # Between two dots the line exceeds the curve most if all mass is at the mean ratio.
    under_q = left + right * (1 - width)
    dips = np.divide(right * width * left, under_q, out=np.zeros(count), where=under_q > 0)
    below = contracted(points, interval, above, dips)
    if pair.negative is not None:
        above[np.searchsorted(points, 0)] += 2 * tail
    # What is cut off below had losses of up to the lowest, which the next point is not below.
    above[1] += tail
    return Losses(interval, points, above, tail), Losses(interval, points, below, 0.0)


def _measured(
    pair: Pair, tail: float, losses: Float[np.ndarray, " n"] | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Losses and their masses, exact between `losses`, and the mass that has no loss."""
    if pair.crowded is not None:
        chance, full = pair.crowded
        roomy = _by_quadrature(pair, tail, losses)
        crowded = _by_quadrature(full, tail, losses)
        mass = np.concatenate([(1 - chance) * roomy[1], chance * crowded[1]])
        return np.concatenate([roomy[0], crowded[0]]), mass, 0.0
    if pair.negative is None:
        return (*_by_quadrature(pair, tail, losses), 0.0)
    over, over_mass = _by_quadrature(pair, tail, losses)
    under, under_mass = _by_quadrature(pair.negative, tail, losses)
    loss = np.concatenate([over[over > 0], under[under < 0]])
    mass = np.concatenate([over_mass[over > 0], under_mass[under < 0]])
    # Cut off are two tails at most: so much, at least, is left.
    return loss, mass, max(0.0, 1.0 - 2 * tail - float(mass.sum()))


def _by_quadrature(
    pair: Pair, tail: float, losses: Float[np.ndarray, " n"] | None
) -> tuple[np.ndarray, np.ndarray]:
    low, high = pair.range(tail)
    ends = _panels(low, high)
    if losses is not None:
        at = np.maximum.accumulate(np.clip(pair.inverse(losses, low, high), low, high))
        ends = np.union1d(ends, at)
    x, mass = _nodes(ends)
    return pair.loss(x), mass * pair.p.density(x)


def _points(low: float, high: float, interval: float) -> Int[np.ndarray, " n"]:
    """Grid points from below `low` to above `high`, dense around zero."""
    most = max(_MOST, (high - low) / 4096) / interval

    def side(reach: float) -> list[np.ndarray]:
        """From zero out to `reach`, in runs of doubled spacing."""
        runs, start, spacing = [], 0, 1
        while start <= reach:
            wider = spacing * 2 <= most
            stop = spacing * _COARSER if wider else math.ceil(reach) + spacing
            runs.append(np.arange(start, max(stop, start + 1), spacing, dtype=np.int64))
            start, spacing = int(runs[-1][-1]) + spacing, spacing * (2 if wider else 1)
        return [*runs, np.array([start], np.int64)]

    first, last = low / interval, high / interval
    every = np.unique(np.concatenate([-p for p in side(max(0.0, -first))] + side(max(0.0, last))))
    begin = max(0, int(np.searchsorted(every, first, "right")) - 1)
    end = min(len(every) - 1, int(np.searchsorted(every, last, "left")))
    return every[begin : max(end, begin + 1) + 1]


def _panels(low: float, high: float) -> Float[np.ndarray, " n"]:
    return np.linspace(low, high, 2 + math.ceil((high - low) / _PANEL))


def _nodes(ends: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a quadrature over all panels between `ends`."""
    middle, half = (ends[1:] + ends[:-1]) / 2, np.diff(ends) / 2
    narrow = half < _NARROW
    out = []
    for chosen, order in ((narrow, 3), (~narrow, 6)):
        nodes, weights = _GAUSS[order]
        x = middle[chosen] + half[chosen] * nodes[:, None]
        out.append((x.ravel(), (half[chosen] * weights[:, None]).ravel()))
    return np.concatenate([x for x, _ in out]), np.concatenate([w for _, w in out])
