"""Every gradient brought to nearly one length: no clip to choose."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from hushgrad.clip.rule import Norm, Rule, in_range

__all__ = ["Automatic"]


@dataclasses.dataclass(frozen=True)
class Automatic(Rule):
    """Divides each example's gradient by its norm plus `gamma` (Bu et al. 2022).

    ```python
    hg.clipped_grad(loss, clip=hg.clip.Automatic())
    ```

    AUTO-S of arXiv 2206.07136. Contributions have norms below 1, so the learning
    rate alone sets the size of a step: what worked with `Flat(c)` for a small `c`
    works here with the learning rate times `c`. `gamma` keeps short gradients
    shorter than long ones, without which the method need not converge.

    Formal guarantee: adding or removing one example changes the sum by at most
    `sensitivity`, which is 1, in Euclidean norm.

    Raises:
      InputError: if `gamma` is not a positive number between 1e-6 and 1e15: squares
        of gradients that matter beside a smaller one vanish in float32.
    """

    gamma: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", in_range("gamma", self.gamma))

    @property
    def sensitivity(self) -> float:
        """Largest change of the sum when one example is added or removed."""
        return 1.0

    def coefficients(
        self,
        squared_norms: Float[Array, "batch parts"],
        slack: Float[Array, "batch parts"],
        norm: Norm = None,
    ) -> Float[Array, "batch parts"]:
        """What each example's gradient is multiplied with."""
        self.current(norm)
        # The slack is in the norm, so that a long one rounded down cannot end above 1.
        return 1 / (jnp.sqrt(squared_norms + slack) + self.gamma)

    def describe(self) -> str:
        """The rule after "gradients"."""
        return f"divided by their norm plus {self.gamma:g} (so that none is longer than 1)"

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data."""
        return {"kind": "automatic", "gamma": self.gamma}
