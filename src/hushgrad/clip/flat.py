"""One bound on the norm of an example's whole gradient."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from hushgrad._check import positive
from hushgrad.errors import InputError

__all__ = ["Flat"]

_SMALLEST, _LARGEST = 1e-6, 1e15


@dataclasses.dataclass(frozen=True)
class Flat:
    """Scales each example's gradient to a norm of at most `norm` (Abadi et al. 2016).

    ```python
    hg.clipped_grad(loss, clip=hg.clip.Flat(1.0))  # the same as clip=1.0
    ```

    Formal guarantee: adding or removing one example changes the sum of clipped
    gradients by at most `sensitivity` in Euclidean norm.

    Raises:
      InputError: if `norm` is not a positive number between 1e-6 and 1e15: beyond
        those, squares of coordinates that matter vanish or overflow in float32.
    """

    norm: float

    def __post_init__(self) -> None:
        norm = positive("clip", self.norm)
        if not _SMALLEST <= norm <= _LARGEST:
            raise InputError(
                f"clip must lie between {_SMALLEST:g} and {_LARGEST:g}, where float32 can hold "
                f"the bound, got {self.norm!r}; scale the loss instead"
            )
        object.__setattr__(self, "norm", norm)

    @property
    def sensitivity(self) -> float:
        """Largest change of the sum when one example is added or removed."""
        return self.norm

    def coefficients(
        self, squared_norms: Float[Array, " batch"], slack: Float[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """What each example's gradient is multiplied with.

        Args:
          squared_norms: squared gradient norms as computed.
          slack: bounds on their rounding errors and that of the scaled gradient,
            added before the comparison.
        """
        norms = jnp.sqrt(squared_norms + slack)
        # A zero gradient keeps coefficient 1; the guarded division keeps NaN out.
        return jnp.where(norms > self.norm, self.norm / jnp.where(norms > 0, norms, 1), 1)
