"""What a clipping rule is: all that the engine, the mechanism and the loop know of one."""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hushgrad._check import positive
from hushgrad.errors import InputError

__all__ = ["LARGEST", "SMALLEST", "Norm", "Rule", "in_range", "shrink"]

SMALLEST, LARGEST = 1e-6, 1e15

Norm = Float[Any, ""] | float | None


class Rule(abc.ABC):
    """How each example's gradient is bounded, and what sensitivity that leaves.

    A rule is immutable, hashable plain data, equal where its content is: it is a
    static argument of compiled functions. A new kind defines `sensitivity`,
    `coefficients`, `describe` and `to_dict`. Parts are for kinds that bound parts of
    the gradient apart; the methods from `init` on are for kinds whose bound moves
    during a run (`Adaptive`), and do nothing in all others. So whoever uses a rule
    calls the same methods whatever its kind.

    Formal guarantee: with every example's gradient by part p multiplied by
    `coefficients(...)[:, p]`, adding or removing one example changes the sum by at
    most `sensitivity_at(norm)` in Euclidean norm over all parts together.

    Attributes:
      group: how many neighbours in a batch have one gradient, their mean; nearly always one.
    """

    group: int = 1

    @property
    @abc.abstractmethod
    def sensitivity(self) -> float:
        """Largest change of the sum when one example is added or removed.

        Where the bound moves, the one at the start.
        """

    @abc.abstractmethod
    def coefficients(
        self,
        squared_norms: Float[Array, "batch parts"],
        slack: Float[Array, "batch parts"],
        norm: Norm = None,
    ) -> Float[Array, "batch parts"]:
        """What each example's gradient by each part is multiplied with.

        An example counts as clipped where one of these is below 1.

        Args:
          squared_norms: squared gradient norms of the parts as computed.
          slack: bounds on their rounding errors and those of the scaled gradients,
            added before the comparison.
          norm: the bound where it moves, from `current`; None in all other kinds.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """The rule after "gradients", as in "gradients clipped to norm 1"."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data for JSON; equal dictionaries mean equal rules."""

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Rule:
        """The rule of what `to_dict` gave, without its kind."""
        return cls(**plain)

    def parts(self, params: PyTree) -> tuple[int, ...]:
        """For each leaf of `params`, in `jax.tree.leaves` order, the number of its part.

        The joint norm of a part's leaves is what is bounded. Numbers run from 0
        without a gap; leaves without a gradient (integers) have one too.
        """
        return (0,) * len(jax.tree.leaves(params))

    def init(self) -> Float[Array, ""] | None:
        """The state before the first step: the bound where it moves, else None."""
        return None

    def current(self, norm: Norm) -> Float[Array, ""] | None:
        """The bound to use, from what a caller gave.

        Raises:
          InputError: if a bound is given and this kind's does not move, or it is
            not one that can be used.
        """
        if norm is not None:
            raise InputError(
                f"norm is the current bound of clip=Adaptive(...) and goes with no other kind, got "
                f"norm={norm!r} with clip={self!r}; leave it out, or change the clip"
            )
        return None

    def sensitivity_at(self, norm: Norm) -> Float[Array, ""] | float:
        """`sensitivity` where the bound is `norm`."""
        self.current(norm)
        return self.sensitivity

    def update(
        self,
        norm: Float[Array, ""] | None,
        centred_bits: Float[Array, ""],
        normal: Float[Array, ""],
        batch_size: int,
    ) -> Float[Array, ""] | None:
        """The bound of the next step.

        Args:
          norm: the bound of this step.
          centred_bits: the sum over the batch of 1/2 for each example that was not
            clipped and -1/2 for each that was. Not private.
          normal: a standard normal number, used for nothing else.
          batch_size: expected batch size, a public fact.
        """
        del centred_bits, normal, batch_size
        return norm

    def for_batch(self, batch_size: int) -> Rule:
        """The rule with what follows from the expected batch size filled in."""
        del batch_size
        return self

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """Of the noise on the sum, where all that a step releases has `noise_multiplier`.

        Raises:
          InputError: if what else the rule releases leaves nothing for the sum.
        """
        return noise_multiplier


def in_range(name: str, value: Any) -> float:
    """`value` as a float, or an error if float32 cannot hold gradients of that norm."""
    value = positive(name, value)
    if not SMALLEST <= value <= LARGEST:
        raise InputError(
            f"{name} must lie between {SMALLEST:g} and {LARGEST:g}, where float32 can hold "
            f"the bound, got {value!r}; scale the loss instead"
        )
    return value


def shrink(
    squared_norms: Float[Array, "batch parts"],
    slack: Float[Array, "batch parts"],
    bounds: Any,
) -> Float[Array, "batch parts"]:
    """Coefficients that bring norms down to `bounds` and leave shorter ones alone."""
    norms = jnp.sqrt(squared_norms + slack)
    # A zero gradient keeps coefficient 1; the guarded division keeps NaN out.
    return jnp.where(norms > bounds, bounds / jnp.where(norms > 0, norms, 1), 1)
