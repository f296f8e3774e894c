"""What one training run gives away of canaries that were in it by the toss of a coin."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

from hushgrad import accounting
from hushgrad._check import fraction
from hushgrad.errors import InputError

__all__ = ["OneRun", "fewest", "one_run", "p_value", "refutes"]

# Share of the canaries that are guessed; the others are abstained from.
_GUESSED = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_LARGEST, _STEP = 200.0, 1e-4
# True positives of an attack -> the least false positives that it must have.
_Inverse = Callable[[float], float]


@dataclasses.dataclass(frozen=True)
class OneRun:
    """What the scores of one run's canaries prove.

    Attributes:
      epsilon: with this confidence the run was not (less, delta)-differentially private.
      epsilon_trade_off: the same from the whole trade-off curve, if it is like that of a Gaussian
        mechanism: such a one of less epsilon at delta would not give so much away.
      delta: of both.
      confidence: that each of them, and `refuted`, is no overstatement.
      canaries: how many there were.
      guesses: how many were guessed where `epsilon` was found.
      correct: how many of these guesses were right.
      refuted: the promise that was asked about does not hold, with this confidence; None where
        none was.
    """

    epsilon: float
    epsilon_trade_off: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int
    refuted: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return dataclasses.asdict(self)


def one_run(
    scores: Float[np.ndarray, " canaries"],
    included: Bool[np.ndarray, " canaries"],
    *,
    delta: float,
    confidence: float = 0.95,
    promise: Any = None,
) -> OneRun:
    """The least epsilon that the scores of one run's canaries allow.

    ```python
    found = hg.audit.one_run(scores, included, delta=1e-5)
    found.epsilon                # at least so much was spent, with 95 % confidence
    ```

    Each canary was put into the training data by a fair coin of its own, and has a score that
    is larger, the more it looks as if it had been there. The canaries of the highest scores are
    guessed to have been in, as many of the lowest to have been out. A run that is (epsilon,
    delta)-differentially private for each canary lets no more guesses be right than as many
    biased coins and a little (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2);
    how many at the most when its trade-off curve is known says Mahloujifar, Melis and Chaudhuri
    2024 (arXiv 2410.22235). How many are guessed is tried in seven ways, and the confidence is
    corrected for all of them (Bonferroni); of what a promise is refuted by, either theorem has
    half, for neither finds all that the other does.

    Args:
      scores: one for each canary.
      included: whether it was in.
      delta: in (0, 1), of the epsilon that is asked for.
      confidence: in (0, 1).
      promise: a mechanism, or a `dp_accounting.DpEvent`: whether its whole trade-off curve can
        hold is told by `refuted`.

    Raises:
      InputError: if the arrays do not match, a score is not finite, all or no canaries were in,
        or so few that no guesses could ever show an epsilon above zero.
    """
    scores, included = _checked(scores, included)
    delta, confidence = fraction("delta", delta), fraction("confidence", confidence)
    count, tried = len(scores), _tried(len(scores))
    level, least = _level(count, confidence), fewest(count, confidence)
    if count < least:
        raise InputError(
            f"scores must be of more canaries: {count} right guesses out of {count} could be luck "
            f"at confidence {confidence:g}; take at least {least}"
        )
    order = np.argsort(scores, kind="stable")
    guesses = [(2 * k, _right(included[order], k)) for k in tried]
    plain, best = _largest(guesses, functools.partial(_refuted_plain, count, delta, level))
    shift, _ = _largest(guesses, functools.partial(_refuted_gaussian, count, level))
    gaussian = dp_accounting.get_epsilon_gaussian(1 / shift, delta) if shift else 0.0
    refuted = None
    if promise is not None:
        inverse, epsilon = _inverse_of(promise), accounting.epsilon(promise, delta)
        refuted = any(
            refutes(count, g, v, inverse, level / 2)
            or p_value(count, g, v, epsilon, delta) < level / 2
            for g, v in guesses
        )
    return OneRun(plain, gaussian, delta, confidence, count, *best, refuted)


def fewest(count: int, confidence: float) -> int:
    """How many canaries it takes, where `count` are tried, to show any epsilon above zero.

    An even number: as many are guessed to have been in as out.
    """
    return 2 * math.ceil(-math.log2(_level(count, confidence)) / 2)


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How probable so many right guesses are at the most, if (epsilon, delta) holds.

    Steinke, Nasr and Jagielski 2023, theorem 5.2 and appendix D.

    Args:
      canaries: how many there were.
      guesses: of how many it was guessed whether they were in.
      correct: how many of the guesses were right.
      epsilon: zero or more.
      delta: in [0, 1].
    """
    rate = 1 / (1 + math.exp(-epsilon))
    beyond = float(stats.binom.sf(correct - 1, guesses, rate))
    fewer = np.arange(1, correct + 1)
    near = stats.binom.sf(correct - fewer - 1, guesses, rate) - beyond
    steepest = float(np.max(near / fewer, initial=0.0))
    return min(1.0, beyond + 2 * canaries * delta * steepest)


