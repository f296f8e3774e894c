"""The robust membership attack: an example against a population, with few reference models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from hushgrad._check import positive
from hushgrad.audit.lira import checked_shadows, removed
from hushgrad.errors import InputError

__all__ = ["rmia_leave_one_out", "rmia_offline", "rmia_online"]

_ATTACKS = ("online", "offline")
# Stands for a probability that every reference model rounds to zero.
_SMALLEST = 1e-300
_SLOPE = 0.3


def rmia_online(
    target: Float[ArrayLike, " examples"],
    statistics: Float[ArrayLike, "shadows examples"],
    members: Bool[ArrayLike, "shadows examples"],
    *,
    gamma: float = 2.0,
    population: Bool[ArrayLike, " examples"] | None = None,
) -> Float[np.ndarray, " examples"]:
    """For each example the share of others that the target favours clearly less than it.

    ```python
    log_p = -shadows.statistics(loss, (x, y))
    scores = hg.audit.rmia_online(log_p_of_target, log_p, shadows.members)
    hg.audit.Roc.of(scores[was_member], scores[~was_member])
    ```

    An example's ratio is its probability by the target over that by models in general, half of
    which had it; the score is the share of the population whose ratio it exceeds `gamma` times
    (Zarifzadeh, Liu and Shokri 2024, arXiv 2312.03262). The ratio of a pair is a quotient of two
    numbers, so sorting them counts all pairs exactly, in the time of a sort.

    Args:
      target: log-probabilities of the labels by the audited model: minus the cross entropy.
      statistics: the same of every shadow.
      members: which shadow had which example.
      gamma: one or more.
      population: the examples to compare with; all others by default.

    Raises:
      InputError: if shapes do not match, a log-probability is not finite or above zero, an
        example was in all shadows, or the population is too small.
    """
    target, statistics, members = _checked(target, statistics, members)
    into, out = (_mean(statistics, side) for side in (members, ~members))
    _need_out(members)
    # Where no shadow had it, as if offline.
    into = np.where(members.any(axis=0), into, _SLOPE * out + 1 - _SLOPE)
    return _scores(target[None], (into + out) / 2, gamma, population)[0]


def rmia_offline(
    target: Float[ArrayLike, " examples"],
    statistics: Float[ArrayLike, "shadows examples"],
    members: Bool[ArrayLike, "shadows examples"],
    *,
    a: float = _SLOPE,
    gamma: float = 2.0,
    population: Bool[ArrayLike, " examples"] | None = None,
) -> Float[np.ndarray, " examples"]:
    """The same from shadows that did not have the example.

    ```python
    scores = hg.audit.rmia_offline(log_p_of_target, log_p, shadows.members, a=0.3)
    ```

    What models that had it would say is taken as `a p + 1 - a`, where p is the mean of those that
    had not (Zarifzadeh et al. 2024, appendix B.2.2).

    Args:
      target: as `rmia_online`'s.
      statistics: as there.
      members: as there.
      a: in [0, 1]: near 1 where models learn little of single examples.
      gamma: as there.
      population: as there.

    Raises:
      InputError: as there, or if `a` is out of range.
    """
    target, statistics, members = _checked(target, statistics, members)
    _need_out(members)
    out = _mean(statistics, ~members)
    return _scores(target[None], _with_slope(out, a), gamma, population)[0]


def rmia_leave_one_out(
    statistics: Float[ArrayLike, "shadows examples"],
    members: Bool[ArrayLike, "shadows examples"],
    *,
    attack: str = "online",
    a: float = _SLOPE,
    gamma: float = 2.0,
    population: Bool[ArrayLike, " examples"] | None = None,
) -> Float[np.ndarray, "shadows examples"]:
    """Each shadow in turn attacked with all the others, as `lira_leave_one_out` does.

    ```python
    scores = hg.audit.rmia_leave_one_out(log_p, shadows.members)
    hg.audit.Roc.of(scores[shadows.members], scores[~shadows.members])
    ```

    Args:
      statistics: as `rmia_online`'s.
      members: as there.
      attack: "online" or "offline".
      a: as `rmia_offline`'s; online, for examples that no other shadow had.
      gamma: as `rmia_online`'s.
      population: as there.

    Raises:
      InputError: as there, or if there are less than four shadows.
    """
    if attack not in _ATTACKS:
        raise InputError(f"attack must be 'online' or 'offline', got {attack!r}")
    statistics, members = checked_shadows(statistics, members, copies=False)
    _log_probabilities("statistics", statistics)
    without_in, without_out = removed(members)
    _need_out(members, without_out)
    out = _mean(statistics, ~members, without_out)
    general = _with_slope(out, a)
    if attack == "online":
        left = members.sum(axis=0) - (without_in >= 0)
        into = np.where(left > 0, _mean(statistics, members, without_in), 2 * general - out)
        general = (into + out) / 2
    return _scores(statistics, general, gamma, population)


def _with_slope(out: np.ndarray, a: float) -> np.ndarray:
    """Mean probability by models of which half had the example, from those without it."""
    if not 0 <= a <= 1:
        raise InputError(f"a must lie in [0, 1], got {a!r}")
    return ((1 + a) * out + 1 - a) / 2


def _mean(
    log_p: Float[np.ndarray, "shadows examples"],
    side: Bool[np.ndarray, "shadows examples"],
    left_out: Int[np.ndarray, "targets examples"] | None = None,
) -> np.ndarray:
    """Mean probability by the shadows on a side, without one of them for each target."""
    p, count = np.where(side, np.exp(log_p), 0.0), side.sum(axis=0)
    if left_out is None:
        return p.sum(axis=0) / np.maximum(count, 1)
    # Sums of those before and of those after: a difference would lose all digits of small ones.
    nobody = np.zeros((1, p.shape[1]))
    before = np.concatenate([nobody, np.cumsum(p, axis=0)])
    after = np.concatenate([np.cumsum(p[::-1], axis=0)[::-1], nobody, nobody])
    place = np.where(left_out < 0, len(p), left_out)
    rest = np.take_along_axis(before, place, axis=0) + np.take_along_axis(after, place + 1, axis=0)
    return rest / np.maximum(count - (left_out >= 0), 1)


def _scores(
    log_p: Float[np.ndarray, "targets examples"],
    general: np.ndarray,
    gamma: float,
    population: Any,
) -> Float[np.ndarray, "targets examples"]:
    """Share of the population's ratios that each ratio exceeds gamma times."""
    if positive("gamma", gamma) < 1:
        raise InputError(f"gamma must be one or more, got {gamma!r}")
    compared = _population(population, log_p.shape[1])
    ratios = log_p - np.log(np.maximum(general, _SMALLEST))
    others = compared.sum() - compared
    least = ratios - math.log(gamma)
    # An example is as large as itself and is not one of the others.
    own = compared & (gamma == 1)
    counts = np.stack(
        [
            np.searchsorted(np.sort(row[compared]), mine, side="right")
            for row, mine in zip(ratios, least, strict=True)
        ]
    )
    return (counts - own) / others


