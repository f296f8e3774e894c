"""Many different releases as few, rounded to the sound side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from hushgrad.accounting.losses.pairs import Release

__all__ = ["MOST_LEVELS", "levelled", "resolved"]

MOST_LEVELS = 1024
# Rates below this are no longer told from zero.
_SMALLEST_RATE = 1e-14


def levelled(releases: Sequence[tuple[Release, int]], upper: bool) -> list[tuple[Release, int]]:
    """Releases with equal ones counted together, and many different ones as few.

    Less noise and a higher rate never cost less, so where there are too many to compose
    one by one, noise is rounded down for a bound from above and up for one from below.
    """
    counts: dict[Release, int] = {}
    for release, count in releases:
        counts[release] = counts.get(release, 0) + count
    if len(counts) <= MOST_LEVELS:
        return list(counts.items())
    noises = [math.log(r.noise_multiplier) for r in counts]
    rates = [math.log(r.rate) for r in counts if r.rate]
    both = len(set(rates)) > 1 and len(set(noises)) > 1
    many = math.isqrt(MOST_LEVELS // 2) if both else MOST_LEVELS // 2
    less, more = _rounding(noises, many, up=not upper), _rounding(rates, many, up=upper)
    levels: dict[Release, int] = {}
    for release, count in counts.items():
        rate = min(1.0, more(release.rate)) if release.rate else 0.0
        noise = less(release.noise_multiplier)
        level = dataclasses.replace(release, noise_multiplier=noise, rate=rate)
        levels[level] = levels.get(level, 0) + count
    return list(levels.items())


def _rounding(logs: Sequence[float], many: int, *, up: bool) -> Callable[[float], float]:
    """To the next of `many` levels between the least and the most, on the side asked for."""
    least, step = min(logs), (max(logs) - min(logs)) / many

    def rounded(value: float) -> float:
        if not step:
            return value
        place = (math.log(value) - least) / step
        level = math.exp(least + (math.ceil(place) if up else math.floor(place)) * step)
        return max(level, value) if up else min(level, value)

    return rounded


def resolved(release: Release, upper: bool) -> Release:
    """Rates that rounding would swallow: larger from above, none from below."""
    if release.rate >= _SMALLEST_RATE:
        return release
    return dataclasses.replace(release, rate=_SMALLEST_RATE if upper else 0.0)
