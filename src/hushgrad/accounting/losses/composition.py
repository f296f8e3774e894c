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
from typing import NamedTuple

import numpy as np
from scipy import fft, optimize, signal

from hushgrad.accounting.losses.grid import Losses

__all__ = [
    "ABOVE",
    "CHERNOFF_RATES",
    "Composition",
    "Series",
    "Spectrum",
    "tails",
    "window",
]

_ROUNDING = 2.0**-53
# Natural logarithms of what is cut off: of the tilted sum outside of the window, of
# the sum above the window over delta, of the largest frequency that is left out.
OUTSIDE, ABOVE, _UNHEARD = -34.0, -14.0, -46.0
# Exponents of Chernoff bounds, over one over the sum's deviation.
CHERNOFF_RATES = np.array([0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 11.0])
# Relative error of a mass by quadrature.
_MASS = 1e-14
# Roundings of a recursive sum, over its length.
_FILTERED = 16 * _ROUNDING
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
        rates = CHERNOFF_RATES / max(deviation, self.interval)
        up = [self.cumulant(theta + rate) for rate in rates]
        down = [self.cumulant(theta - rate) for rate in rates]
        above = min(
            (c - math.log(delta) - ABOVE) / (theta + r) for c, r in zip(up, rates, strict=True)
        )
        low, high = tails(rates, [c - base for c in down], [c - base for c in up])
        first, size = window(min(low, mean), max(high, above, mean), self.interval)
        if size > longest:
            return None
        return Series(
            interval=self.interval,
            theta=theta,
            base=base,
            first=first,
            size=size,
            spectrum=self.spectrum(theta, size),
            releases=self.releases,
            beyond=self.beyond + delta * math.exp(ABOVE),
        )

    def spectrum(self, theta: float, size: int) -> Spectrum:
        """The characteristic function of the tilted sum at frequencies 0, 1, ..."""
        # Each transform is exact to a few roundings for each doubling of its size.
        error = 8 * _ROUNDING * math.log2(size + 2)
        log, angle, largest = (np.zeros(size // 2 + 1) for _ in range(3))
        for losses, count in self.parts:
            with np.errstate(divide="ignore"):
                tilted = np.log(losses.mass) + theta * losses.points * losses.interval
            tilted = np.exp(tilted - tilted.max())
            tilted /= tilted.sum()
            heard = np.fft.rfft(np.bincount(losses.points % size, tilted, size))
            level = np.abs(heard)
            with np.errstate(divide="ignore"):
                log += count * np.log(level)
            largest += count * np.log(level + error)
            angle += np.remainder(count * np.angle(heard), 2 * np.pi)
        return Spectrum(log, angle, largest)


def tails(rates: np.ndarray, down: Sequence[float], up: Sequence[float]) -> tuple[float, float]:
    """Between these lies a tilted sum but for exp(OUTSIDE) on either side.

    By Chernoff's inequality at some rates, at which the logarithm of the sum's moment
    generating function changes so much below and above the tilt.
    """
    low = max((OUTSIDE - change) / rate for change, rate in zip(down, rates, strict=True))
    high = min((change - OUTSIDE) / rate for change, rate in zip(up, rates, strict=True))
    return low, high


def window(low: float, high: float, interval: float) -> tuple[int, int]:
    """The first point of a window from low to high, and a size that transforms fast."""
    first = math.floor(low / interval) - 1
    size = math.ceil(high / interval) + 1 - first
    return first, fft.next_fast_len(size, real=True) or size


class Spectrum(NamedTuple):
    """Coefficients of a Fourier series.

    Attributes:
      log, angle: of each coefficient as it was computed.
      largest: logarithm of what its modulus may truly be.
    """

    log: np.ndarray
    angle: np.ndarray
    largest: np.ndarray


@dataclasses.dataclass(frozen=True)
class Series:
    """A tilted sum of losses as a Fourier series with certified errors.

    Attributes:
      first: the window's first point, as a multiple of `interval`.
      size: of the window; the sum is known up to multiples of it.
      spectrum: the coefficients of frequencies 0, 1, ...
      releases: how many losses were added up.
      beyond: probability, at most, of a loss above the window.
    """

    interval: float
    theta: float
    base: float
    first: int
    size: int
    spectrum: Spectrum
    releases: int
    beyond: float

    def deltas(self, *, upper: bool) -> Callable[[float], tuple[float, float]]:
        """A bound on delta from above or from below, and its fall, as functions of epsilon."""
        few = int(np.sum(self.spectrum.log > _UNHEARD)) <= _FEW
        sums, error = (self._few if few else self._many)(), self._error(few)
        sign = 1.0 if upper else -1.0
        # What was outside of the window wraps around into it: more than is true.
        wrapped = 0.0 if upper else 2 * math.exp(OUTSIDE)
        beyond = self.beyond if upper else 0.0
        # Every release's mass and every term of `base` is rounded.
        slack = _MASS * self.releases + 4 * _ROUNDING * (abs(self.base) + self.releases)

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
            rounding = error + _FILTERED * (abs(inside) + abs(outside)) / -math.expm1(-self.decay)
            scale = math.exp(min(700.0, self.base - self.theta * point + sign * slack))
            value = scale * (inside - share * outside - wrapped + sign * rounding) + beyond
            return min(1.0, max(0.0, value)), scale * share * outside

        return at

    @property
    def decay(self) -> float:
        """By what the weight of a point falls to the next, as a logarithm."""
        return self.theta * self.interval

    def _few(self) -> _Sums:
        """Sums over the window's points from `start` on, as sums over few frequencies.

        Of the tilted probabilities times exp(-theta * loss), and of those times
        exp(-loss), both counted from the first of these points.
        """
        log, angle, _ = self.spectrum
        frequency = np.flatnonzero(log > _UNHEARD)
        level = np.exp(log[frequency] + 1j * angle[frequency]) / self.size
        level[(frequency > 0) & (2 * frequency < self.size)] *= 2
        turn = 2 * np.pi * frequency / self.size
        rate = self.decay - 1j * turn
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
        level = np.exp(self.spectrum.log + 1j * self.spectrum.angle)
        tilted = np.roll(np.fft.irfft(level, self.size), -(self.first % self.size))

        def from_the_end(rate: float) -> np.ndarray:
            return np.asarray(signal.lfilter([1.0], [1.0, -math.exp(-rate)], tilted[::-1]))[::-1]

        inside = from_the_end(self.decay)
        outside = from_the_end(self.decay + self.interval)
        return lambda start: (float(inside[start]), float(outside[start]))

    def _error(self, few: bool) -> float:
        """Bound on the error of the weighted sum over any run of points.

        Of a coefficient's modulus, as much as there is between `log` and `largest`; of
        its angle, as many roundings as there were releases. Summed up over all
        frequencies for one point, then over points; or, by Parseval's theorem, with the
        squares of both.
        """
        log, _, largest = self.spectrum
        level, most = np.exp(log), np.exp(largest)
        one = 8 * _ROUNDING * math.log2(self.size + 2)
        off = most - level + one * (self.releases + 4) * level
        if few:
            off = np.where(log > _UNHEARD, off, most)
        by_point = 2 * float(off.sum()) / self.size / -math.expm1(-self.decay)
        squares = 2 * float(off @ off) / self.size / -math.expm1(-2 * self.decay)
        return by_point if few else min(by_point, math.sqrt(squares))
