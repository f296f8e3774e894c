"""How many examples at a time keep a bound on memory."""

from __future__ import annotations

from hushgrad.gradients.plan import Plan

__all__ = ["chunk_size"]


def chunk_size(plan: Plan, size: int, bound: int | None) -> int:
    """How many of `size` examples to process at a time; a multiple of the group."""
    return size
