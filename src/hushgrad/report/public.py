"""What of a report may leave the building."""

from __future__ import annotations

from typing import Any

__all__ = ["LEFT_OUT", "published"]

# All that is public, by name; True for all that is within. What is not listed stays inside, so
# that whatever is added to a report is not public before somebody thought about it.
_PUBLIC: dict[str, Any] = {
    "format": True,
    "made_by": True,
    "made_on": True,
    "trusted": True,
    "run": {
        "id": True,
        "state": True,
        "steps_planned": True,
        "steps_charged": True,
        # Days alone: how long a step took tells how many were drawn for it.
        "begun_on": True,
        "last_on": True,
        "seeded": True,
        "in_budget": True,
    },
    "mechanism": True,
    # Made from the mechanism and the number of steps alone.
    "statement": True,
    "privacy": True,
    "curves": True,
    "bounds": True,
    # No row's own hash: with those before and after it, it would give away when it was written.
    "ledger": {"verified": True, "rows": True, "head": True},
    "versions": True,
}
# Canaries whose scores follow from released sums with noise and from coins, and from no record.
_MADE_UP = ("gradient",)
_UNTRUSTED = "the ledger does not prove what was spent; the full report says why"

LEFT_OUT = (
    "training losses, norms of gradients, shares of clipped gradients and counts of those that "
    "were not finite: they carry no noise",
    "how many examples a step drew, and when each step was made, which tells as much",
    "scores on data that were not said to be public",
    "what an audit found with real records (unless it refutes the promise, which is said), and "
    "which rows its canaries took",
    "directories, the names of budgets, and whatever else names a machine or a person",
)


def published(told: dict[str, Any], title: str | None) -> dict[str, Any]:
    """The part of a report's facts that may be published.

    Args:
      told: all of them.
      title: that was given for the report, not taken from the run.
    """
    found = _picked(told, _PUBLIC)
    return {
        **found,
        "public": True,
        "title": title,
        "problems": [_UNTRUSTED] if told["problems"] else [],
        "accuracy": _accuracy(told["accuracy"]),
        "unprotected": None,
        "audit": _audit(told["audit"]),
        "notices": [one for one in told["notices"] if one["public"]],
        "left_out": list(LEFT_OUT),
    }


def _picked(told: Any, allowed: Any) -> Any:
    if allowed is True or told is None:
        return told
    return {name: _picked(told[name], allowed[name]) for name in allowed}


def _accuracy(told: dict[str, Any] | None) -> dict[str, Any] | None:
    if told is None:
        return None
    scores = [one for one in told["scores"] if one["set"] == "public"]
    final = told["final"]
    if final is not None and final["set"] != "public":
        final = None
    return {"scores": scores, "final": final} if scores or final is not None else None


def _audit(told: dict[str, Any] | None) -> dict[str, Any] | None:
    if told is None or told["planned"]["kind"] in _MADE_UP:
        return told
    return {"planned": told["planned"], "found": None, "roc": None}
