"""Checks of arguments, with messages that read the same everywhere."""

from __future__ import annotations

import math
import numbers
from typing import Any

from hushgrad.errors import InputError

__all__ = ["finite", "fraction", "positive", "whole"]


def finite(name: str, value: Any) -> float:
    """`value` as a float, or an error if it is not a finite number."""
    if not _is_number(value) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """`value` as a float, or an error if it is not a positive finite number."""
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} must be a positive finite number, got {value!r}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """`value` as a float, or an error if it is not strictly between 0 and 1."""
    if not _is_number(value) or not 0 < value < 1:
        raise InputError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return float(value)


def whole(name: str, value: Any, *, at_least: int = 1) -> int:
    """`value` as an int, or an error if it is not a whole number that large."""
    if not _is_number(value) or value != value or value in (math.inf, -math.inf):
        raise InputError(f"{name} must be a whole number of at least {at_least}, got {value!r}")
    if value != int(value) or value < at_least:
        raise InputError(f"{name} must be a whole number of at least {at_least}, got {value!r}")
    return int(value)


def _is_number(value: Any) -> bool:
    # numpy scalars count; booleans do not, since `clip=True` is a slip, not a 1.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
