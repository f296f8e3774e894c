"""Numbers as a reader likes them."""

from __future__ import annotations

import math

__all__ = ["epsilon", "number", "power", "share"]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN_FROM, _PLAIN_TO = 1e-3, 1e5


def epsilon(value: float | None) -> str:
    """As in a statement."""
    return "not bounded" if value is None else f"{value:,.4f}"


def number(value: float | None) -> str:
    """Four digits; what is not known or infinite as a word."""
    if value is None:
        return "not bounded"
    if value == 0 or _PLAIN_FROM <= abs(value) < _PLAIN_TO:
        digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{min(digits, 4)}f}"
    return power(value)


def power(value: float) -> str:
    """With a power of ten: 10⁻⁵, 2.5·10⁻⁶."""
    if value <= 0:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-12)
    digits = f"{value / 10**exponent:.3g}"
    if -3 < exponent < 3:
        return f"{value:g}"
    raised = f"10{str(exponent).translate(_RAISED)}"
    return raised if digits == "1" else f"{digits}·{raised}"


def share(value: float) -> str:
    """In percent, with a digit behind the point where it is not whole."""
    return f"{100 * value:.3g} %" if value < 0.1 else f"{100 * value:.1f} %"
