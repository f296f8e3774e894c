"""Buffered linear Toeplitz matrices: all earlier noise counts, in constant memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy import optimize

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.noise.columns import of_series
from hushgrad.noise.lagged import combined, streamed
from hushgrad.noise.optimise import cached, minimised
from hushgrad.noise.participation import OncePerPass, Participation, Periodic, Spaced
from hushgrad.noise.series import inverse, root_coefficients, squared_error, turns_norm
from hushgrad.noise.strategy import Strategy
from hushgrad.noise.workload import Workload

__all__ = ["BLT", "blt"]

_ONCE = Spaced(1, 1)


def blt(
    stddev: float | Float[Array, ""],
    *,
    steps: int,
    buffers: int = 4,
    pattern: Participation = _ONCE,
    workload: Workload | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise that takes shares off all earlier steps', which fade by a few fixed rates.

    ```python
    noise = hg.noise.blt(stddev=1.1 * clip, steps=2000, pattern=hg.noise.Spaced(6, 313))
    state = noise.init(params)
    private_sum, state = noise.update(clipped.grads, state, key=key)    # step after step
    ```

    The noise of all steps is C^-1 z with z independent normals and C a lower-triangular Toeplitz
    matrix whose coefficients are a sum of `buffers` geometric series (McMahan, Xiao and Zhang
    2024, arXiv 2408.08868; Dvijotham et al. 2024, arXiv 2404.16706). The state holds `buffers`
    times the parameters, whatever the number of steps.

    Formal guarantee: as `toeplitz`, with the sensitivity of `BLT.of(...)`.

    Args:
      stddev: of z, in the units of the sums.
      steps: how many are made.
      buffers: how many geometric series; 2 to 5 are within a few percent of any number.
      pattern: when somebody may take part; once by default.
      workload: what the noise is kept small for; prefix sums by default.

    Raises:
      InputError: as `gaussian`; or if a number is not positive.
    """
    return BLT.of(steps, buffers, pattern, workload).transformation(stddev, steps)


