"""Banded Toeplitz matrices: every step takes the same shares off the last steps' noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.noise.columns import of_series
from hushgrad.noise.lagged import lagged
from hushgrad.noise.optimise import cached, minimised
from hushgrad.noise.participation import Participation
from hushgrad.noise.series import inverse, root_coefficients, squared_error
from hushgrad.noise.strategy import Strategy, widest
from hushgrad.noise.workload import Workload

__all__ = ["Toeplitz", "toeplitz"]


def toeplitz(
    stddev: float | Float[Array, ""],
    *,
    steps: int,
    bands: int,
    workload: Workload | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise that takes shares off the last `bands - 1` steps', the same in every step.

    ```python
    noise = hg.noise.toeplitz(stddev=1.1 * clip, steps=1000, bands=16)
    state = noise.init(params)
    private_sum, state = noise.update(clipped.grads, state, key=key)    # step after step
    ```

    The noise of all steps is C^-1 z with z independent normals and C a lower-triangular Toeplitz
    matrix, whose coefficients are found for the workload (McKenna 2024, arXiv 2405.15913). The
    state holds `bands - 1` times the parameters.

    Formal guarantee: if whoever takes part changes the sum of each step they are in by at most `s`
    in Euclidean norm, all steps together are one Gaussian mechanism with noise multiplier
    `stddev / (s * Toeplitz.of(...).sensitivity(steps, pattern))`, also if each sum depends on what
    was released before, for neighbours who leave empty places ("replace-special").

    Args:
      stddev: of z, in the units of the sums.
      steps: how many are made.
      bands: 1 for independent noise; at most the least number of steps from one in which somebody
        takes part to the next, or it costs more than it gives.
      workload: what the noise is kept small for; prefix sums by default.

    Raises:
      InputError: as `gaussian`; or if a number is not positive.
    """
    return Toeplitz.of(steps, bands, workload).transformation(stddev, steps)


@dataclasses.dataclass(frozen=True)
class Toeplitz(Strategy):
    """A banded lower-triangular Toeplitz matrix: `toeplitz`.

    Attributes:
      coefficients: of its first column, from the diagonal down, in float32.

    Raises:
      InputError: if one is not finite or the first not positive.
    """

    coefficients: tuple[float, ...]

    kind = "toeplitz"

    def __post_init__(self) -> None:
        array = np.asarray(self.coefficients, np.float32)
        if array.ndim != 1 or not len(array) or not np.all(np.isfinite(array)) or array[0] <= 0:
            raise InputError(
                "coefficients must be finite numbers, the first of them positive, got "
                f"{self.coefficients!r}"
            )
        object.__setattr__(self, "coefficients", tuple(float(c) for c in array))

    @classmethod
    def of(cls, steps: int, bands: int, workload: Workload | None = None) -> Toeplitz:
        """The matrix of least error for who takes part once, or `bands` steps apart.

        Its first column has unit norm, so that whoever takes part once moves it by 1.
        """
        steps = whole("steps", steps)
        bands, workload = min(whole("bands", bands), steps), workload or Workload()
        facts = {"steps": steps, "bands": bands, **dataclasses.asdict(workload)}
        return cls(tuple(cached("toeplitz", facts, lambda: _found(steps, bands, workload))))

    @classmethod
    def root(cls, steps: int, bands: int | None = None) -> Toeplitz:
        """The first coefficients of the square root of prefix sums, in closed form."""
        return cls(tuple(root_coefficients(whole("bands", steps if bands is None else bands))))

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Toeplitz:
        """Of as many bands as cost nothing, at most 32."""
        return cls.of(steps, widest(steps, pattern), workload)

    @property
    def bands(self) -> int | None:
        """How many coefficients there are."""
        return len(self.coefficients)

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `toeplitz`, with these coefficients, for any number of steps."""
        row = np.asarray(self.coefficients, np.float32)
        return lagged(stddev, lambda _: jnp.asarray(row), len(row))

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """The norm of the worst columns' sum."""
        return of_series(np.array(self.coefficients), steps, pattern)

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the noise in the sum of steps 1..t, for each t, in a draw's variance."""
        return np.cumsum(np.cumsum(inverse(np.array(self.coefficients), steps)) ** 2)

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        return (
            f"Gaussian noise with multiplier {noise_multiplier:.6g} correlated by a Toeplitz "
            f"matrix of {len(self.coefficients):,} bands"
        )

    def to_dict(self) -> dict[str, Any]:
        """The strategy as plain data."""
        return {"kind": self.kind, "coefficients": list(self.coefficients)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Toeplitz:
        """The strategy that `to_dict` wrote."""
        return cls(tuple(plain["coefficients"]))


def _found(steps: int, bands: int, workload: Workload) -> np.ndarray:
    def value(rest: np.ndarray) -> tuple[float, np.ndarray]:
        c = np.concatenate([[1.0], rest])
        error, slopes = squared_error(c, workload, steps)
        square = float(c @ c)
        return float(np.log(error) + np.log(square)), slopes[1:] / error + 2 * rest / square

    start = root_coefficients(bands)[1:]
    if workload.momentum:
        # Of (1 - x)^-1/2 (1 - momentum x)^-1/2, the square root with momentum.
        powers = workload.momentum ** np.arange(bands)
        start = np.convolve(root_coefficients(bands), root_coefficients(bands) * powers)[1:bands]
    c = np.concatenate([[1.0], minimised(value, start)])
    return c / np.linalg.norm(c)
