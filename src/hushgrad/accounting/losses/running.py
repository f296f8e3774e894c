"""Epsilon after every step of a run, each within about a millisecond."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import fft

from hushgrad.accounting.losses.certified import composed_for, gaussian_epsilon, root
from hushgrad.accounting.losses.composition import Composition, Series, Spectrum
from hushgrad.accounting.losses.pairs import Release, dominating

__all__ = ["Running"]

_EXACT = 1e-10
_OUTSIDE = -34.0
_COARSER = 3


class Running:
    """The cost of one release after the other, up to so many.

    The characteristic function of one release is kept; each number of releases is a
    power of it, of which few frequencies matter.

    Args:
      release: what every step releases.
      steps: the most that will be asked for.
      delta: in (0, 1).
      relation: the neighbouring relation.
    """

    def __init__(self, release: Release, steps: int, delta: float, relation: str) -> None:
        self.release, self.steps, self.delta = release, steps, delta
        self._moved = 2.0 if relation == "replace-one" else 1.0
        self._found: dict[int, float] = {0: 0.0}
        self._series: list[Series] = []
        if not release.is_gaussian:
            pairs = dominating(release, relation)
            self._series = [
                _one(composed_for([(pair, steps)], delta, _COARSER), steps, delta) for pair in pairs
            ]

    def epsilon(self, steps: int) -> float:
        """Upper bound on epsilon after so many steps."""
        if steps not in self._found:
            self._found[steps] = self._epsilon(steps)
        return self._found[steps]

    def _epsilon(self, steps: int) -> float:
        if self.release.is_gaussian:
            noise = self.release.noise_multiplier
            shift = self.release.parts[0] * self._moved * math.sqrt(steps) / noise
            return gaussian_epsilon(shift, self.delta) * (1 + _EXACT)
        each = [root(_power(one, steps), self.delta, upper=True) for one in self._series]
        return max(each)


def _one(composed: Composition, steps: int, delta: float) -> Series:
    """One release on a window that holds the tilted sums of any number up to `steps`."""
    theta = 0.7 * composed.tilt(delta=delta)
    whole = composed.series(theta, delta, 2**22)
    one = Composition([(composed.parts[0][0], 1)])
    base = one.cumulant(theta)
    high = 0.0 if whole is None else (whole.first + whole.size) * composed.interval
    deviation = max(composed.spread(theta)[1], composed.interval)
    rates = np.array([0.5, 1.0, 2.0, 4.0, 7.0]) / deviation
    fall = [steps * max(0.0, one.cumulant(theta - r) - base) for r in rates]
    rise = [steps * max(0.0, one.cumulant(theta + r) - base) for r in rates]
    low = max((_OUTSIDE - f) / r for f, r in zip(fall, rates, strict=True))
    high = max(high, min((f - _OUTSIDE) / r for f, r in zip(rise, rates, strict=True)))
    first = math.floor(low / composed.interval) - 1
    size = math.ceil(high / composed.interval) + 1 - first
    size = fft.next_fast_len(size, real=True) or size
    return Series(
        interval=composed.interval,
        theta=theta,
        base=base,
        first=first,
        size=size,
        spectrum=one.spectrum(theta, size),
        releases=1,
        beyond=composed.beyond,
    )


def _power(one: Series, steps: int) -> Series:
    """The sum of so many of these; what is beyond is counted for the most steps."""
    log, angle, largest = one.spectrum
    # What is beyond these frequencies together is less than a rounding.
    kept = steps * largest > -60.0
    end = len(kept) - int(np.argmax(kept[::-1]))
    return dataclasses.replace(
        one,
        base=steps * one.base,
        spectrum=Spectrum(steps * log[:end], steps * angle[:end], steps * largest[:end]),
        releases=steps,
    )
