"""Epsilon after every step of a run, each within about a millisecond."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hushgrad._check import whole
from hushgrad.accounting.losses.certified import composed_for, epsilon_upper, root
from hushgrad.accounting.losses.composition import (
    ABOVE,
    CHERNOFF_RATES,
    Composition,
    Series,
    Spectrum,
    tails,
    window,
)
from hushgrad.accounting.losses.pairs import Pair, Release, dominating
from hushgrad.errors import InputError

__all__ = ["Running"]

_COARSER = 3.0
_LONGEST = 2**19
# Above this, what a run has cost is worth a slower and better answer.
_LOOSE = 30.0


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
        self.release, self.steps = release, steps
        self.delta, self.relation = delta, relation
        self._found: dict[int, float] = {0: 0.0}
        self._series: list[Series | None] = []
        if release.moves and not release.is_gaussian:
            pairs = dominating(release, relation)
            self._series = [_one(pair, steps, delta) for pair in pairs]

    def epsilon(self, steps: int) -> float:
        """Upper bound on epsilon after so many steps.

        Raises:
          InputError: if they are more than the most that was said.
        """
        steps = whole("steps", steps, at_least=0)
        if steps > self.steps:
            raise InputError(f"steps must be at most {self.steps}, got {steps}")
        if steps not in self._found:
            self._found[steps] = self._epsilon(steps)
        return self._found[steps]

    def _epsilon(self, steps: int) -> float:
        found = [
            root(_power(one, steps), self.delta, upper=True) if one is not None else math.inf
            for one in self._series
        ]
        worst = max(found, default=math.inf)
        if worst <= _LOOSE:
            return worst
        # No window serves both the first steps and the last.
        whole_way = epsilon_upper([(self.release, steps)], self.delta, self.relation)
        return min(worst, whole_way)


def _one(pair: Pair, steps: int, delta: float) -> Series | None:
    """One release on a window that holds the tilted sums of any number up to `steps`."""
    for coarser in (_COARSER, 4 * _COARSER):
        composed = composed_for([(pair, steps)], delta, coarser)
        theta = 0.7 * composed.tilt(delta=delta)
        whole_run = composed.series(theta, delta, _LONGEST)
        if whole_run is None:
            continue
        one = Composition([(composed.parts[0][0], 1)])
        base = one.cumulant(theta)
        rates = CHERNOFF_RATES / max(composed.spread(theta)[1], composed.interval)
        fall = [steps * max(0.0, one.cumulant(theta - r) - base) for r in rates]
        rise = [steps * max(0.0, one.cumulant(theta + r) - base) for r in rates]
        low, high = tails(rates, fall, rise)
        high = max(high, (whole_run.first + whole_run.size) * composed.interval)
        first, size = window(low, high, composed.interval)
        if size > _LONGEST:
            continue
        return Series(
            interval=composed.interval,
            theta=theta,
            base=base,
            first=first,
            size=size,
            spectrum=one.spectrum(theta, size),
            releases=1,
            beyond=composed.beyond + delta * math.exp(ABOVE),
        )
    return None


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
