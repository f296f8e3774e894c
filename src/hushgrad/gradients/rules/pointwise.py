"""`data * parameter` and other operations entry by entry: scales, gates, exponents."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hushgrad.gradients.rules.rule import Rule, computable

__all__ = ["Pointwise"]


class Pointwise(Rule):
    """An operation whose gradient by the parameter is no larger than its output.

    It is built, for every example, from the operation's own derivative; so the
    operation need not be linear: `x / w` and `x ** w` are covered too.
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        """The primitive's."""
        return self.op.primitive.name

    @classmethod
    def match(cls, op: Any, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
        numbers = avals[1:] if op.primitive.name == "select_n" else avals
        return cls(op, position, avals, out) if computable(numbers) else None

    @property
    def recorded(self) -> tuple[int, ...]:
        linear = self.op.primitive.name in {"mul", "div"} and self.position == 0
        if linear or self.op.primitive.name == "mul":
            return (1 - self.position,)
        return tuple(range(len(self.avals)))

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        def one(records: tuple[Any, ...], g: Array) -> Array:
            operands = list(records)
            weight = jnp.zeros(self.avals[self.position].shape, g.dtype)
            if len(records) == len(self.avals):
                weight = operands[self.position]
            else:
                operands.insert(self.position, weight)

            def run(w: Array) -> Array:
                operands[self.position] = w
                return self.op.bind(*operands)[0]

            out, back = jax.vjp(run, weight)
            return back(g.astype(out.dtype))[0]

        return jnp.sum(jax.vmap(one)(records, g), axis=0)
