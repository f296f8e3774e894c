"""What an attack's scores prove about epsilon."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from hushgrad._check import fraction, whole
from hushgrad.errors import InputError

__all__ = [
    "METHODS",
    "LowerBound",
    "as_scores",
    "clopper_pearson",
    "epsilon_lower_bound",
    "most_that_can_be_shown",
    "ratio_bound",
]

# Numbers for numbers, arrays for arrays.
Counts = int | float | ArrayLike
Bound = np.floating | Float[np.ndarray, "..."]
# Lots are drawn with it among equal scores; any number does that knows nothing of the scores.
_LOTS = 20_190_501


@dataclasses.dataclass(frozen=True)
class LowerBound:
    """What the scores of members and of others prove.

    Attributes:
      epsilon: what made the scores is not (less, delta)-differentially private, with this
        confidence; zero where nothing was proved.
      delta: at which.
      confidence: that `epsilon` is no overstatement, whatever was tried.
      accused: "members" if those above the threshold are taken for members, "non-members" if
        those below it are taken for non-members.
      threshold: the score with which `epsilon` was found.
      hits: how many were accused rightly.
      trials: of how many.
      hit_rate: at least this share of them is accused.
      false_rate: at most this share of the others is.
      tried: how many thresholds were, all attacks together.
    """

    epsilon: float
    delta: float
    confidence: float
    accused: str
    threshold: float
    hits: int
    trials: int
    hit_rate: float
    false_rate: float
    tried: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return dataclasses.asdict(self)


def clopper_pearson(successes: Counts, trials: Counts, confidence: float) -> tuple[Bound, Bound]:
    """Bounds on a probability from how often it came true (Clopper and Pearson 1934).

    ```python
    low, high = hg.audit.clopper_pearson(90, 100, 0.95)    # 0.836, 0.945
    ```

    Each bound by itself holds with this confidence: the probability is below `low` with at
    most 1 - confidence, and above `high` with at most that. Both together hold with
    2 confidence - 1, so an ordinary interval of 95 % has confidence=0.975.

    Args:
      successes: in [0, trials]; a number or an array.
      trials: how many there were, one or more; broadcasts with `successes`.
      confidence: in (0, 1), of each bound.

    Raises:
      InputError: if an argument is out of range.
    """
    level = 1 - fraction("confidence", confidence)
    k, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    if not np.all(n >= 1) or not np.all((k >= 0) & (k <= n)):
        raise InputError(
            f"successes must lie between 0 and trials, and trials be at least 1, got "
            f"{successes!r} of {trials!r}"
        )
    low = np.where(k > 0, stats.beta.ppf(level, np.maximum(k, 0.5), n - k + 1), 0.0)
    high = np.where(k < n, stats.beta.isf(level, k + 1, np.maximum(n - k, 0.5)), 1.0)
    return low[()], high[()]


def epsilon_lower_bound(
    members: ArrayLike,
    non_members: ArrayLike,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    attacks: int = 1,
) -> LowerBound:
    """The epsilon that an attack's scores prove, however many thresholds were tried.

    ```python
    found = hg.audit.epsilon_lower_bound(-member_losses, -other_losses, delta=1e-5)
    print(found.epsilon, found.threshold)
    ```

    Formal guarantee: if every score was made independently of the others, by a mechanism that is
    (epsilon, delta)-differentially private in whether its record is a member, `epsilon` is
    overstated with a probability of at most 1 - confidence. Differential privacy says
    P(member accused) <= exp(epsilon) P(other accused) + delta, and the same with the roles
    swapped. Thresholds are the non-members' scores of ranks 1, 2, 4, ... from above: the
    share of non-members above the k-th of n has a Beta(k, n - k + 1) distribution, and the members
    know nothing of it, so how many of them are above it is binomial. Non-members below the
    members' scores of such ranks from below are the mirrored case. All these bounds hold at
    once (Bonferroni). Among equal scores lots are drawn, which is part of the attack.

    Scores of many members of one model depend on each other through it. That they are binomial
    all the same is the custom, not a theorem: where a promise is to be refuted, toss a coin for
    each record and use `one_run`, or use a run for each score.

    | scores | what is done |
    |---|---|
    | equal ones | ranked by lot, the same at every call |
    | infinite | ranked like any other |
    | NaN | refused |
    | all equal, or too few | epsilon is zero |

    Args:
      members: scores, higher where the attack rather takes a record for a member.
      non_members: the same of records that are none.
      delta: in [0, 1).
      confidence: in (0, 1).
      attacks: from how many such bounds the largest is to be quoted: it then holds too.

    Raises:
      InputError: if there are no scores or one is NaN, or another argument is out of range.
    """
    inside, outside = as_scores("members", members), as_scores("non_members", non_members)
    delta = _delta(delta)
    alpha = 1 - fraction("confidence", confidence)
    first, second = _by_lot(inside, outside)
    ranks = _ranks(len(outside)), _ranks(len(inside))
    tried = whole("attacks", attacks) * (len(ranks[0]) + len(ranks[1]))
    # Each threshold has two bounds.
    level = alpha / (2 * tried)
    above = _above(first, second, ranks[0], level)
    below = _above(-second, -first, ranks[1], level)
    accused = "members", "non-members"
    shown = [_shown(bounds, delta) for bounds in (above, below)]
    side = int(shown[1][0] > shown[0][0])
    epsilon, place = shown[side]
    hits, low, high = (above, below)[side]
    rank = int(ranks[side][place])
    threshold = -np.sort(-outside)[rank - 1] if side == 0 else np.sort(inside)[rank - 1]
    return LowerBound(
        epsilon=epsilon,
        delta=delta,
        confidence=confidence,
        accused=accused[side],
        threshold=float(threshold),
        hits=int(hits[place]),
        trials=len((inside, outside)[side]),
        hit_rate=float(low[place]),
        false_rate=float(high[place]),
        tried=tried,
    )


def most_that_can_be_shown(
    members: int,
    non_members: int,
    confidence: float = 0.95,
    *,
    delta: float = 0.0,
    attacks: int = 1,
) -> float:
    """The epsilon that `epsilon_lower_bound` shows of an attack that never errs.

    ```python
    hg.audit.most_that_can_be_shown(1_000, 1_000)     # 4.9: no promise above it can be refuted
    ```

    Args:
      members: how many scores of members there are.
      non_members: how many of others.
      confidence: in (0, 1).
      delta: in [0, 1).
      attacks: as in `epsilon_lower_bound`.

    Raises:
      InputError: if an argument is out of range.
    """
    perfect = np.ones(whole("members", members)), np.zeros(whole("non_members", non_members))
    return epsilon_lower_bound(
        *perfect, delta=delta, confidence=confidence, attacks=attacks
    ).epsilon


def as_scores(name: str, values: ArrayLike) -> Float[np.ndarray, " n"]:
    """One score for each example, as floats, or an error that says what is wrong with them."""
    scores = np.asarray(values)
    if scores.ndim != 1 or not len(scores) or scores.dtype.kind not in "fiub":
        raise InputError(
            f"{name} must be one score for each example and at least one, got an array of shape "
            f"{scores.shape} and dtype {scores.dtype}"
        )
    scores = scores.astype(float)
    missing = np.isnan(scores)
    if missing.any():
        raise InputError(
            f"{name} must be numbers, got NaN in {int(missing.sum())} of {len(scores)}, first in "
            f"row {int(missing.argmax())}; leave these examples out, on both sides alike"
        )
    return scores


def _delta(value: float) -> float:
    if not 0 <= value < 1:
        raise InputError(f"delta must lie in [0, 1), got {value!r}")
    return float(value)


def _ranks(count: int) -> Int[np.ndarray, " ranks"]:
    """Powers of two up to the half, which depend on no score."""
    return 2 ** np.arange(max(1, count.bit_length() - 1))


def _by_lot(
    members: Float[np.ndarray, " m"], non_members: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]:
    """Places in the order of all scores, all different: equal ones are ordered by lot."""
    scores = np.concatenate([members, non_members])
    lots = np.random.default_rng(_LOTS).random(len(scores))
    places = np.empty(len(scores))
    places[np.lexsort((lots, scores))] = np.arange(len(scores))
    return places[: len(members)], places[len(members) :]


def _above(
    right: Float[np.ndarray, " m"],
    wrong: Float[np.ndarray, " n"],
    ranks: Int[np.ndarray, " ranks"],
    level: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of those to be accused how many are above the others' ranks, and the bounds of both."""
    thresholds = -np.sort(-wrong)[ranks - 1]
    hits = len(right) - np.searchsorted(np.sort(right), thresholds, side="right")
    low, _ = clopper_pearson(hits, len(right), 1 - level)
    high = stats.beta.isf(level, ranks, len(wrong) - ranks + 1)
    return hits, np.atleast_1d(low), high


