"""The accountants by name, and the two questions they answer."""

from __future__ import annotations

from typing import Any

import dp_accounting

from hushgrad._check import fraction
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
    chosen = _chosen(accountant)
    # A bound below zero would be a rounding artefact; epsilon is never negative.
    return max(0.0, float(chosen.epsilon(_event(event), fraction("delta", delta))))


def delta(event: Any, epsilon: float, accountant: str = "pld") -> float:
    """Smallest delta the accountant can prove at `epsilon`: an upper bound in [0, 1].

    Raises:
      InputError: if `epsilon` is negative, the accountant is not known, or the
        event is not one that hushgrad accounts for.
    """
    chosen = _chosen(accountant)
    if not epsilon >= 0:
        raise InputError(f"epsilon must be zero or more, got {epsilon!r}")
    return min(1.0, max(0.0, float(chosen.delta(_event(event), float(epsilon)))))


def _event(event: Any) -> dp_accounting.DpEvent:
    # A composed event has an `event` of its own: looking into it would drop the count.
    event = event if isinstance(event, dp_accounting.DpEvent) else getattr(event, "event", None)
    poisson_gaussian_parts(event)
    return event


def _chosen(accountant: str) -> Any:
    if accountant not in ACCOUNTANTS:
        known = ", ".join(repr(name) for name in ACCOUNTANTS)
        raise InputError(f"accountant must be one of {known}, got {accountant!r}")
    return ACCOUNTANTS[accountant]
