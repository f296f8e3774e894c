"""Mechanisms from options, their warnings to the terminal."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hushgrad.mechanism import Mechanism

__all__ = ["made"]


def made(**settings: Any) -> Mechanism:
    """`hushgrad.dp_sgd` with these settings."""
    from hushgrad.planning import dp_sgd

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        mechanism = dp_sgd(**settings)
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    return mechanism
