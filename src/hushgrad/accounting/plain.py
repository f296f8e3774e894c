"""Events as plain data and back, for ledgers and files."""

from __future__ import annotations

from typing import Any

import attr
import dp_accounting
from dp_accounting import dp_event

from hushgrad.errors import InputError

__all__ = ["from_plain", "to_plain"]

# By name, and no others: a file must not choose what is called.
_KNOWN: dict[str, type[dp_accounting.DpEvent]] = {
    kind.__name__: kind
    for kind in (
        dp_event.ComposedDpEvent,
        dp_event.DiscreteLaplaceDpEvent,
        dp_event.GaussianDpEvent,
        dp_event.LaplaceDpEvent,
        dp_event.MixtureOfGaussiansDpEvent,
        dp_event.NoOpDpEvent,
        dp_event.NonPrivateDpEvent,
        dp_event.PoissonSampledDpEvent,
        dp_event.RandomizedResponseDpEvent,
        dp_event.RepeatAndSelectDpEvent,
        dp_event.SampledWithoutReplacementDpEvent,
        dp_event.SelfComposedDpEvent,
        dp_event.TruncatedSubsampledGaussianDpEvent,
        dp_event.ZCDpEvent,
    )
}


def to_plain(event: dp_accounting.DpEvent) -> dict[str, Any]:
    """An event as data that JSON can hold; `from_plain` makes an equal one of it.

    Raises:
      InputError: for kinds of events that are not known.
    """
    kind = type(event).__name__
    if _KNOWN.get(kind) is not type(event):
        raise InputError(f"{kind} cannot be kept in a ledger")
    fields = {f.name: _encoded(getattr(event, f.name)) for f in attr.fields(type(event))}
    return {"kind": kind, **fields}


def from_plain(content: Any) -> dp_accounting.DpEvent:
    """The event that `to_plain` was given.

    Raises:
      InputError: if the content is none of its answers.
    """
    if not isinstance(content, dict) or content.get("kind") not in _KNOWN:
        raise InputError(f"event must be what to_plain gives, got {content!r}")
    fields = {name: _decoded(value) for name, value in content.items() if name != "kind"}
    try:
        return _KNOWN[content["kind"]](**fields)
    except TypeError as error:
        raise InputError(f"event must be what to_plain gives, got {content!r}") from error


def _encoded(value: Any) -> Any:
    if isinstance(value, dp_accounting.DpEvent):
        return to_plain(value)
    if isinstance(value, list | tuple):
        return [_encoded(part) for part in value]
    # Numbers of NumPy among them.
    return value.item() if hasattr(value, "item") else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return from_plain(value)
    return [_decoded(part) for part in value] if isinstance(value, list) else value