def refutes(canaries: int, guesses: int, correct: int, inverse: _Inverse, level: float) -> bool:
    """Whether a trade-off curve is refuted by so many right guesses.

    Mahloujifar, Melis and Chaudhuri 2024, algorithm 3.

    Args:
      canaries: how many there were.
      guesses: of how many it was guessed whether they were in.
      correct: how many of the guesses were right.
      inverse: true positives -> the least false positives of any attack that has them.
      level: the probability of refuting what holds.
    """
    right, wrong = level * correct / canaries, level * (guesses - correct) / canaries
    for number in range(correct - 1, -1, -1):
        before, wrong = wrong, max(wrong, inverse(right))
        if wrong == before:
            break  # nor does it change after this
        right = min(right + number / (guesses - number) * (wrong - before), 1.0)
    return right + wrong > guesses / canaries


def _level(count: int, confidence: float) -> float:
    """Of each test, where as many are made as there are ways to guess."""
    return (1 - confidence) / len(_tried(count))


def _tried(count: int) -> list[int]:
    """How many of the highest, and as many of the lowest scores are guessed."""
    return sorted({max(1, int(share * count / 2)) for share in _GUESSED})


def _right(ordered: np.ndarray, each: int) -> int:
    return int(ordered[-each:].sum() + (~ordered[:each]).sum())


def _refuted_plain(
    count: int, delta: float, level: float, guesses: int, correct: int, epsilon: float
) -> bool:
    return p_value(count, guesses, correct, epsilon, delta) < level


def _refuted_gaussian(count: int, level: float, guesses: int, correct: int, shift: float) -> bool:
    """Of one Gaussian release whose mean moves by so many standard deviations."""
    inverse = lambda x: special.ndtr(special.ndtri(x) - shift)  # noqa: E731
    return refutes(count, guesses, correct, inverse, level)


def _inverse_of(promise: Any) -> _Inverse:
    """From an epsilon-delta curve: each of its points forbids what lies below two lines."""
    curve = accounting.profile(promise)
    factor, left = np.exp(np.minimum(curve.epsilon, 700.0)), 1 - curve.delta

    def inverse(x: float) -> float:
        lines = np.maximum((x - 1 + left) / factor, left - factor * (1 - x))
        return max(0.0, float(lines.max()))

    return inverse


def _largest(
    guesses: list[tuple[int, int]], refuted: Callable[[int, int, float], bool]
) -> tuple[float, tuple[int, int]]:
    """The largest number that some guesses refute, rounded down, and these; zero if none do."""
    low, best = 0.0, guesses[0]
    for g, v in guesses:
        if not refuted(g, v, low + _STEP):
            continue
        low, high, best = low + _STEP, max(1.0, 2 * low), (g, v)
        while high < _LARGEST and refuted(g, v, high):
            low, high = high, 2 * high
        while high - low > _STEP:
            middle = (low + high) / 2
            low, high = (middle, high) if refuted(g, v, middle) else (low, middle)
    return low, best


def _checked(scores: Any, included: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, included = np.array(scores, float), np.array(included)
    if scores.ndim != 1 or scores.shape != included.shape:
        raise InputError(
            "scores and included must be lists of one entry for each canary, got shapes "
            f"{scores.shape} and {included.shape}"
        )
    if included.dtype != bool and not np.isin(included, (0, 1)).all():
        raise InputError("included must be True or False for each canary")
    included = included.astype(bool)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(f"scores must be finite, got {scores[bad[0]]} for canary {bad[0]}")
    if included.all() or not included.any():
        which = "all" if len(included) and included.all() else "no"
        raise InputError(
            f"included must tell canaries that were in from others that were not, got {which} of "
            f"{len(included)} in"
        )
    return scores, included