def _population(population: Any, examples: int) -> Bool[np.ndarray, " examples"]:
    compared = np.ones(examples, bool) if population is None else np.asarray(population)
    if compared.dtype != bool or compared.shape != (examples,):
        raise InputError(
            f"population must be boolean of shape ({examples},), got {compared.dtype} of shape "
            f"{compared.shape}"
        )
    if compared.sum() < 2:
        raise InputError(
            f"population must be of two examples at least, got {compared.sum()}: choose more"
        )
    return compared


def _need_out(members: np.ndarray, left_out: np.ndarray | None = None) -> None:
    left = (~members).sum(axis=0) - (0 if left_out is None else left_out >= 0)
    if (left < 1).any():
        place = int(np.argwhere(left < 1)[0][-1])
        raise InputError(
            f"members must leave each example out of a shadow that is not the target, and example "
            f"{place} is not: train more shadows"
        )


def _checked(
    target: Any, statistics: Any, members: Any
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "shadows examples"]]:
    statistics, members = checked_shadows(statistics, members, copies=False)
    target = np.asarray(target, float)
    if target.shape != statistics.shape[1:]:
        raise InputError(
            f"target must have the shape of each shadow's statistics, {statistics.shape[1:]}, got "
            f"{target.shape}"
        )
    _log_probabilities("target", target)
    _log_probabilities("statistics", statistics)
    return target, statistics, members


def _log_probabilities(name: str, values: np.ndarray) -> None:
    bad = ~(np.isfinite(values) & (values <= 0))
    if bad.any():
        raise InputError(
            f"{name} must be log-probabilities, finite and not above zero, got "
            f"{float(values[bad][0])}: take minus the cross entropy"
        )
