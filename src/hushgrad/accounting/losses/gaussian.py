"""One Gaussian that everybody is in: the closed form, with bounds on its rounding."""

from __future__ import annotations

import math

from scipy import special

__all__ = ["gaussian_delta", "gaussian_epsilon"]

# So far apart, the root of the closed form is lost in rounding.
_HOPELESS = 1e5


def gaussian_delta(shift: float, epsilon: float, *, upper: bool = True) -> float:
    """Of one Gaussian whose mean moves by `shift` deviations (Balle and Wang 2018, thm 8).

    Bounded from above or below by as much as the closed form may be rounded.
    """
    if shift == 0:
        return 0.0
    first = float(special.log_ndtr(shift / 2 - epsilon / shift))
    second = epsilon + float(special.log_ndtr(-shift / 2 - epsilon / shift))
    rounding = 1e-15 * (4 + abs(first) + abs(second) + epsilon + (epsilon / shift) ** 2 + shift**2)
    gap = second - first
    if not rounding < 1e-3:
        return 1.0 if upper else 0.0
    if epsilon == 0:
        exact = float(special.erf(shift / math.sqrt(8)))
        return exact * (1 + 1e-14 if upper else 1 - 1e-14)
    gap = min(0.0, gap - rounding if upper else gap + rounding)
    found = -math.exp(first + (rounding if upper else -rounding)) * math.expm1(gap)
    return min(1.0, max(0.0, found))


def gaussian_epsilon(shift: float, delta: float, *, upper: bool = True) -> float:
    """The epsilon at which `gaussian_delta` is `delta`, on the sound side."""
    if shift == 0 or gaussian_delta(shift, 0.0, upper=upper) <= delta:
        return 0.0
    # P(loss > epsilon) exceeds delta; so much is enough whatever the rounding.
    if not shift < _HOPELESS:
        high = shift * (shift / 2 + math.sqrt(-2 * math.log(delta))) if shift < 1e150 else math.inf
        return high * (1 + 1e-12) if upper else 0.0
    high = shift * (shift / 2 + math.sqrt(-2 * math.log(delta))) * (1 + 1e-12)
    low = 0.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if gaussian_delta(shift, middle, upper=upper) <= delta:
            high = middle
        else:
            low = middle
    return high if upper else low
