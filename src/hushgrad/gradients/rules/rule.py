"""What every rule provides, with defaults that hold for any linear operation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from hushgrad.gradients.program import Op

__all__ = ["Factors", "Layout", "Rule", "computable", "flat_repeats"]


def computable(avals: tuple[Any, ...]) -> bool:
    """Whether all operands are real floating-point numbers, and not empty.

    Squares of small integers overflow their type, and those of complex numbers are
    no squared magnitudes; such operations go the direct way.
    """
    return all(jnp.issubdtype(a.dtype, jnp.floating) and a.size for a in avals)


class Layout(NamedTuple):
    """The parameter's dimensions as those of one matrix for each group.

    A site's gradient is `sum_t left_t right_t^T` in each group; rows, columns and
    groups of it are these dimensions of the parameter.
    """

    groups: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """How many groups, rows and columns a parameter of that shape has."""
        groups, depth, columns = (math.prod(shape[d] for d in dims) for dims in self)
        return groups, depth, columns


class Factors(NamedTuple):
    """What one example's gradient at a site is the product of.

    Attributes:
      left: `[groups, rows, depth]`; or, for lookups, `[groups, rows]` integers: the
        row is then one at that position of the depth and zero elsewhere.
      right: `[groups, rows, columns]`.
    """

    left: Shaped[Array, "groups rows ..."]
    right: Shaped[Array, "groups rows columns"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An operation with its parameter as the operand at `position`.

    Records and output gradients come with a leading axis, the `repeats`: how often
    one example went through the operation (turns of a loop, members of a group), over
    which its gradient is summed.

    Attributes:
      op: the operation.
      position: which operand is the parameter.
      avals: shape and dtype of every operand, for one example and one repeat.
      out: shape and dtype of the output.
    """

    name: ClassVar[str] = "linear"

    op: Op
    position: int
    avals: tuple[Any, ...]
    out: Any

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
        """The rule for this use of the operation, or None where it does not hold."""
        return cls(op, position, avals, out)

    @property
    def recorded(self) -> tuple[int, ...]:
        """Positions of the operands that the gradient needs: by default all others."""
        return tuple(i for i in range(len(self.avals)) if i != self.position)

    @property
    def layout(self) -> Layout | None:
        """Which dimensions of the parameter the factors span, where whole dimensions do."""
        return None

    @property
    def sizes(self) -> tuple[int, int, int] | None:
        """Groups, depth and columns of the factors; None: the gradient is always built."""
        return None

    @property
    def rows(self) -> int:
        """Rows of the factors for one repeat."""
        return 1

    @property
    def held(self) -> int:
        """Numbers that one row of the factors holds."""
        _, depth, columns = self.sizes or (1, 1, 1)
        return depth + columns

    @property
    def copied(self) -> int:
        """Numbers that have to be written to make one row of the factors."""
        return 0

    def at_once(self, backend: str) -> int | None:
        """For how many units to build gradients at a time; None: for all at once."""
        del backend
        return None

    def apply(self, weight: Any, records: tuple[Any, ...]) -> Any:
        """The operation's output for one example and one repeat."""
        operands = list(records)
        operands.insert(self.position, weight)
        return self.op.bind(*operands)[0]

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        """The gradient in the parameter's shape, summed over the repeats."""
        shape = jax.ShapeDtypeStruct(self.avals[self.position].shape, g.dtype)

        def repeated(w: Any) -> Any:
            return jax.vmap(lambda *r: self.apply(w, r))(*records)

        (out,) = jax.linear_transpose(repeated, shape)(g)
        return out

    def total(self, records: tuple[Any, ...], g: Array) -> Array:
        """The same for a whole batch, whose examples are then repeats like others."""
        return self.gradient(records, g)

    def factors(self, records: tuple[Any, ...], g: Array) -> Factors:
        """What the gradient is the product of, for one example; only where there are sizes."""
        raise AssertionError(f"{self.name} has no factors")


def flat_repeats(x: Array) -> Array:
    """The repeats and the first axis after them as one."""
    return x.reshape(-1, *x.shape[2:])
