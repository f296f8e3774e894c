"""Epsilon and delta of Gaussian releases, between certified bounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from hushgrad.accounting.losses.composition import Composition, Series
from hushgrad.accounting.losses.grid import discretised, moments
from hushgrad.accounting.losses.pairs import Pair, Release, dominating

__all__ = [
    "Interval",
    "delta_interval",
    "delta_upper",
    "epsilon_interval",
    "epsilon_upper",
    "gaussian_delta",
    "gaussian_epsilon",
    "profile_upper",
]

Releases = Sequence[tuple[Release, int]]

# The grid's spacing over the standard deviation of one loss, and the mean's weight in it:
# epsilon is then too large by less than a thousandth.
_SPACING, _MEAN = 0.045, 0.01
_WIDEST = 0.5
# A lower bound is sought on finer grids until it is so near, relatively or absolutely.
_GAP, _ABSOLUTE_GAP = 5e-3, 1e-3
_POINTS = 2**20
# Share of delta that may be lost by cutting off the losses' tails.
_CUT = 1e-4
_MOST_LEVELS = 1024
# A profile goes down to this delta; one tilt serves where the best is so near, in logarithms.
_FINEST_DELTA, _SAME_TILT = 1e-15, 0.3


class Interval(NamedTuple):
    """What is certain: the true value lies between these."""

    lower: float
    upper: float


def epsilon_upper(releases: Releases, delta: float, relation: str) -> float:
    """The smallest epsilon that is certain to hold at `delta`."""
    return _Problem.of(releases, relation, upper=True).epsilon(delta)


def epsilon_interval(releases: Releases, delta: float, relation: str) -> Interval:
    """Bounds on the true epsilon at `delta`; zero below if no better bound is found."""
    upper = _Problem.of(releases, relation, upper=True).epsilon(delta)
    below = _Problem.of(releases, relation, upper=False)
    lower = below.epsilon(delta)
    for finer in (4, 16):
        if upper - lower <= max(_GAP * upper, _ABSOLUTE_GAP):
            break
        below = dataclasses.replace(below, spacing=_SPACING / finer)
        lower = max(lower, below.epsilon(delta))
    return Interval(min(lower, upper), upper)


def delta_upper(releases: Releases, epsilon: float, relation: str) -> float:
    """The smallest delta that is certain to hold at `epsilon`."""
    return _Problem.of(releases, relation, upper=True).delta(epsilon)


def profile_upper(releases: Releases, epsilons: Sequence[float], relation: str) -> list[float]:
    """`delta_upper` at many epsilons, sooner; too high where delta is below 1e-14."""
    return _Problem.of(releases, relation, upper=True).profile(epsilons)


def delta_interval(releases: Releases, epsilon: float, relation: str) -> Interval:
    """Bounds on the true delta at `epsilon`."""
    upper = _Problem.of(releases, relation, upper=True).delta(epsilon)
    lower = _Problem.of(releases, relation, upper=False).delta(epsilon)
    return Interval(min(lower, upper), upper)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The directions of a composition, each a list of pairs and how often they occur."""

    directions: tuple[tuple[tuple[Pair, int], ...], ...]
    gaussian: float
    upper: bool
    spacing: float = _SPACING

    @classmethod
    def of(cls, releases: Releases, relation: str, *, upper: bool) -> _Problem:
        """Gaussians that everybody is in compose to one Gaussian, exactly."""
        twice = 2.0 if relation == "replace-one" else 1.0
        square = math.fsum(
            count * (r.parts[0] * twice / r.noise_multiplier) ** 2
            for r, count in releases
            if r.is_gaussian
        )
        rest = _levelled([(r, n) for r, n in releases if not r.is_gaussian and n], upper)
        if not rest:
            return cls((), math.sqrt(square), upper)
        if square:
            rest.append((Release(twice / math.sqrt(square)), 1))
        pairs = [(dominating(r, relation), n) for r, n in rest]
        count = len(pairs[0][0])
        directions = tuple(tuple((p[i], n) for p, n in pairs) for i in range(count))
        return cls(directions, 0.0, upper)

    def epsilon(self, delta: float) -> float:
        """Bound on epsilon: the largest over the directions."""
        if not self.directions:
            return gaussian_epsilon(self.gaussian, delta)
        return max(self._epsilon(d, delta) for d in self.directions)

    def delta(self, epsilon: float) -> float:
        """Bound on delta: the largest over the directions."""
        if not self.directions:
            return gaussian_delta(self.gaussian, epsilon)
        return max(self._delta(d, epsilon) for d in self.directions)

    def profile(self, epsilons: Sequence[float]) -> list[float]:
        """Bounds on delta at every epsilon, with one composition for all of them."""
        if not self.directions:
            return [gaussian_delta(self.gaussian, epsilon) for epsilon in epsilons]
        each = [self._profile(d, epsilons) for d in self.directions]
        return [max(found) for found in zip(*each, strict=True)]

    def _profile(self, pairs: Sequence[tuple[Pair, int]], epsilons: Sequence[float]) -> list[float]:
        composed = self._composed(pairs, _FINEST_DELTA)
        if composed is None:
            return [0.0 for _ in epsilons]
        out, series, tilt = [], None, math.nan
        for epsilon in epsilons:
            theta = composed.tilt(epsilon=epsilon)
            if not abs(math.log(theta / tilt)) < _SAME_TILT if series else True:
                bound = math.exp(min(0.0, composed.cumulant(theta) - theta * epsilon))
                series, tilt = composed.series(theta, max(1e-3 * bound, _FINEST_DELTA)), theta
            out.append(series.deltas(upper=self.upper)(epsilon) if series else float(self.upper))
        return out

    def _epsilon(self, pairs: Sequence[tuple[Pair, int]], delta: float) -> float:
        composed = self._composed(pairs, delta)
        if composed is None:
            return 0.0
        series, theta = _series(composed, delta, delta=delta)
        if series is None:
            return _chernoff_epsilon(composed, theta, delta) if self.upper else 0.0
        return _root(series, delta, upper=self.upper)

    def _delta(self, pairs: Sequence[tuple[Pair, int]], epsilon: float) -> float:
        guess = 1e-12
        for _ in range(3):
            composed = self._composed(pairs, guess)
            if composed is None:
                return 0.0
            theta = composed.tilt(epsilon=epsilon)
            bound = min(0.5, math.exp(composed.cumulant(theta) - theta * epsilon))
            if guess <= bound:
                break
            guess = max(bound * 1e-3, 1e-290)
        series = composed.series(theta, max(bound * 1e-3, 1e-290))
        if series is None:
            return bound + composed.beyond if self.upper else 0.0
        return series.deltas(upper=self.upper)(epsilon)

    def _composed(self, pairs: Sequence[tuple[Pair, int]], delta: float) -> Composition | None:
        """The losses on a common grid; None if the bound from below has nothing left."""
        total = sum(count for _, count in pairs)
        tail = max(_CUT * delta / total, 1e-300)
        seen = [(*moments(pair, min(0.01, 0.1 * delta / total)), count) for pair, count in pairs]
        mean = math.fsum(m * count for m, _, count in seen)
        variance = math.fsum(v * count for _, v, count in seen)
        # What a grid adds must be little beside the spread of the sum or beside its mean.
        scale = math.hypot(math.sqrt(variance), _MEAN * mean)
        interval = min(_WIDEST, max(self.spacing * scale / math.sqrt(total), 1e-12))
        interval = max(interval, 16 * math.sqrt(variance) / _POINTS)
        if not self.upper:
            interval = _aligned(pairs, interval, 8 * math.sqrt(variance) / _POINTS, tail)
        which = 0 if self.upper else 1
        losses = [(discretised(pair, interval, tail)[which], count) for pair, count in pairs]
        if any(not one.mass.any() for one, _ in losses):
            return None
        return Composition(losses)


