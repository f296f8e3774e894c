"""Epsilon and delta of Gaussian releases, between certified bounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from hushgrad.accounting.losses.composition import Composition, Series
from hushgrad.accounting.losses.gaussian import gaussian_delta, gaussian_epsilon
from hushgrad.accounting.losses.grid import discretised, moments
from hushgrad.accounting.losses.levels import MOST_LEVELS, levelled, resolved
from hushgrad.accounting.losses.pairs import Pair, Release, dominating

__all__ = [
    "Interval",
    "composed_for",
    "delta_interval",
    "delta_upper",
    "epsilon_interval",
    "epsilon_upper",
    "profile_upper",
    "root",
]

Releases = Sequence[tuple[Release, int]]

# The grid's spacing over the standard deviation of one loss, at most and where that takes
# no more points than this; and the mean's weight beside the deviation. Epsilon is too large
# by less than a thousandth, or a ten thousandth.
_SPACING, _FINE, _FINE_POINTS = 0.045, 0.02, 2**17
_MEAN = 0.01
_WIDEST = 0.5
# Tilts over the best of Chernoff bounds; and the logarithm of such a bound over the tail that
# it bounds, from which on the tail is too small beside the errors.
_TILTS, _DROWNED = (0.7, 0.85, 1.0), 14.0
# Spacing over epsilon, at most, where that can be had.
_RESOLVED = 0.04
# How much coarser the grid is made where a window of it would be too long.
_COARSER = (1.0, 2.0, 4.0, 8.0, 32.0, 128.0)
# A lower bound is sought on finer grids until it is so near, relatively or absolutely.
_GAP, _ABSOLUTE_GAP = 5e-3, 1e-3
_POINTS = 2**20
# Share of delta that may be lost by cutting off the losses' tails.
_CUT = 1e-6
# A profile goes down to this delta; one tilt serves where the best is so near, in logarithms.
_FINEST_DELTA, _SAME_TILT = 1e-15, 0.3
# Deviations of the noise that somebody's part moves a sum by, at which that is plain.
_BARE = 1e4
# Larger shifts have squares that are no numbers.
_LARGEST_SHIFT = 1e140
_SMALLEST_DELTA = 1e-290
# Of a delta that is reached, relatively.
_PRECISION = 1e-8


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
        if upper - lower <= max(_GAP * upper, _ABSOLUTE_GAP) or below.levelled:
            break
        below = dataclasses.replace(below, finer=finer)
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


def composed_for(pairs: Sequence[tuple[Pair, int]], delta: float, coarser: float) -> Composition:
    """The losses of some pairs, from above, on a grid that suits their sum at `delta`."""
    composed = _Problem((tuple(pairs),), 0.0, True, 1.0).composed(pairs, delta, coarser)
    assert composed is not None
    return composed


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The directions of a composition, each a list of pairs and how often they occur.

    Attributes:
      gaussian: the shift of the one Gaussian that all is, where there are no directions.
      upper: whether bounds are sought from above.
      seen: probability, at most, that somebody takes part in any release.
      finer: than the usual grid.
    """

    directions: tuple[tuple[tuple[Pair, int], ...], ...]
    gaussian: float
    upper: bool
    seen: float
    finer: int = 1

    @property
    def bare(self) -> bool:
        """So little noise that whoever takes part is seen."""
        means = [m for pairs in self.directions for p, _ in pairs for m in (*p.p.means, *p.q.means)]
        return max((abs(m) for m in means), default=0.0) > _BARE

    @property
    def levelled(self) -> bool:
        """So many noise levels that a finer grid would not help."""
        return any(len(pairs) > MOST_LEVELS // 4 for pairs in self.directions)

    @property
    def coarser(self) -> Sequence[float]:
        """How much coarser grids may get; a bound from below bears little of it."""
        return _COARSER if self.upper else _COARSER[:2]

    @property
    def longest(self) -> int:
        """Points of the longest window; a bound from below bears no coarser grid."""
        return 2**21 if self.upper else 2**23

    @classmethod
    def of(cls, releases: Releases, relation: str, *, upper: bool) -> _Problem:
        """Gaussians that everybody is in compose to one Gaussian, exactly."""
        twice = 2.0 if relation == "replace-one" else 1.0
        square = math.fsum(
            count * min(_LARGEST_SHIFT, r.parts[0] * twice / r.noise_multiplier) ** 2
            for r, count in releases
            if r.is_gaussian
        )
        sampled = [(r, n) for r, n in releases if not r.is_gaussian and n and r.moves]
        rest = levelled([(resolved(r, upper), n) for r, n in sampled], upper)
        rest = [(r, n) for r, n in rest if r.moves]
        seen = min(1.0, math.fsum(r.seen * n for r, n in rest)) if not square else 1.0
        if not rest:
            return cls((), math.sqrt(square), upper, 1.0)
        if square:
            rest.append((Release(twice / math.sqrt(square)), 1))
        pairs = [(dominating(r, relation), n) for r, n in rest]
        count = len(pairs[0][0])
        directions = tuple(tuple((p[i], n) for p, n in pairs) for i in range(count))
        return cls(directions, 0.0, upper, seen)

    def epsilon(self, delta: float) -> float:
        """Bound on epsilon: the largest over the directions."""
        if not self.directions:
            return gaussian_epsilon(self.gaussian, delta, upper=self.upper)
        if self.seen <= delta:
            return 0.0
        if self.bare:
            return math.inf if self.upper else 0.0
        return max(self._epsilon(d, delta) for d in self.directions)

    def delta(self, epsilon: float) -> float:
        """Bound on delta: the largest over the directions."""
        if not self.directions:
            return gaussian_delta(self.gaussian, epsilon, upper=self.upper)
        if self.bare:
            return self.seen if self.upper else 0.0
        found = max(self._delta(d, epsilon) for d in self.directions)
        return min(found, self.seen) if self.upper else found

    def profile(self, epsilons: Sequence[float]) -> list[float]:
        """Bounds on delta at every epsilon, with one composition for all of them."""
        if not self.directions:
            return [self.delta(epsilon) for epsilon in epsilons]
        if self.bare:
            return [self.seen for _ in epsilons]
        each = [self._profile(d, epsilons) for d in self.directions]
        return [min(self.seen, max(found)) for found in zip(*each, strict=True)]

    def _profile(self, pairs: Sequence[tuple[Pair, int]], epsilons: Sequence[float]) -> list[float]:
        composed = self.composed(pairs, _FINEST_DELTA)
        if composed is None:
            return [0.0 for _ in epsilons]
        out, series, tilt = [], None, math.nan
        for epsilon in epsilons:
            theta = composed.tilt(epsilon=epsilon)
            if not abs(math.log(theta / tilt)) < _SAME_TILT if series else True:
                bound = math.exp(min(0.0, composed.cumulant(theta) - theta * epsilon))
                cut = max(1e-3 * bound, _FINEST_DELTA)
                series, tilt = composed.series(theta, cut, self.longest), theta
            out.append(series.deltas(upper=self.upper)(epsilon)[0] if series else float(self.upper))
        return out

    def _epsilon(self, pairs: Sequence[tuple[Pair, int]], delta: float) -> float:
        worst, found = 0.0, None
        for coarser in self.coarser:
            composed = self.composed(pairs, delta, coarser)
            if composed is None:
                return 0.0
            theta = composed.tilt(delta=delta)
            found = self._by_series(composed, theta, delta)
            again = _chernoff_epsilon(composed, theta, delta)
            worst = again if coarser == 1.0 else min(worst, again)
            if found is not None:
                break
        if found is None:
            return worst if self.upper else 0.0
        found = min(found, worst) if self.upper else found
        if 0 < found < composed.interval / _RESOLVED:
            # A small epsilon among large losses needs a grid of its own size.
            coarser *= max(1 / 64, found * _RESOLVED / composed.interval)
            composed = self.composed(pairs, delta, coarser)
            if composed is not None:
                again = self._by_series(composed, composed.tilt(delta=delta), delta)
                best = min if self.upper else max
                found = found if again is None else best(found, again)
        return found

    def _by_series(self, composed: Composition, theta: float, delta: float) -> float | None:
        """The best of the bounds by some tilts; None if the windows are too long.

        The tilt of the best Chernoff bound may weigh the sum's typical values as much as
        rare ones far above, and makes the window long; a smaller one drowns small deltas
        in errors. Where delta is so large that epsilon may be zero, the tilt for zero tells.
        """
        best = None
        for tilt in (*(share * theta for share in _TILTS), composed.tilt(epsilon=0.0)):
            series = composed.series(tilt, delta, self.longest)
            if series is None:
                continue
            found = root(series, delta, upper=self.upper)
            best = found if best is None else (min if self.upper else max)(best, found)
            inside = best > max(0.0, series.first * series.interval)
            if inside and series.base - tilt * best - math.log(delta) < _DROWNED:
                break
            if best == 0 and self.upper:
                break
        return best

    def _delta(self, pairs: Sequence[tuple[Pair, int]], epsilon: float) -> float:
        bound, cut = 1.0, 1e-12
        for coarser in self.coarser:
            for _ in range(3):
                composed = self.composed(pairs, cut, coarser)
                if composed is None:
                    return 0.0
                theta = composed.tilt(epsilon=epsilon)
                bound = math.exp(min(0.0, composed.cumulant(theta) - theta * epsilon))
                if cut <= bound:
                    break
                cut = max(bound * 1e-3, _SMALLEST_DELTA)
            for share in (1.0, 0.3, 0.1, 0.03):
                cut = max(bound * 1e-3, _SMALLEST_DELTA)
                series = composed.series(share * theta, cut, self.longest)
                if series is not None and series.first * series.interval <= epsilon:
                    found = series.deltas(upper=self.upper)(epsilon)[0]
                    return min(found, bound + composed.beyond) if self.upper else found
            bound += composed.beyond
        return min(1.0, bound) if self.upper else 0.0

    def composed(
        self, pairs: Sequence[tuple[Pair, int]], delta: float, coarser: float = 1.0
    ) -> Composition | None:
        """The losses on a common grid; None if the bound from below has nothing left."""
        total = sum(count for _, count in pairs)
        tail = max(_CUT * delta / total, 1e-300)
        seen = [(*moments(pair, min(0.01, 0.1 * delta / total)), count) for pair, count in pairs]
        mean = math.fsum(m * count for m, _, count in seen)
        variance = math.fsum(v * count for _, v, count in seen)
        # What a grid adds must be little beside the spread of the sum or beside its mean.
        scale = math.hypot(math.sqrt(variance), _MEAN * mean)
        points = 16 * math.sqrt(total) * math.sqrt(len(pairs))
        spacing = min(_SPACING, max(_FINE, points / _FINE_POINTS))
        spacing = spacing * coarser / self.finer
        interval = min(_WIDEST, max(spacing * scale / math.sqrt(total), 1e-12))
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
    nearest = (1 - 1e-9) * min(abs(end) for end in pair.ends(tail))
    if nearest >= interval:
        return nearest / math.ceil(nearest / interval)
    return nearest if nearest >= finest else interval


def _chernoff_epsilon(composed: Composition, theta: float, delta: float) -> float:
    """Sound without knowing the distribution, and less tight."""
    left = delta - composed.beyond
    return max(0.0, (composed.cumulant(theta) - math.log(left)) / theta) if left > 0 else math.inf


def root(series: Series, delta: float, *, upper: bool) -> float:
    """Where the bound on delta reaches `delta`, on the sound side, by Newton's steps."""
    bound = series.deltas(upper=upper)
    start = max(0.0, series.first * series.interval)
    end = (series.first + series.size) * series.interval
    low, high = start, math.inf  # the bound exceeds delta at low, unless that is the start
    at = max(start, (series.base - math.log(delta)) / series.theta)
    reached = False
    for _ in range(200):
        value, fall = bound(at)
        if value <= delta:
            high = at
            if at <= start:
                return start if upper else 0.0
        else:
            low, reached = at, True
            if at > end:
                return math.inf if upper else at
        off = math.log(max(value, 1e-320) / delta)
        if abs(off) < _PRECISION and (off <= 0) == upper:
            return at
        if high - low <= 1e-12 * high:
            break
        # Aimed a little to the sound side.
        aim = off + (0.5 if upper else -0.5) * _PRECISION
        at = at + aim * value / fall if fall > 0 and 0 < value < 1 else math.nan
        if not low < at < high:
            at = 0.5 * (low + high) if high < math.inf else low + max(series.interval, 0.2 * low)
            if high < math.inf and high - start < series.interval:
                at = start if low == start and not reached else at
    return high if upper else (low if reached else 0.0)
