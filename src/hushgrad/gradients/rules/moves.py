"""Operations that put a parameter beside or into data: class tokens, prompts, padding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.rule import Rule, computable

__all__ = ["Move"]


class Move(Rule):
    """An operation that copies each entry of the parameter to at most one place.

    The gradient is that of the places, and no larger than the parameter. Only where
    they are has to be recorded, not the data beside them.
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        """The primitive's."""
        return self.op.primitive.name

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
        # JAX cannot transpose `pad` in its padding value alone (0.10): that goes the direct way.
        if not computable((avals[position], out)) or (op.primitive.name, position) == ("pad", 1):
            return None
        return cls(op, position, avals, out)

    @property
    def recorded(self) -> tuple[int, ...]:
        return tuple(
            i for i, aval in enumerate(self.avals) if not jnp.issubdtype(aval.dtype, jnp.floating)
        )

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        def one(records: tuple[Any, ...], g: Array) -> Array:
            operands = [jnp.zeros(aval.shape, g.dtype) for aval in self.avals]
            for i, record in zip(self.recorded, records, strict=True):
                operands[i] = record

            def run(w: Array) -> Array:
                operands[self.position] = w
                return self.op.bind(*operands)[0]

            _, back = jax.vjp(run, operands[self.position])
            return back(g)[0]

        return jnp.sum(jax.vmap(one, axis_size=g.shape[0])(records, g), axis=0)
