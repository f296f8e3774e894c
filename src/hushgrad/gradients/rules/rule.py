"""What every rule provides, with defaults that hold for any linear operation."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hushgrad.gradients.program import Op

__all__ = ["Rule", "computable"]


def computable(avals: tuple[Any, ...]) -> bool:
    """Whether all operands are real floating-point numbers, and not empty.

    Squares of small integers overflow their type, and those of complex numbers are
    no squared magnitudes; such operations go the direct way.
    """
    return all(jnp.issubdtype(a.dtype, jnp.floating) and a.size for a in avals)


@dataclasses.dataclass(frozen=True)
class Rule:
    """An operation that is linear in the operand at `position`, its parameter.

    Attributes:
      op: the operation.
      position: which operand is the parameter.
      avals: shape and dtype of every operand, for one example.
    """

    name: ClassVar[str] = "linear"

    op: Op
    position: int
    avals: tuple[Any, ...]

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...]) -> Rule | None:
        """The rule for this use of the operation, or None where it does not hold."""
        return cls(op, position, avals)

    @property
    def recorded(self) -> tuple[int, ...]:
        """Positions of the operands that the gradient needs: by default all others."""
        return tuple(i for i in range(len(self.avals)) if i != self.position)

    @property
    def ghost(self) -> bool:
        """Whether `squared_norm` is the better way to the norm, from shapes alone."""
        return False

    def apply(self, weight: Any, records: tuple[Any, ...]) -> Any:
        """The operation's output for one example."""
        operands = list(records)
        operands.insert(self.position, weight)
        return self.op.bind(*operands)[0]

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        """One example's gradient in the parameter's shape, in the dtype of `g`."""
        shape = jax.ShapeDtypeStruct(self.avals[self.position].shape, g.dtype)
        (out,) = jax.linear_transpose(lambda w: self.apply(w, records), shape)(g)
        return out

    def squared_norm(
        self, records: tuple[Any, ...], g: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """One example's squared gradient norm and a bound on its rounding error."""
        built = self.gradient(records, g)
        squared = jnp.sum(built * built)
        return squared, jnp.zeros_like(squared)

    def total(self, records: tuple[Any, ...], g: Array) -> Array:
        """The sum of the examples' gradients; everything has a leading batch axis."""
        shape = jax.ShapeDtypeStruct(self.avals[self.position].shape, g.dtype)

        def batched(w: Any) -> Any:
            return jax.vmap(lambda *r: self.apply(w, r))(*records)

        (out,) = jax.linear_transpose(batched, shape)(g)
        return out
