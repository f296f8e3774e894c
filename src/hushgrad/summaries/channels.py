"""What one release about the channels of all records has, whatever is measured of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import dp_accounting
import numpy as np

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.errors import InputError
from hushgrad.mechanism import Guarantee

__all__ = ["ChannelRelease", "numbers_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelRelease(Guarantee):
    """One Gaussian release of something that every record adds to.

    Attributes:
      examples: number of records, a public fact and the divisor.
      channels: of which something is released.
      noise_multiplier: standard deviation of the noise over the sensitivity.
      delta: at which epsilon is stated unless another is asked for.
      steps: one, or zero of one that was stopped before.
      unit: "example".
    """

    examples: int
    channels: int
    noise_multiplier: float
    delta: float
    steps: int = 1
    unit: str = "example"

    def __post_init__(self) -> None:
        whole("examples", self.examples)
        whole("channels", self.channels)
        positive("noise_multiplier", self.noise_multiplier)
        fraction("delta", self.delta)

    @property
    def event(self) -> dp_accounting.DpEvent:
        """The release in `dp_accounting`'s language."""
        if not self.steps:
            return dp_accounting.NoOpDpEvent()
        return accounting.poisson_gaussian(1.0, self.noise_multiplier, 1)

    @property
    def neighbouring_relation(self) -> str:
        """That of a record that is there or not."""
        return "add-or-remove-one"

    def after(self, steps: int | None) -> Self:
        """Itself, or nothing at all: there is one release."""
        return dataclasses.replace(self, steps=0) if steps == 0 else self

    def to_dict(self) -> dict[str, Any]:
        """As plain data, by the name of what is released."""
        return {type(self).__name__.lower(): dataclasses.asdict(self)}


def numbers_of(values: Any, mechanism: ChannelRelease) -> Any:
    """Values as an array of numbers of as many records and channels as are accounted for.

    Raises:
      InputError: if they are not.
    """
    if not hasattr(values, "shape"):
        values = np.asarray(values)
    expected = (mechanism.examples, mechanism.channels)
    if values.shape[:2] != expected or 0 in values.shape or values.dtype.kind not in "fiub":
        raise InputError(
            f"values must be numbers of shape [{expected[0]}, {expected[1]}, ...] as the mechanism "
            f"accounts for, got {values.dtype} of {list(values.shape)}"
        )
    return values