def _shown(bounds: tuple[np.ndarray, np.ndarray, np.ndarray], delta: float) -> tuple[float, int]:
    """The largest epsilon of one side's thresholds, zero if there is none, and at which."""
    _, low, high = bounds
    ratios = np.maximum(low - delta, 0) / high
    place = int(np.argmax(ratios))
    return math.log(max(float(ratios[place]), 1.0)), place


def ratio_bound(
    true_positives: Counts,
    false_negatives: Counts,
    false_positives: Counts,
    true_negatives: Counts,
    alpha: float = 0.05,
    method: str = "clopper-pearson",
) -> Bound:
    """A lower bound on TPR / FPR at one threshold, chosen without looking at these counts.

    ```python
    math.log(hg.audit.ratio_bound(500, 0, 0, 500, 0.01))     # 4.54
    ```

    The same numbers as TensorFlow Privacy's `RatioBound`. Its logarithm bounds epsilon for delta
    zero. The largest of many thresholds' bounds holds with no known confidence: use
    `epsilon_lower_bound` for that. All methods but "clopper-pearson", which is exact, rest on
    large counts (Katz et al. 1978; Walter 1975; Bailey 1987; Newcombe 2001; see Aho and
    Bowyer 2015, doi 10.1111/2041-210X.12304; for audits Jagielski et al. 2020, arXiv 2006.07709,
    and Lu et al. 2022, arXiv 2210.08643).

    Args:
      true_positives: a number or an array, like the next three.
      false_negatives: members that were missed.
      false_positives: non-members taken for members.
      true_negatives: the other non-members.
      alpha: chance that the bound is too high, in (0, 0.5).
      method: one of `METHODS`.

    Raises:
      InputError: if a count is negative, a side is empty, or another argument is out of range.
    """
    counts = [true_positives, false_negatives, false_positives, true_negatives]
    tp, fn, fp, tn = (np.asarray(count, float) for count in counts)
    if not all(np.all(count >= 0) for count in (tp, fn, fp, tn)):
        raise InputError(f"counts must be zero or more, got {counts!r}")
    if not np.all(tp + fn > 0) or not np.all(fp + tn > 0):
        raise InputError(f"counts must be of a member and a non-member at least, got {counts!r}")
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha must lie strictly between 0 and 0.5, got {alpha!r}")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    tp, fp, m, n = np.broadcast_arrays(tp, fp, tp + fn, fp + tn)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = METHODS[method](tp, fp, m, n, alpha)
    return found[()]


