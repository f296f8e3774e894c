"""Whether two crowds of observations differ by more than a guarantee allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from hushgrad import accounting
from hushgrad._check import fraction
from hushgrad.errors import InputError

__all__ = ["Verdict", "verdict"]

# Scores of one attack, with somebody there and without; higher where it takes them to be there.
Scores = tuple[Float[np.ndarray, " present"], Float[np.ndarray, " absent"]]
_FEWEST = 100
# Of the epsilon-delta curve: points beside the promise's own.
_EPSILONS = (0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What repeated runs with and without somebody prove about a promise.

    Attributes:
      refuted: the promise does not hold, with this confidence.
      epsilon: with this confidence the runs were not (less, delta)-differentially private.
      promised: the promise's epsilon at delta.
      delta: of both.
      confidence: of each of the two statements by itself.
      attack: that shows most against the promise.
      at: the epsilon of the promise's curve where it does.
      delta_found: at least this is the delta there.
      delta_promised: the promise's.
      runs: how many were made with somebody and without, together.
    """

    refuted: bool
    epsilon: float
    promised: float
    delta: float
    confidence: float
    attack: str
    at: float
    delta_found: float
    delta_promised: float
    runs: int

    def __str__(self) -> str:
        found = "does not hold" if self.refuted else "was not refuted"
        return (
            f"epsilon {self.promised:.3g} at delta {self.delta:g} {found}: {self.runs:,} runs "
            f"prove at least {self.epsilon:.3g} ({100 * self.confidence:g} % confidence)\n"
            f"most telling: {self.attack} at epsilon {self.at:.3g}, where delta is at least "
            f"{self.delta_found:.3g} and at most {self.delta_promised:.3g} was promised"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return dataclasses.asdict(self)


def verdict(scores: Mapping[str, Scores], promise: Any, *, confidence: float = 0.95) -> Verdict:
    """Holds a promise against what attacks tell of independent runs.

    The first half of all runs chooses attack, direction, threshold and the point of the
    epsilon-delta curve; the second half tests that one alone, so that nothing must be corrected
    for what was tried. With P and Q the shares of scores above the threshold with and without
    somebody, a promise allows P <= exp(epsilon) Q + delta(epsilon) at each epsilon (Kairouz, Oh
    and Viswanath 2015); P and Q are bounded by Clopper and Pearson 1934.

    Args:
      scores: by the name of the attack; from independent runs, in the order in which they were
        made.
      promise: a mechanism, or anything else with an epsilon-delta curve and a delta.
      confidence: in (0, 1).

    Raises:
      InputError: if there are too few scores, or one is NaN.
    """
    confidence = fraction("confidence", confidence)
    parts = {name: _halves(name, pair) for name, pair in scores.items()}
    if not parts:
        raise InputError("scores must be of at least one attack, got none")
    delta, promised = promise.delta, promise.epsilon()
    at = np.array(sorted({*_EPSILONS, *np.linspace(0, min(promised, 20.0), 9)}))
    curve = accounting.profile(promise, list(at)).delta
    guesses = [(name + how, *turn(halves)) for name, halves in parts.items() for how, turn in _WAYS]
    level = (1 - confidence) / 2
    name, threshold, point, second = max(
        (_choice(name, first, second, at, curve) for name, first, second in guesses),
        key=lambda choice: choice[0],
    )[1]
    present, absent = _bounds(second, threshold, level)
    shown = present - math.exp(at[point]) * absent
    epsilon = max(
        (_epsilon_choice(first, second, delta, level) for _, first, second in guesses),
        key=lambda choice: choice[0],
    )[1]
    runs = sum(len(side) for half in next(iter(parts.values())) for side in half)
    return Verdict(
        bool(shown > curve[point]),
        epsilon,
        promised,
        delta,
        confidence,
        name,
        float(at[point]),
        max(0.0, float(shown)),
        float(curve[point]),
        runs,
    )


def _halves(name: str, pair: Scores) -> tuple[Scores, Scores]:
    present, absent = (np.asarray(side, float).ravel() for side in pair)
    if min(len(present), len(absent)) < 2 * _FEWEST:
        raise InputError(
            f"scores of {name!r} must be of at least {2 * _FEWEST} runs each, got {len(present)} "
            f"and {len(absent)}"
        )
    if np.isnan(present).any() or np.isnan(absent).any():
        raise InputError(f"scores of {name!r} must be numbers, got NaN")
    p, a = len(present) // 2, len(absent) // 2
    return (present[:p], absent[:a]), (present[p:], absent[a:])


def _absence(halves: tuple[Scores, Scores]) -> tuple[Scores, Scores]:
    """The other way round: who guesses absence, from low scores."""
    (p, a), (q, b) = halves
    return (-a, -p), (-b, -q)


def _lower(halves: tuple[Scores, Scores]) -> tuple[Scores, Scores]:
    """Who guesses presence from low scores, lest a failure turns an attack round."""
    (p, a), (q, b) = halves
    return (-p, -a), (-q, -b)


_WAYS = (
    ("", lambda halves: halves),
    (", absence", _absence),
    (", from low scores", _lower),
    (", absence from high scores", lambda halves: _absence(_lower(halves))),
)


def _shares(half: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every threshold, and the share of either side at it or above it."""
    present, absent = (np.sort(side) for side in half)
    thresholds = np.unique(np.concatenate(half))
    above = [1 - np.searchsorted(side, thresholds) / len(side) for side in (present, absent)]
    return thresholds, above[0], above[1]


def _choice(
    name: str, first: Scores, second: Scores, at: np.ndarray, curve: np.ndarray
) -> tuple[float, tuple[str, float, int, Scores]]:
    """The threshold and epsilon at which the promise seems most exceeded, in deviations."""
    thresholds, p, q = _shares(first)
    factor = np.exp(at)[:, None]
    # One more of either kind, or a share of none would look certain.
    p_var = (p * (1 - p) + 1 / len(first[0])) / len(first[0])
    q_var = (q * (1 - q) + 1 / len(first[1])) / len(first[1])
    beyond = (p - factor * q - curve[:, None]) / np.sqrt(p_var + factor**2 * q_var)
    point, place = np.unravel_index(np.argmax(beyond), beyond.shape)
    chosen = (name, float(thresholds[place]), int(point), second)
    return float(beyond[point, place]), chosen


def _epsilon_choice(
    first: Scores, second: Scores, delta: float, level: float
) -> tuple[float, float]:
    """What the first half promises to show, and what the second half shows."""
    thresholds, p, q = _shares(first)
    low = _below(p * len(first[0]), len(first[0]), level)
    high = 1 - _below((1 - q) * len(first[1]), len(first[1]), level)
    seen = np.log(np.maximum(low - delta, 1e-300) / high)
    best = int(np.argmax(seen))
    present, absent = _bounds(second, thresholds[best], level)
    shown = math.log((present - delta) / absent) if present > delta else 0.0
    return float(seen[best]), max(0.0, shown)


def _bounds(half: Scores, threshold: float, level: float) -> tuple[float, float]:
    """At least so many of the present, and at most so many of the absent are above it."""
    (p, q), (n, m) = [int(np.sum(side >= threshold)) for side in half], map(len, half)
    return float(_below(p, n, level)), float(1 - _below(m - q, m, level))


def _below(successes: Any, trials: int, level: float) -> Any:
    """Clopper and Pearson's lower bound on a probability."""
    successes = np.round(successes)
    found = stats.beta.ppf(level, np.maximum(successes, 1), trials - successes + 1)
    return np.where(successes > 0, found, 0.0)
