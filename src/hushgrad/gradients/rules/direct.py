"""The exact fallback: differentiate by the parameter itself, for every example."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Direct"]


@dataclasses.dataclass(frozen=True)
class Direct:
    """A value computed from parameters alone, read by operations without a rule.

    Its per-example gradient is what `vmap(grad)` gives, at that price: one copy of
    the value per example. `why` says which operation asked for it.
    """

    name = "direct"

    value: int
    why: str

    @property
    def ghost(self) -> bool:
        """The gradient is there already, so its norm is taken from it."""
        return False

    def squared_norm(self, records: tuple[Any, ...], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The squared norm of `g`, and no rounding error to speak of."""
        squared = jnp.sum(jnp.square(jnp.abs(g)))
        return squared, jnp.zeros_like(squared)

    def gradient(self, records: tuple[Any, ...], g: jax.Array) -> jax.Array:
        """`g` is the gradient already."""
        return g

    def total(self, records: tuple[Any, ...], g: jax.Array) -> jax.Array:
        """The sum over the batch axis."""
        return jnp.sum(g, axis=0)