def _inside(tp: Any, fp: Any, m: Any, n: Any) -> tuple[Any, Any]:
    """Counts half a case below their sizes, where both are at them."""
    full = (tp == m) & (fp == n)
    return np.where(full, m - 0.5, tp), np.where(full, n - 0.5, fp)


def _katz_log(tp: Any, fp: Any, m: Any, n: Any, alpha: float) -> Any:
    tp, fp = _inside(tp, fp, m, n)
    fp = np.where(fp == 0, 0.5, fp)
    error = np.sqrt((1 - tp / m) / tp + (1 - fp / n) / fp)
    return np.where(tp == 0, 0.0, tp / m / (fp / n) * np.exp(stats.norm.ppf(alpha) * error))


def _adjusted_log(tp: Any, fp: Any, m: Any, n: Any, alpha: float) -> Any:
    tp, fp = _inside(tp, fp, m, n)
    ratio = (tp + 0.5) / (m + 0.5) / ((fp + 0.5) / (n + 0.5))
    error = np.sqrt(1 / (tp + 0.5) - 1 / (m + 0.5) + 1 / (fp + 0.5) - 1 / (n + 0.5))
    return np.where((tp == 0) & (fp == 0), 0.0, ratio * np.exp(stats.norm.ppf(alpha) * error))


def _bailey(tp: Any, fp: Any, m: Any, n: Any, alpha: float) -> Any:
    z = stats.norm.ppf(alpha)
    none = tp == 0
    tp = np.where(tp == m, m - 0.5, tp)
    fp = np.where(fp == n, n - 0.5, np.where(fp == 0, 0.5, fp))
    missed, spared = 1 - tp / m, 1 - fp / n
    inner = missed / tp + spared / fp - z**2 * missed * spared / (9 * tp * fp)
    root = (1 + z / 3 * np.sqrt(inner)) / (1 - z**2 * spared / (9 * fp))
    return np.where(none, 0.0, tp / m / (fp / n) * root**3)


def _inverse_sinh(tp: Any, fp: Any, m: Any, n: Any, alpha: float) -> Any:
    z = stats.norm.ppf(alpha)
    tp, fp = _inside(tp, fp, m, n)
    fp = np.where(fp == 0, z**2, fp)
    error = z / 2 * np.sqrt(1 / tp - 1 / m + 1 / fp - 1 / n)
    return np.where(tp == 0, 0.0, tp / m / (fp / n) * np.exp(2 * np.arcsinh(error)))


def _clopper_pearson(tp: Any, fp: Any, m: Any, n: Any, alpha: float) -> Any:
    low, _ = clopper_pearson(tp, m, 1 - alpha / 2)
    _, high = clopper_pearson(fp, n, 1 - alpha / 2)
    # As there, all false positives are taken for no information.
    return np.where((low <= 0) | (high >= 1), 0.0, low / high)


METHODS: dict[str, Callable[..., Any]] = {
    "katz-log": _katz_log,
    "adjusted-log": _adjusted_log,
    "bailey": _bailey,
    "inverse-sinh": _inverse_sinh,
    "clopper-pearson": _clopper_pearson,
}
