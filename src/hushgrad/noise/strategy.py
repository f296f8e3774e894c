"""What kinds of noise have in common: how steps share it, and what that costs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import optax
from jaxtyping import Array, Float

from hushgrad.noise.participation import Participation

__all__ = ["Strategy"]


class Strategy(abc.ABC):
    """How the noises of a run's steps depend on each other; plain immutable data.

    Attributes:
      kind: its name in files.
      correlated: whether a step's noise depends on that of others.
    """

    kind: ClassVar[str]
    correlated: ClassVar[bool] = True

    @abc.abstractmethod
    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """Adds the noise of one step after the other to clipped sums.

        Args:
          stddev: of one draw.
          steps: how many will be made at most; the state's size may depend on it.
        """

    @abc.abstractmethod
    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """What one participant moves at most, in Euclidean norm, by steps that move by one each.

        The release of all steps is one Gaussian mechanism of this sensitivity.

        Args:
          steps: that are made.
          pattern: when somebody may take part.
        """

    @abc.abstractmethod
    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""

    def to_dict(self) -> dict[str, Any]:
        """The strategy as plain data."""
        assert dataclasses.is_dataclass(self)
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Strategy:
        """The strategy that `to_dict` of this class wrote."""
        return cls(**{name: value for name, value in plain.items() if name != "kind"})