def _aligned(
    pairs: Sequence[tuple[Pair, int]], interval: float, finest: float, tail: float
) -> float:
    """A spacing that puts a point just inside of the loss of whoever takes no part.

    Where taking part is rare and then shows much, nearly all mass is there, at the end
    of all losses, and could not be moved to a point nearby without telling far less.
    """
    pair, _ = max(pairs, key=lambda part: part[1])
    nearest = (1 - 1e-9) * float(np.min(np.abs(pair.loss(np.array(pair.range(tail))))))
    if nearest >= interval:
        return nearest / math.ceil(nearest / interval)
    return nearest if nearest >= finest else interval


def _series(composed: Composition, cut: float, *, delta: float) -> tuple[Series | None, float]:
    theta = composed.tilt(delta=delta)
    return composed.series(theta, cut), theta


def _chernoff_epsilon(composed: Composition, theta: float, delta: float) -> float:
    """Sound without knowing the distribution, and less tight."""
    left = delta - composed.beyond
    return max(0.0, (composed.cumulant(theta) - math.log(left)) / theta) if left > 0 else math.inf


def _root(series: Series, delta: float, *, upper: bool) -> float:
    """Where the bound on delta reaches `delta`, on the sound side."""
    bound = series.deltas(upper=upper)
    start = max(0.0, series.first * series.interval)
    end = (series.first + series.size) * series.interval
    high = max(start, (series.base - math.log(delta)) / series.theta)
    while bound(high) > delta:
        if high > end:
            return math.inf if upper else high
        high += max(series.interval, 0.1 * abs(high))
    low, step = high, 4 * series.interval
    while bound(low) <= delta:
        if low <= start:
            # Nothing reaches delta: the bound from above is already kept here.
            return low if upper else 0.0
        low, step = max(start, low - step), 2 * step
    if low == high:
        return low
    precision = 1e-9 * max(high, 1e-6)
    found = optimize.root_scalar(
        lambda e: math.log(max(bound(e), 1e-320) / delta), bracket=(low, high), xtol=precision
    ).root
    # The bound decreases, so a step aside makes up for the root's error.
    return found + 2 * precision if upper else max(0.0, found - 2 * precision)


