"""The exact fallback: differentiate by the parameter itself, for every example."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["Direct"]


@dataclasses.dataclass(frozen=True)
class Direct:
    """A value computed from parameters alone, read by operations without a rule.

    Its per-example gradient is what `vmap(grad)` gives, at that price: one copy of
    the value per example.

    Attributes:
      value: which value.
      why: which operation asked for it.
      least: a rule would cost as much, as where a loop starts from a parameter.
    """

    name = "direct"
    layout = None
    sizes = None
    rows = 1

    value: int
    why: str
    least: bool = False

    def at_once(self, backend: str) -> int | None:
        """For how many units to build gradients at a time: all."""
        del backend
        return None

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        """`g` is the gradient already."""
        return jnp.sum(g, axis=0)

    def total(self, records: tuple[Any, ...], g: Array) -> Array:
        """The sum over the batch axis."""
        return jnp.sum(g, axis=0)
