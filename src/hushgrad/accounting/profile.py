"""The whole guarantee at once: every epsilon's delta, and what an attacker can gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hushgrad._check import fraction
from hushgrad.accounting import pld
from hushgrad.accounting.accountants import epsilon as epsilon_of
from hushgrad.accounting.accountants import parts_of
from hushgrad.accounting.events import as_relation
from hushgrad.errors import InputError

__all__ = ["Profile", "TradeOff", "advantage", "posterior", "profile", "trade_off"]

_POINTS = 64
_SMALLEST_DELTA = 1e-10


class Profile(NamedTuple):
    """An epsilon-delta curve: (epsilon, delta)-differentially private at every point."""

    epsilon: Float[np.ndarray, " n"]
    delta: Float[np.ndarray, " n"]


class TradeOff(NamedTuple):
    """The best an attacker can do who must tell somebody's presence from absence.

    Attributes:
      false_positive: shares of absences taken for presences.
      false_negative: shares of presences missed, at least.
    """

    false_positive: Float[np.ndarray, " n"]
    false_negative: Float[np.ndarray, " n"]


def profile(
    event: Any, epsilons: Sequence[float] | None = None, *, relation: str | None = None
) -> Profile:
    """Upper bounds on delta at many epsilons.

    Args:
      event: a mechanism or a `dp_accounting.DpEvent`.
      epsilons: zero or more each; by default from 0 to where delta is 1e-10.
      relation: the neighbouring relation; by default the event's.

    Raises:
      InputError: if an epsilon is negative, or the event has no tight bound.
    """
    relation, parts = as_relation(event, relation), parts_of(event)
    if epsilons is None:
        end = 1.0
        if parts:
            end = pld.epsilon(parts, _SMALLEST_DELTA, relation)
        epsilons = list(np.linspace(0.0, end if 0 < end < math.inf else 1.0, _POINTS))
    at = np.asarray(epsilons, float)
    if at.ndim != 1 or not np.all(at >= 0) or not np.all(np.isfinite(at)):
        raise InputError(f"epsilons must be finite numbers of zero or more, got {epsilons!r}")
    if not parts:
        return Profile(at, np.full(at.shape, 1.0 if parts is None else 0.0))
    found = np.array(pld.profile(parts, [float(e) for e in at], relation))
    return Profile(at, np.clip(found, 0.0, 1.0))


def trade_off(
    event: Any, false_positives: Sequence[float] | None = None, *, relation: str | None = None
) -> TradeOff:
    """The least false negatives of any attack, by its false positives (f-DP).

    Wasserman and Zhou 2010, Dong, Roth and Su 2019 (arXiv 1905.02383): every point of the
    epsilon-delta curve forbids the attacks below two lines.

    Args:
      event: a mechanism or a `dp_accounting.DpEvent`.
      false_positives: in [0, 1]; by default 101 from 0 to 1.
      relation: the neighbouring relation; by default the event's.

    Raises:
      InputError: if a share is outside of [0, 1], or the event has no tight bound.
    """
    shares = np.linspace(0, 1, 101) if false_positives is None else np.asarray(false_positives)
    if shares.ndim != 1 or not np.all((shares >= 0) & (shares <= 1)):
        raise InputError(f"false_positives must lie in [0, 1], got {false_positives!r}")
    curve = profile(event, relation=relation)
    factor = np.exp(np.minimum(curve.epsilon, 700.0))[:, None]
    left = 1 - curve.delta[:, None]
    lines = np.maximum(left - factor * shares, (left - shares) / factor)
    return TradeOff(shares.astype(float), np.maximum(lines, 0).max(axis=0))


def advantage(event: Any, false_positive: float = 0.01, *, relation: str | None = None) -> float:
    """The most that a membership attack can find more than it falsely accuses.

    The share of true members that any attack finds while it takes `false_positive` of
    the others for members too, less that share.
    """
    found = trade_off(event, [fraction("false_positive", false_positive)], relation=relation)
    return float(1 - found.false_negative[0] - false_positive)


def posterior(event: Any, delta: float, *, relation: str | None = None) -> float:
    """How sure an attacker can become who held membership for as likely as not.

    Except with a probability of about delta: 1 / (1 + exp(-epsilon)).
    """
    return 1 / (1 + math.exp(-epsilon_of(event, delta, relation=relation)))