def _levelled(releases: Releases, upper: bool) -> list[tuple[Release, int]]:
    """Releases with equal ones counted together, and many different ones as few.

    Less noise and a higher rate never cost less, so where there are too many to compose
    one by one, noise is rounded down for a bound from above and up for one from below.
    """
    counts: dict[Release, int] = {}
    for release, count in releases:
        counts[release] = counts.get(release, 0) + count
    if len(counts) <= _MOST_LEVELS:
        return list(counts.items())
    spans = [math.log(r.noise_multiplier) for r in counts]
    step = (max(spans) - min(spans)) / (_MOST_LEVELS // 2) or 1.0
    levels: dict[Release, int] = {}
    for release, count in counts.items():
        place = (math.log(release.noise_multiplier) - min(spans)) / step
        place = math.floor(place) if upper else math.ceil(place)
        noise = math.exp(min(spans) + place * step)
        noise = (
            min(noise, release.noise_multiplier) if upper else max(noise, release.noise_multiplier)
        )
        level = dataclasses.replace(release, noise_multiplier=noise)
        levels[level] = levels.get(level, 0) + count
    return list(levels.items())


def gaussian_delta(shift: float, epsilon: float) -> float:
    """Of one Gaussian whose mean moves by `shift` deviations (Balle and Wang 2018, thm 8)."""
    if shift == 0:
        return 0.0
    first = special.log_ndtr(shift / 2 - epsilon / shift)
    second = epsilon + special.log_ndtr(-shift / 2 - epsilon / shift)
    return float(-math.exp(first) * math.expm1(min(0.0, second - first)))


def gaussian_epsilon(shift: float, delta: float) -> float:
    """The epsilon at which `gaussian_delta` is `delta`."""
    if gaussian_delta(shift, 0.0) <= delta:
        return 0.0
    high = shift * (shift / 2 + math.sqrt(2 * math.log(1 / delta))) + 1e-9
    return optimize.root_scalar(
        lambda e: math.log(max(gaussian_delta(shift, e), 1e-320) / delta),
        bracket=(0.0, high),
        xtol=1e-14 * high,
        rtol=1e-14,
    ).root
