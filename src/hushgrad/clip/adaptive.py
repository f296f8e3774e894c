"""A bound that follows a quantile of the gradients' norms, privately."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from hushgrad._check import fraction, positive
from hushgrad.clip.rule import LARGEST, SMALLEST, Norm, Rule, in_range, shrink
from hushgrad.errors import InputError

__all__ = ["Adaptive"]

_BATCH_OVER_STDDEV = 20


@dataclasses.dataclass(frozen=True)
class Adaptive(Rule):
    """Clips to a norm that follows a quantile of the norms (Andrew et al. 2021).

    ```python
    m = hg.dp_sgd(..., clip=hg.clip.Adaptive(quantile=0.5), epsilon=3.0)
    ```

    arXiv 1905.03871. After each step, with b the noised share of gradients that
    were not longer than the norm C, the next one is C exp(-learning_rate (b - quantile)).
    It stays within [1e-6, 1e15].

    Formal guarantee: let z be the mechanism's noise multiplier. A step at norm C releases
    the sum of gradients clipped to C with noise of deviation z_sum C, and the sum of
    centred bits (1/2 for each example of the batch that was not clipped, else -1/2)
    with noise of deviation s = `count_stddev`, where

        z_sum = (z^-2 - (2 s)^-2)^(-1/2).

    Together this is one Gaussian mechanism with noise multiplier z, and is accounted
    as that. Proof: divided by z_sum C and s, the two are one vector with
    independent noise of deviation 1 on every coordinate. An example that is added or
    removed changes the first part by at most C / (z_sum C) = 1 / z_sum and the second by
    1 / (2 s), so all of it by at most the root of z_sum^-2 + (2 s)^-2 = z^-2, in
    Euclidean norm. (An uncentred bit would change the count by 1.) C is a function of
    what earlier steps released and so as public as that, and the bound on the step
    is 1 / z whatever C is; both parts are of one batch, whose sampling amplifies both.
    So the whole run is that of a mechanism with a fixed clip and z.

    Args:
      quantile: share of the examples whose gradients are left whole, in (0, 1).
      initial_norm: the norm in the first step. A guess that is too small costs
        little: with these defaults the norm grows by a tenth in each step.
      learning_rate: of the logarithm of the norm.
      count_stddev: deviation s of the noise on the count; `hg.dp_sgd` fills in
        batch_size / 20. More makes the norm wander, less leaves more noise to the sum.

    Raises:
      InputError: if an argument is out of range.
    """

    quantile: float = 0.5
    _: dataclasses.KW_ONLY
    initial_norm: float = 0.1
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantile", fraction("quantile", self.quantile))
        object.__setattr__(self, "initial_norm", in_range("initial_norm", self.initial_norm))
        object.__setattr__(self, "learning_rate", positive("learning_rate", self.learning_rate))
        if self.count_stddev is not None:
            object.__setattr__(self, "count_stddev", positive("count_stddev", self.count_stddev))

    @property
    def sensitivity(self) -> float:
        """Largest change of the first step's sum when one example is added or removed."""
        return self.initial_norm

    def coefficients(
        self,
        squared_norms: Float[Array, "batch parts"],
        slack: Float[Array, "batch parts"],
        norm: Norm = None,
    ) -> Float[Array, "batch parts"]:
        """What each example's gradient is multiplied with: zero where `norm` cannot be used."""
        norm = self.current(norm)
        scaled = shrink(squared_norms, slack, norm.astype(squared_norms.dtype))
        # Under jit a bad norm cannot be refused, and NaN would clip nothing.
        return jnp.where(_usable(norm), scaled, 0)

    def describe(self) -> str:
        """The rule after "gradients"."""
        count = "" if self.count_stddev is None else f" of deviation {self.count_stddev:g}"
        return (
            f"clipped to a norm that starts at {self.initial_norm:g} and follows the "
            f"{self.quantile:g} quantile of their norms (found from counts with noise{count}, part "
            "of what is accounted)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data."""
        return {"kind": "adaptive", **dataclasses.asdict(self)}

    def init(self) -> Float[Array, ""]:
        """The norm of the first step."""
        return jnp.asarray(self.initial_norm, jnp.float32)

    def current(self, norm: Norm) -> Float[Array, ""]:
        """The norm to use: the initial one where none is given.

        Raises:
          InputError: if `norm` is not one number between 1e-6 and 1e15. Under `jit`
            the value of an argument is not known; see `coefficients`.
        """
        if norm is None:
            return self.init()
        dtype = jnp.result_type(norm)
        if jnp.ndim(norm) or not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(f"norm must be one floating-point number, got {norm!r}")
        dtype = jnp.promote_types(dtype, jnp.float32)
        # By NumPy: what JAX computes while a caller is traced has no value yet.
        if not isinstance(norm, Tracer) and not _usable(np.asarray(norm, dtype)):
            in_range("norm", float(norm))
        return jnp.asarray(norm, dtype)

    def sensitivity_at(self, norm: Norm) -> Float[Array, ""]:
        """Largest change of a step's sum where the norm is `norm`: that norm."""
        return self.current(norm)

    def update(
        self,
        norm: Float[Array, ""],
        centred_bits: Float[Array, ""],
        normal: Float[Array, ""],
        batch_size: int,
    ) -> Float[Array, ""]:
        """The norm of the next step, from the noised count of this one."""
        noised = centred_bits + self._stddev * normal
        # Centred bits lack half of the batch; half of its expected size is public.
        share = noised / batch_size + 0.5
        grown = norm * jnp.exp(-self.learning_rate * (share - self.quantile))
        return jnp.clip(grown, SMALLEST, LARGEST).astype(norm.dtype)

    def for_batch(self, batch_size: int) -> Adaptive:
        """The rule with its `count_stddev`: where none was given, a twentieth of the batch."""
        if self.count_stddev is not None:
            return self
        return dataclasses.replace(self, count_stddev=batch_size / _BATCH_OVER_STDDEV)

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """z_sum above: of the noise on the sum of gradients, rounded up.

        Raises:
          InputError: if the count alone would cost as much as the step may.
        """
        z, twice = Fraction(noise_multiplier), 2 * Fraction(self._stddev)
        if twice <= z:
            raise InputError(
                f"count_stddev must be above half the noise multiplier, {noise_multiplier / 2:g}, "
                f"got {self._stddev:g}: the count would cost all that a step may. Give "
                "Adaptive(count_stddev=...) more, such as the noise multiplier, or take a larger "
                "batch_size"
            )
        root = noise_multiplier * math.sqrt(1 / (1 - (z / twice) ** 2))
        while Fraction(root) ** -2 > z**-2 - twice**-2:
            root = math.nextafter(root, math.inf)
        return root

    @property
    def _stddev(self) -> float:
        if self.count_stddev is None:
            raise InputError(
                "count_stddev is not known: make the mechanism with hg.dp_sgd, which takes a "
                "twentieth of the batch size, or give Adaptive(count_stddev=...)"
            )
        return self.count_stddev


def _usable(norm: Any) -> Any:
    # In the norm's own dtype: the least that `update` gives is 1e-6 rounded to float32.
    least, most = (np.asarray(end, norm.dtype) for end in (SMALLEST, LARGEST))
    return (norm >= least) & (norm <= most)
