"""One bound on the norm of an example's whole gradient."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

from jaxtyping import Array, Float

from hushgrad.clip.rule import Norm, Rule, in_range, shrink
from hushgrad.errors import InputError

__all__ = ["Flat", "as_rule"]


@dataclasses.dataclass(frozen=True)
class Flat(Rule):
    """Scales each example's gradient to a norm of at most `norm` (Abadi et al. 2016).

    ```python
    hg.clipped_grad(loss, clip=hg.clip.Flat(1.0))  # the same as clip=1.0
    ```

    Formal guarantee: adding or removing one example changes the sum of clipped
    gradients by at most `sensitivity`, which is `norm`, in Euclidean norm.

    Raises:
      InputError: if `norm` is not a positive number between 1e-6 and 1e15: beyond
        those, squares of coordinates that matter vanish or overflow in float32.
    """

    norm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", in_range("clip", self.norm))

    @property
    def sensitivity(self) -> float:
        """Largest change of the sum when one example is added or removed."""
        return self.norm

    def coefficients(
        self,
        squared_norms: Float[Array, "batch parts"],
        slack: Float[Array, "batch parts"],
        norm: Norm = None,
    ) -> Float[Array, "batch parts"]:
        """What each example's gradient is multiplied with."""
        self.current(norm)
        return shrink(squared_norms, slack, self.norm)

    def describe(self) -> str:
        """The rule after "gradients"."""
        return f"clipped to norm {self.norm:g}"

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data."""
        return {"kind": "flat", "norm": self.norm}


def as_rule(clip: float | Rule) -> Rule:
    """A number means `Flat`.

    Raises:
      InputError: if `clip` is neither a rule nor a positive number.
    """
    if isinstance(clip, Rule):
        return clip
    if not isinstance(clip, numbers.Real):
        raise InputError(
            f"clip must be a positive finite number, got {clip!r}; or a rule from hushgrad.clip, "
            "such as Flat(1.0)"
        )
    return Flat(clip)
