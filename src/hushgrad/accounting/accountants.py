"""The accountants by name, and the two questions they answer."""

from __future__ import annotations

import math
from typing import Any

from hushgrad._check import fraction, positive
from hushgrad.accounting import pld, rdp
from hushgrad.accounting.events import (
    Parts,
    as_event,
    as_relation,
    flattened,
    keeps_nothing,
)
from hushgrad.accounting.losses import Interval
from hushgrad.errors import InputError

__all__ = ["ACCOUNTANTS", "delta", "delta_interval", "epsilon", "epsilon_interval", "parts_of"]

ACCOUNTANTS = {"pld": pld, "rdp": rdp}


def epsilon(
    event: Any, delta: float, accountant: str = "pld", *, relation: str | None = None
) -> float:
    """Smallest epsilon the accountant can prove at `delta`: an upper bound.

    Args:
      event: a mechanism, or a `dp_accounting.DpEvent`; its noise multipliers are noise
        over one clip.
      delta: probability in (0, 1) with which the epsilon may fail.
      accountant: "pld" (privacy loss distributions, tight) or "rdp" (Renyi).
      relation: "add-or-remove-one", "replace-one" or "replace-special"; the
        mechanism's own by default, and the first for a bare event.

    Raises:
      InputError: if `delta` is not in (0, 1), a name is not known, or the accountant
        has no sound bound for the event under the relation.
    """
    chosen, delta = _chosen(accountant), fraction("delta", delta)
    parts, relation = parts_of(event), as_relation(event, relation)
    if parts is None:
        return math.inf
    found = chosen.epsilon(parts, delta, relation) if parts else 0.0
    # A bound below zero would be a rounding artefact; NaN must not pass for zero.
    return math.inf if math.isnan(found) else max(0.0, float(found))


def delta(
    event: Any, epsilon: float, accountant: str = "pld", *, relation: str | None = None
) -> float:
    """Smallest delta the accountant can prove at `epsilon`: an upper bound in [0, 1].

    Takes and raises what `epsilon` does; `epsilon` may be zero.
    """
    chosen, at = _chosen(accountant), _at_least_zero(epsilon)
    parts, relation = parts_of(event), as_relation(event, relation)
    if parts is None:
        return 1.0
    found = chosen.delta(parts, at, relation) if parts else 0.0
    return 1.0 if math.isnan(found) else min(1.0, max(0.0, float(found)))


def epsilon_interval(event: Any, delta: float, *, relation: str | None = None) -> Interval:
    """Certified bounds on the true epsilon at `delta`.

    The upper one is what `epsilon` answers, the lower one a proof that nothing much
    smaller holds: for releases of the Gaussian family they are within 0.5% of each
    other wherever such a proof is found, and usually within 0.1%. Where none is, or for
    other events, the lower bound is zero.

    Formal guarantee: up to the floating-point errors that are accounted for, the event is
    (upper, delta)-differentially private; the dominating pairs of its releases, composed,
    are not (e, delta)-indistinguishable for any e below `lower`.

    Raises:
      InputError: as `epsilon` does.
    """
    delta = fraction("delta", delta)
    parts, relation = parts_of(event), as_relation(event, relation)
    if parts is None:
        return Interval(math.inf, math.inf)
    return _sure(pld.epsilon_interval(parts, delta, relation)) if parts else Interval(0.0, 0.0)


def delta_interval(event: Any, epsilon: float, *, relation: str | None = None) -> Interval:
    """Certified bounds on the true delta at `epsilon`, as `epsilon_interval`'s."""
    at = _at_least_zero(epsilon)
    parts, relation = parts_of(event), as_relation(event, relation)
    if parts is None:
        return Interval(1.0, 1.0)
    return _sure(pld.delta_interval(parts, at, relation), 1.0) if parts else Interval(0.0, 0.0)


def _sure(found: Interval, most: float = math.inf) -> Interval:
    """NaN must not pass for a bound."""
    lower = 0.0 if math.isnan(found.lower) else found.lower
    return Interval(lower, most if math.isnan(found.upper) else found.upper)


def parts_of(event: Any) -> Parts | None:
    """The event's parts; None if one of them keeps nothing private."""
    parts = flattened(as_event(event))
    if any(keeps_nothing(part) for part, _ in parts):
        return None
    return parts


def _at_least_zero(epsilon: float) -> float:
    return 0.0 if epsilon == 0 else positive("epsilon", epsilon)


def _chosen(accountant: str) -> Any:
    if not isinstance(accountant, str) or accountant not in ACCOUNTANTS:
        known = ", ".join(repr(name) for name in ACCOUNTANTS)
        raise InputError(f"accountant must be one of {known}, got {accountant!r}")
    return ACCOUNTANTS[accountant]
