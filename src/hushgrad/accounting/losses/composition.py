"""Many releases together: the sum of their privacy losses, by Fourier series.

The distribution of the sum is tilted by exp(theta * loss) before it is taken apart into
frequencies, so that rounding errors are small beside the tail that is asked about
(Alghamdi et al. 2023, arXiv 2303.07245). After many releases only few frequencies
are left that matter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft, optimize, signal

from hushgrad.accounting.losses.grid import Losses

__all__ = ["Composition"]

_ROUNDING = 2.0**-53
# Natural logarithms of what is cut off: of the tilted sum outside of the window, of
# the sum above the window over delta, of the largest frequency that is left out.
_OUTSIDE, _ABOVE, _UNHEARD = -34.0, -9.0, -46.0
# Up to so many frequencies are summed one by one.
_FEW = 1024

_Sums = Callable[[int], tuple[float, float]]


class Composition:
    """Losses that are added up, each so many times."""

    def __init__(self, parts: Sequence[tuple[Losses, int]]) -> None:
        self.interval = parts[0][0].interval
        self.parts = [(losses, count) for losses, count in parts if count]
        self.releases = sum(count for _, count in self.parts)
        self.beyond = min(1.0, sum(losses.beyond * count for losses, count in self.parts))
        sizes = [len(losses.points) for losses, _ in self.parts]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._of = np.repeat(np.arange(len(sizes)), sizes)
        self._loss = np.concatenate([losses.points for losses, _ in self.parts]) * self.interval
        with np.errstate(divide="ignore"):
            self._log = np.log(np.concatenate([losses.mass for losses, _ in self.parts]))
        self._counts = np.array([count for _, count in self.parts], float)

    def cumulant(self, theta: float) -> float:
        """Logarithm of the sum's moment generating function."""
        log = self._log + theta * self._loss
        most = np.maximum.reduceat(log, self._starts)
        total = np.add.reduceat(np.exp(log - most[self._of]), self._starts)
        return float(self._counts @ (most + np.log(total)))

    def spread(self, theta: float) -> tuple[float, float]:
        """Mean and standard deviation of the tilted sum."""
        log = self._log + theta * self._loss
        weight = np.exp(log - np.maximum.reduceat(log, self._starts)[self._of])
        total = np.add.reduceat(weight, self._starts)
        mean = np.add.reduceat(weight * self._loss, self._starts) / total
        off = np.square(self._loss - mean[self._of])
        square = np.add.reduceat(weight * off, self._starts) / total
        return float(self._counts @ mean), math.sqrt(self._counts @ square)

    def tilt(self, *, delta: float | None = None, epsilon: float = 0.0) -> float:
        """The exponent of the best bound by Chernoff's inequality, about that of the tail."""
        if delta is None:

            def bound(log_theta: float) -> float:
                theta = math.exp(log_theta)
                return self.cumulant(theta) - theta * epsilon
        else:

            def bound(log_theta: float) -> float:
                theta = math.exp(log_theta)
                return (self.cumulant(theta) - math.log(delta)) / theta

        deviation = max(self.spread(0.0)[1], 1e-300)
        ends = (math.log(1e-3 / deviation), math.log(100 / deviation + 1e3))
        found = optimize.minimize_scalar(
            bound, bounds=ends, method="bounded", options={"xatol": 0.05}
        )
        return math.exp(found.x)

    def series(self, theta: float, delta: float, longest: int) -> Series | None:
        """The tilted sum as a Fourier series; None if its window has over `longest` points."""
        base = self.cumulant(theta)
        mean, deviation = self.spread(theta)
        rates = np.array([0.5, 1.0, 2.0, 4.0, 7.0, 11.0]) / max(deviation, self.interval)
        up = [(self.cumulant(theta + rate), rate) for rate in rates]
        down = [(self.cumulant(theta - rate), rate) for rate in rates]
        above = min((c - math.log(delta) - _ABOVE) / (theta + rate) for c, rate in up)
        high = max(above, min((c - base - _OUTSIDE) / rate for c, rate in up))
        low = max((_OUTSIDE - c + base) / rate for c, rate in down)
        first = math.floor(min(low, mean) / self.interval) - 1
        size = math.ceil(max(high, mean) / self.interval) + 1 - first
        if size > longest:
            return None
        size = fft.next_fast_len(size, real=True) or size
        log, angle = self.frequencies(theta, size)
        return Series(
            interval=self.interval,
            theta=theta,
            base=base,
            first=first,
            size=size,
            log=log,
            angle=angle,
            releases=self.releases,
            beyond=self.beyond + delta * math.exp(_ABOVE),
        )

    def frequencies(self, theta: float, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms and angles of the characteristic function, where it matters or not."""
        log = np.zeros(size // 2 + 1)
        angle = np.zeros(size // 2 + 1)
        for losses, count in self.parts:
            with np.errstate(divide="ignore"):
                tilted = np.log(losses.mass) + theta * losses.points * losses.interval
            tilted = np.exp(tilted - tilted.max())
            tilted /= tilted.sum()
            heard = np.fft.rfft(np.bincount(losses.points % size, tilted, size))
            with np.errstate(divide="ignore"):
                log += count * np.log(np.abs(heard))
            angle += np.remainder(count * np.angle(heard), 2 * np.pi)
        return log, angle


@dataclasses.dataclass(frozen=True)
class Series:
    """A tilted sum of losses as a Fourier series with certified errors.

    Attributes:
      first: the window's first point, as a multiple of `interval`.
      size: of the window; the sum is known up to multiples of it.
      log, angle: of the coefficients of frequencies 0, 1, ...
      releases: how many losses were added up.
      beyond: probability, at most, of a loss above the window.
    """

    interval: float
    theta: float
    base: float
    first: int
    size: int
    log: np.ndarray
    angle: np.ndarray
    releases: int
    beyond: float

    def deltas(self, *, upper: bool) -> Callable[[float], tuple[float, float]]:
        """A bound on delta from above or from below, and its fall, as functions of epsilon."""
        sums = self._few() if np.sum(self.log > _UNHEARD) <= _FEW else self._many()
        error = self._error() if upper else -self._error()
        # What was outside of the window wraps around into it: more than is true.
        wrapped = 0.0 if upper else 2 * math.exp(_OUTSIDE)
        beyond = self.beyond if upper else 0.0
        decay = self.theta * self.interval

        def at(epsilon: float) -> tuple[float, float]:
            start = math.floor(epsilon / self.interval) + 1 - self.first
            if start <= 0 and upper:
                return 1.0, 0.0  # what was below the window is not in the series
            start = max(0, start)
            if start >= self.size:
                return beyond, 0.0
            # Over the points above epsilon, which begin at number `start` of the window.
            inside, outside = sums(start)
            point = (self.first + start) * self.interval
            share = math.exp(min(0.0, epsilon - point))
            room = error * math.expm1(-decay * (self.size - start)) / math.expm1(-decay)
            scale = math.exp(min(700.0, self.base - self.theta * point))
            value = scale * (inside - share * outside - wrapped + room) + beyond
            return min(1.0, max(0.0, value)), scale * share * outside

        return at

    def _few(self) -> _Sums:
        """Sums over the window's points from `start` on, as sums over few frequencies.

        Of the tilted probabilities times exp(-theta * loss), and of those times
        exp(-loss), both counted from the first of these points.
        """
        frequency = np.flatnonzero(self.log > _UNHEARD)
        level = np.exp(self.log[frequency] + 1j * self.angle[frequency]) / self.size
        level[(frequency > 0) & (2 * frequency < self.size)] *= 2
        turn = 2 * np.pi * frequency / self.size
        rate = self.theta * self.interval - 1j * turn
        first, second = np.expm1(-rate), np.expm1(-(rate + self.interval))

        def sums(start: int) -> tuple[float, float]:
            count = self.size - start
            here = level * np.exp(1j * turn * ((self.first + start) % self.size))
            # Geometric sums of exp(-rate * j) over j below `count`.
            inside = here * np.expm1(-rate * count) / first
            outside = here * np.expm1(-(rate + self.interval) * count) / second
            return float(inside.real.sum()), float(outside.real.sum())

        return sums

    def _many(self) -> _Sums:
        """The same from the probabilities themselves."""
        level = np.exp(self.log + 1j * self.angle)
        tilted = np.roll(np.fft.irfft(level, self.size), -(self.first % self.size))

        def from_the_end(rate: float) -> np.ndarray:
            return np.asarray(signal.lfilter([1.0], [1.0, -math.exp(-rate)], tilted[::-1]))[::-1]

        inside = from_the_end(self.theta * self.interval)
        outside = from_the_end((self.theta + 1) * self.interval)
        return lambda start: (float(inside[start]), float(outside[start]))

    def _error(self) -> float:
        """Bound on the error of the tilted probability of any one point.

        A coefficient is exact to a few roundings for each doubling of `size`; its power
        to as many as there are releases.
        """
        one = 8 * _ROUNDING * math.log2(self.size + 2)
        known = 2 * float(np.exp(self.log[self.log > _UNHEARD]).sum()) / self.size
        return one * (self.releases + 4) * known + 4 * math.exp(_UNHEARD)
