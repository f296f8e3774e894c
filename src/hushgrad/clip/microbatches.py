"""One bound for the mean gradient of several examples."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from hushgrad._check import whole
from hushgrad.clip.flat import Flat
from hushgrad.clip.rule import Norm, Rule

__all__ = ["Microbatches"]


@dataclasses.dataclass(frozen=True)
class Microbatches(Rule):
    """Scales the mean gradient of each `group` neighbours in a batch to a norm of at most `norm`.

    What TensorFlow Privacy calls microbatches (McMahan et al. 2018, arXiv 1812.06210). It was a
    way to save time; here it saves none, and costs half the noise: `Flat` is the better choice.

    Formal guarantee: an example that leaves an empty place in its batch changes one mean from
    anything to anything, so the sum changes by at most twice `norm`, which is the
    `sensitivity`. Where somebody's absence moves others between microbatches, as under Poisson
    sampling, nothing holds, and `hg.dp_sgd` refuses it.

    Raises:
      InputError: if `norm` is out of range, or `group` no whole number above one.
    """

    norm: float
    group: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", Flat(self.norm).norm)
        object.__setattr__(self, "group", whole("group", self.group, at_least=2))

    @property
    def sensitivity(self) -> float:
        """Largest change of the sum when one example leaves an empty place."""
        return 2 * self.norm

    def coefficients(
        self,
        squared_norms: Float[Array, "batch parts"],
        slack: Float[Array, "batch parts"],
        norm: Norm = None,
    ) -> Float[Array, "batch parts"]:
        """What each microbatch's gradient is multiplied with."""
        return Flat(self.norm).coefficients(squared_norms, slack, norm)

    def describe(self) -> str:
        """The rule after "gradients"."""
        return f"averaged over microbatches of {self.group:,} and clipped to norm {self.norm:g}"

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data."""
        return {"kind": "microbatches", "norm": self.norm, "group": self.group}