@dataclasses.dataclass(frozen=True)
class BLT(Strategy):
    """A buffered linear Toeplitz matrix: `blt`.

    Coefficient 0 of its first column is 1, coefficient i the sum of scale * decay^(i - 1).

    Attributes:
      decays: of each buffer, in (0, 1), in float32.
      scales: of each buffer, positive and together at most 1, in float32.

    Raises:
      InputError: if there are not as many of both, or one is out of range.
    """

    decays: tuple[float, ...]
    scales: tuple[float, ...]

    kind = "blt"

    def __post_init__(self) -> None:
        decays, scales = (np.asarray(x, np.float32) for x in (self.decays, self.scales))
        if decays.ndim != 1 or decays.shape != scales.shape or not len(decays):
            raise InputError(
                "decays and scales must be as many as each other, got "
                f"{len(self.decays)} and {len(self.scales)}"
            )
        if not np.all((decays > 0) & (decays < 1)):
            raise InputError(f"decays must be between 0 and 1, got {self.decays!r}")
        if not np.all(scales > 0) or scales.sum() > 1:
            raise InputError(f"scales must be positive and together at most 1, got {self.scales!r}")
        object.__setattr__(self, "decays", tuple(float(x) for x in decays))
        object.__setattr__(self, "scales", tuple(float(x) for x in scales))

    @classmethod
    def of(
        cls,
        steps: int,
        buffers: int = 4,
        pattern: Participation = _ONCE,
        workload: Workload | None = None,
    ) -> BLT:
        """The matrix of least error for a way to take part."""
        steps, buffers = whole("steps", steps), whole("buffers", buffers)
        workload, turns, apart = workload or Workload(), *_turns(pattern, steps)
        facts = {
            "steps": steps,
            "buffers": buffers,
            "turns": turns,
            "apart": apart,
            **dataclasses.asdict(workload),
        }
        found = cached("blt", facts, lambda: _found(steps, buffers, (turns, apart), workload))
        return cls(tuple(found[0]), tuple(found[1]))

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> BLT:
        """Of four buffers."""
        return cls.of(steps, 4, pattern, workload)

    def coefficients(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the matrix's first column."""
        return _series(np.array(self.decays), np.array(self.scales), steps)

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `blt`, with these buffers, for any number of steps."""
        decays, scales = (np.asarray(x, np.float32) for x in (self.decays, self.scales))

        def following(step: Array, normals: Array, kept: Array) -> tuple[Array, Array]:
            del step
            fading = jnp.asarray(decays, kept.dtype).reshape(-1, *[1] * normals.ndim)
            made = normals - combined(jnp.asarray(scales, kept.dtype), kept)
            return made, fading * kept + made

        return streamed(stddev, len(decays), following)

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """The norm of the worst columns' sum."""
        return of_series(self.coefficients(steps), steps, pattern)

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the noise in the sum of steps 1..t, for each t, in a draw's variance."""
        return np.cumsum(np.cumsum(inverse(self.coefficients(steps), steps)) ** 2)

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        return (
            f"Gaussian noise with multiplier {noise_multiplier:.6g} correlated by a buffered "
            f"linear Toeplitz matrix of {len(self.decays)} buffers"
        )

    def to_dict(self) -> dict[str, Any]:
        """The strategy as plain data."""
        return {"kind": self.kind, "decays": list(self.decays), "scales": list(self.scales)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> BLT:
        """The strategy that `to_dict` wrote."""
        return cls(tuple(plain["decays"]), tuple(plain["scales"]))


def _turns(pattern: Participation, steps: int) -> tuple[int, int]:
    """How often and how far apart, as the search sees it; what it costs is computed exactly."""
    if isinstance(pattern, Spaced):
        return min(pattern.turns, -(-steps // pattern.apart)), pattern.apart
    assert isinstance(pattern, OncePerPass | Periodic)
    return -(-steps // pattern.length), pattern.length


def _series(decays: np.ndarray, scales: np.ndarray, steps: int) -> np.ndarray:
    powers = decays ** np.arange(max(steps - 1, 0))[:, None]
    return np.concatenate([[1.0], powers @ scales])[:steps]


def _found(steps: int, buffers: int, taking: tuple[int, int], workload: Workload) -> np.ndarray:
    lags = np.arange(max(steps - 1, 0), dtype=float)[:, None]

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        fading, scales = np.exp(x[:buffers]), np.exp(x[buffers:])
        decays = np.exp(-fading)
        powers = decays**lags
        c = np.concatenate([[1.0], powers @ scales])
        error, slopes = squared_error(c, workload, steps)
        square, steepness = turns_norm(c, steps, *taking)
        by_c = (slopes / error + steepness / square)[1:]
        by_decay = -scales * fading * (by_c @ (lags * powers))
        by_scale = scales * (by_c @ powers)
        room = scales.sum() - 0.99
        steep = 1e3 * max(room, 0.0)
        total = np.log(error) + np.log(square) + steep * max(room, 0.0) / 2
        return float(total), np.concatenate([by_decay, by_scale + steep * scales])

    best = None
    for widest in (1.0, 0.3):
        fading = np.geomspace(0.5 / max(steps, 4), widest, buffers) if buffers > 1 else [widest]
        fitted, _ = optimize.nnls(np.exp(-np.asarray(fading)) ** lags, root_coefficients(steps)[1:])
        start = np.log(np.concatenate([fading, np.maximum(fitted, 1e-4)]))
        bounds = [(-20.0, 3.0)] * buffers + [(-20.0, 0.0)] * buffers
        found = minimised(value, start, bounds)
        if best is None or value(found)[0] < value(best)[0]:
            best = found
    assert best is not None
    # The nearest float32 below 1 is 6e-8 away.
    decays = np.clip(np.exp(-np.exp(best[:buffers])), 1e-6, 1 - 1e-6)
    scales = np.exp(best[buffers:])
    return np.stack([decays, scales * min(1.0, 0.999 / scales.sum())])
