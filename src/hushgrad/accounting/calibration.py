"""The smallest noise that keeps a target epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy import optimize

from hushgrad._check import fraction, positive
from hushgrad.accounting.accountants import epsilon as epsilon_of
from hushgrad.errors import InputError

__all__ = ["smallest_noise"]

# The answer's epsilon lies within this share below the target, never above it.
_TOLERANCE = 1e-3
_SMALLEST_NOISE, _LARGEST_NOISE = 0.01, 1e5


def smallest_noise(
    make_event: Callable[[float], Any], epsilon: float, delta: float, accountant: str = "pld"
) -> float:
    """The noise multiplier at which `make_event` costs at most `epsilon` at `delta`.

    The search starts from the quick Renyi bound and ends on the private side: the
    epsilon of the result is at most the target, and within 0.1% of it unless that
    would take a noise multiplier below 0.01.

    Args:
      make_event: noise multiplier -> event; more noise must cost less.
      epsilon: the target, positive.
      delta: in (0, 1).
      accountant: which bound to hold the target by.

    Raises:
      InputError: if no noise multiplier up to 1e5 keeps the target.
    """
    epsilon, delta = positive("epsilon", epsilon), fraction("delta", delta)
    start = _bracketed(lambda z: epsilon_of(make_event(z), delta, "rdp"), epsilon, 1.0)
    if accountant == "rdp":
        return start
    return _bracketed(lambda z: epsilon_of(make_event(z), delta, accountant), epsilon, start)


def _bracketed(cost: Callable[[float], float], target: float, guess: float) -> float:
    """Root of a decreasing function, on the side where it is below the target."""
    best, spent = guess, cost(guess)
    worst = guess
    while spent > target:
        worst, best = best, best * 1.5
        if best > _LARGEST_NOISE:
            raise InputError(
                f"epsilon={target} cannot be reached with any noise multiplier up to "
                f"{_LARGEST_NOISE:g}; allow a larger epsilon or delta, or fewer steps"
            )
        spent = cost(best)
    factor = 1.1
    while worst == best or cost(worst) <= target:
        best, worst, factor = worst, worst / factor, factor * 1.2
        if worst < _SMALLEST_NOISE:
            return best
    return _narrow(cost, target, worst, best)


def _narrow(cost: Callable[[float], float], target: float, worst: float, best: float) -> float:
    goal = math.log(target * (1 - _TOLERANCE / 2))
    found: dict[float, float] = {}

    def gap(log_noise: float) -> float:
        found[log_noise] = cost(math.exp(log_noise))
        return math.log(max(found[log_noise], 1e-300)) - goal

    low, high = math.log(worst), math.log(best)
    if gap(high) >= 0:  # already between the goal and the target
        return best
    optimize.brentq(gap, low, high, xtol=_TOLERANCE / 8)
    return math.exp(min(z for z, spent in found.items() if spent <= target))
