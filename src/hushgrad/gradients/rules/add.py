"""`data + parameter`, `data - parameter`: biases and residual parameters."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from hushgrad.gradients.rules.rule import Rule

__all__ = ["Addition"]


class Addition(Rule):
    """The gradient of a sum's operand is the gradient of the sum.

    `add` itself repeats an operand along its dimensions of size one, so the
    gradient is summed over those.
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        """The primitive's: add or sub."""
        return self.op.primitive.name

    @property
    def recorded(self) -> tuple[int, ...]:
        return ()

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        shape = self.avals[self.position].shape
        if len(shape) != g.ndim - 1:  # a scalar is added to anything
            out = jnp.sum(g)
        else:
            repeated = [d for d, n in enumerate(shape) if n != g.shape[d + 1]]
            out = jnp.sum(g, axis=(0, *(d + 1 for d in repeated))).reshape(shape)
        return -out if self.op.primitive.name == "sub" and self.position == 1 else out
