"""The accountants by name, and the two questions they answer."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting

from hushgrad._check import fraction, positive
from hushgrad.accounting import pld, rdp
from hushgrad.accounting.events import poisson_gaussian_parts
from hushgrad.errors import InputError

__all__ = ["ACCOUNTANTS", "delta", "epsilon"]

ACCOUNTANTS = {"pld": pld, "rdp": rdp}


def epsilon(event: Any, delta: float, accountant: str = "pld") -> float:
    """Smallest epsilon the accountant can prove at `delta`: an upper bound.

    Args:
      event: a `dp_accounting.DpEvent`, or anything with one as its `event`.
      delta: probability in (0, 1) with which the epsilon may fail.
      accountant: "pld" (privacy loss distributions, tight) or "rdp" (Renyi).

    Raises:
      InputError: if `delta` is not in (0, 1), the accountant is not known, or the
        event is not one that hushgrad accounts for.
    """
    chosen, delta = _chosen(accountant), fraction("delta", delta)
    event, steps = _event(event)
    if steps == 0:
        return 0.0
    found = float(chosen.epsilon(event, delta))
    # A bound below zero would be a rounding artefact; NaN must not pass for zero.
    return math.inf if math.isnan(found) else max(0.0, found)


def delta(event: Any, epsilon: float, accountant: str = "pld") -> float:
    """Smallest delta the accountant can prove at `epsilon`: an upper bound in [0, 1].

    Raises:
      InputError: if `epsilon` is negative, the accountant is not known, or the
        event is not one that hushgrad accounts for.
    """
    chosen = _chosen(accountant)
    if epsilon != 0:
        epsilon = positive("epsilon", epsilon)
    event, steps = _event(event)
    if steps == 0:
        return 0.0
    found = float(chosen.delta(event, float(epsilon)))
    return 1.0 if math.isnan(found) else min(1.0, max(0.0, found))


def _event(event: Any) -> tuple[dp_accounting.DpEvent, int]:
    # A composed event has an `event` of its own: looking into it would drop the count.
    event = event if isinstance(event, dp_accounting.DpEvent) else getattr(event, "event", None)
    *_, steps = poisson_gaussian_parts(event)
    return event, steps


def _chosen(accountant: str) -> Any:
    if not isinstance(accountant, str) or accountant not in ACCOUNTANTS:
        known = ", ".join(repr(name) for name in ACCOUNTANTS)
        raise InputError(f"accountant must be one of {known}, got {accountant!r}")
    return ACCOUNTANTS[accountant]
