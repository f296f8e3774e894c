"""What kinds of noise have in common: how steps share it, and what that costs."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import optax
from jaxtyping import Array, Float

from hushgrad.errors import InputError
from hushgrad.noise.participation import Participation, Spaced
from hushgrad.noise.workload import Workload

__all__ = ["Strategy", "widest", "within"]

# The noise of so many steps less one is kept where nobody says how many.
_BANDS = 32


class Strategy(abc.ABC):
    """How the noises of a run's steps depend on each other; plain immutable data.

    Attributes:
      kind: its name in files.
      correlated: whether a step's noise depends on that of others.
      counts: whether it needs, beside a sum, counts of a table's rows (`Sparse`).
    """

    kind: ClassVar[str]
    correlated: ClassVar[bool] = True
    counts: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Strategy:
        """The one of this kind that a run takes where nobody says more.

        Args:
          steps: that are made at most.
          pattern: when somebody may take part.
          workload: what the noise is kept small for.
        """

    @abc.abstractmethod
    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """Adds the noise of one step after the other to clipped sums.

        Args:
          stddev: of one draw.
          steps: how many will be made at most; the state's size may depend on it.
        """

    def noise(
        self,
        noise_multiplier: float | Float[Array, ""],
        sensitivity: float | Float[Array, ""],
        steps: int,
    ) -> optax.GradientTransformationExtraArgs:
        """`transformation`, for the noise multiplier of the sum and what one example moves it by.

        Args:
          noise_multiplier: from `sum_noise_multiplier`.
          sensitivity: of the sum.
          steps: as in `transformation`.
        """
        return self.transformation(noise_multiplier * sensitivity, steps)

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """Of the noise on the sum, where all that a step releases has `noise_multiplier`."""
        return noise_multiplier

    @property
    def bands(self) -> int | None:
        """After how many steps a step's noise no longer helps those before; None for never.

        Who takes part so many steps apart is as well hidden each time as if it were the only one.
        """
        return None

    @abc.abstractmethod
    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """What one participant moves at most, in Euclidean norm, by steps that move by one each.

        The release of all steps is one Gaussian mechanism of this sensitivity.

        Args:
          steps: that are made.
          pattern: when somebody may take part.
        """

    @abc.abstractmethod
    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the noise in the sum of steps 1..t, for each t, in a draw's variance."""

    def error(self, steps: int, pattern: Participation) -> float:
        """Root mean square of the noise in the sums of steps 1..t, over t, at noise multiplier 1.

        In the units of what one participant moves a step by.
        """
        return self.sensitivity(steps, pattern) * math.sqrt(self.variances(steps).mean())

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


def widest(steps: int, pattern: Participation) -> int:
    """The most bands for which a participant's turns do not add up, at most 32."""
    if isinstance(pattern, Spaced):
        apart = pattern.apart if pattern.turns > 1 else steps
    else:
        apart = pattern.length if steps > pattern.length else steps
    return max(1, min(_BANDS, steps, apart))


def within(steps: int, most: int) -> int:
    """So many steps, of a matrix that has rows for `most`.

    Raises:
      InputError: if there are more.
    """
    if steps > most:
        raise InputError(
            f"steps must be at most {most:,}, for which this strategy was found, got {steps:,}"
        )
    return steps
