"""Faster ways to run an operation of the loss than its own, by backend and shape.

One small file per lowering; `LOWERINGS` is the one place where they are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hushgrad.gradients.program import Op

__all__ = ["LOWERINGS", "find"]

LOWERINGS: dict[object, tuple[Any, ...]] = {}


def find(op: Op, avals: Sequence[Any], backend: str) -> Callable[..., tuple[Any, ...]] | None:
    """What to run in place of `op.bind`, or None where nothing is known to be faster."""
    for lowering in LOWERINGS.get(op.primitive, ()):
        chosen = lowering.match(op, avals, backend)
        if chosen is not None:
            return chosen
    return None
