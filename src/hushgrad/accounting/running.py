"""What a run has cost so far, asked for after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hushgrad._check import fraction
from hushgrad.accounting.accountants import parts_of
from hushgrad.accounting.events import as_relation, releases
from hushgrad.accounting.losses import Running
from hushgrad.accounting.pld import known
from hushgrad.errors import InputError

__all__ = ["running"]


def running(event: Any, delta: float, *, relation: str | None = None) -> Callable[[int], float]:
    """Epsilon as a function of the steps made, within about a millisecond each.

    The first steps, and releases whose losses are rare and large, take some more.

    Args:
      event: a mechanism or a `dp_accounting.DpEvent` that repeats one Gaussian release.
      delta: in (0, 1).
      relation: the neighbouring relation; by default the event's.

    Returns:
      steps -> an upper bound on epsilon, for steps from 0 to the event's count. Looser
      than `epsilon` by up to half a percent.

    Raises:
      InputError: if the event is not the repetition of one Gaussian release.
    """
    delta, relation = fraction("delta", delta), as_relation(event, relation)
    found = known(releases(parts_of(event) or []) or [], relation)
    if not found or len(set(release for release, _ in found)) != 1:
        raise InputError(f"event must repeat one Gaussian release, got {event!r}")
    total = sum(count for _, count in found)
    return Running(found[0][0], total, delta, relation).epsilon
