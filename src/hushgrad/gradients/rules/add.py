"""`data + parameter`: biases and residual parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hushgrad.gradients.rules.rule import Rule

__all__ = ["Addition"]


class Addition(Rule):
    """The gradient of a sum's operand is the gradient of the sum.

    `add` itself repeats an operand along its dimensions of size one, so the
    gradient is summed over those.
    """

    name = "add"

    @property
    def recorded(self) -> tuple[int, ...]:
        return ()

    def gradient(self, records: tuple[Any, ...], g: jax.Array) -> jax.Array:
        shape = self.avals[self.position].shape
        if len(shape) != g.ndim:  # a scalar is added to anything
            return jnp.sum(g)
        repeated = [d for d, n in enumerate(shape) if n != g.shape[d]]
        return jnp.sum(g, axis=tuple(repeated), keepdims=True) if repeated else g

    def total(self, records: tuple[Any, ...], g: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(lambda one: self.gradient((), one))(g), axis=0)
