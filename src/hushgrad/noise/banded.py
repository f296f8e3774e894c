"""Banded matrices found by optimisation: BandMF."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.noise.columns import Columns, of_columns
from hushgrad.noise.lagged import lagged
from hushgrad.noise.optimise import cached, minimised
from hushgrad.noise.packed import packed, unpacked
from hushgrad.noise.participation import Participation
from hushgrad.noise.strategy import Strategy, widest, within
from hushgrad.noise.toeplitz import Toeplitz
from hushgrad.noise.workload import Workload

__all__ = ["Banded", "banded"]

# Columns between two given ones lie on the line between them. So many to each doubling of the
# distance from either end lose less than 0.1 % of what free columns would win.
_KNOTS_PER_OCTAVE = 4


def banded(
    stddev: float | Float[Array, ""],
    *,
    steps: int,
    bands: int,
    workload: Workload | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise that takes shares off the last `bands - 1` steps', each step its own shares.

    ```python
    noise = hg.noise.banded(stddev=1.1 * clip, steps=1000, bands=16)
    state = noise.init(params)
    private_sum, state = noise.update(clipped.grads, state, key=key)    # step after step
    ```

    The noise of all steps is C^-1 z with z independent normals and C a lower-triangular matrix of
    `bands` bands and columns of unit norm, of least squared error for the workload ("BandMF",
    Choquette-Choo et al. 2023, arXiv 2306.08153). The state holds `bands - 1` times the
    parameters.

    Formal guarantee: if whoever takes part changes the sum of each step they are in by at most `s`
    in Euclidean norm, all steps together are one Gaussian mechanism with noise multiplier
    `stddev / (s * Banded.of(...).sensitivity(steps, pattern))`, also if each sum depends on what
    was released before, for neighbours who leave empty places ("replace-special"). That
    sensitivity is the root of how often somebody takes part where that is `bands` steps apart or
    more. Where the batches are drawn by cyclic Poisson sampling with a cycle of at least `bands`
    steps, it is amplified by sampling (theorem 4 there): `hushgrad.dp_banded`.

    Args:
      stddev: of z, in the units of the sums.
      steps: how many are made; noise of a step after these is not a number.
      bands: 1 for independent noise; more cost memory and, beyond the least number of steps from
        one in which somebody takes part to the next, privacy.
      workload: what the noise is kept small for; prefix sums by default.

    Raises:
      InputError: as `gaussian`; or if a number is not positive.
    """
    return Banded.of(steps, bands, workload).transformation(stddev, steps)


@dataclasses.dataclass(frozen=True)
class Banded(Strategy):
    """A banded lower-triangular matrix with columns of unit norm: `banded`.

    Attributes:
      steps: how many rows and columns it has.
      width: how many bands.
      knots: some of its columns, packed, from which the others follow.

    Raises:
      InputError: if a number is not positive or `knots` not what a strategy wrote.
    """

    steps: int
    width: int
    knots: str

    kind = "banded"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps))
        object.__setattr__(self, "width", whole("width", self.width))
        if self.width > self.steps:
            raise InputError(f"width must be at most steps, got {self.width} for {self.steps}")
        self._raw()

    @classmethod
    def of(cls, steps: int, bands: int, workload: Workload | None = None) -> Banded:
        """The matrix of least error for who takes part once, or `bands` steps apart."""
        steps = whole("steps", steps)
        bands, workload = min(whole("bands", bands), steps), workload or Workload()
        facts = {"steps": steps, "bands": bands, **dataclasses.asdict(workload)}
        found = cached("banded", facts, lambda: _found(steps, bands, workload))
        return cls(steps, bands, packed(found.astype(np.float32)))

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Banded:
        """Of as many bands as cost nothing, at most 32."""
        return cls.of(steps, widest(steps, pattern), workload)

    @property
    def bands(self) -> int | None:
        """After how many steps a step's noise no longer helps those before."""
        return self.width

    @property
    def columns(self) -> Columns:
        """Row i: column i, from the diagonal down; nothing below the last row."""
        return _columns(self._raw(), self.steps)

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `banded`, with this matrix.

        Raises:
          InputError: if more steps are asked for than it has.
        """
        within(steps, self.steps)  # or an error
        places = np.asarray(_places(self.steps), np.int32)
        raw = np.asarray(self._raw(), np.float32)
        scale = np.asarray(1 / _norms(self._raw(), self.steps), np.float32)

        def rows(step: Array) -> Array:
            lags = jnp.arange(self.width)
            column = jnp.maximum(step - lags, 0)
            above = jnp.clip(jnp.searchsorted(places, column, side="right"), 1, len(places) - 1)
            below = jnp.maximum(above - 1, 0)
            first, last = jnp.asarray(places)[below], jnp.asarray(places)[above]
            share = (column - first) / jnp.maximum(last - first, 1).astype(jnp.float32)
            known = jnp.asarray(raw)
            row = known[below, lags] * (1 - share) + known[above, lags] * share
            row = jnp.where(lags <= step, row * jnp.asarray(scale)[column], 0.0)
            return jnp.where(step < self.steps, row, jnp.nan)

        return lagged(stddev, rows, self.width)

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """The norm of the worst columns' sum, in the first `steps` rows."""
        return of_columns(self.columns[: within(steps, self.steps)], pattern)

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the noise in the sum of steps 1..t, for each t, in a draw's variance."""
        with jax.enable_x64(True):
            columns = self.columns[: within(steps, self.steps)]
            return np.asarray(_squares(columns, np.ones(steps), 0.0))

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        return (
            f"Gaussian noise with multiplier {noise_multiplier:.6g} correlated by a matrix of "
            f"{self.width:,} bands"
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Banded:
        """The strategy that `to_dict` wrote."""
        return cls(plain["steps"], plain["width"], plain["knots"])

    def _raw(self) -> Float[np.ndarray, "knots bands"]:
        count = len(_places(self.steps))
        raw = unpacked("knots", self.knots, np.float32, count * self.width)
        raw = raw.reshape(count, self.width)
        if not np.all(raw[:, 0] == 1):
            raise InputError("knots must begin with 1 each")
        return raw


@functools.cache
def _places(steps: int) -> tuple[int, ...]:
    """Which columns are given: all near both ends, fewer and fewer away from them."""
    far, near = 1.0, {0}
    while far <= steps / 2:
        near.add(round(far) - 1)
        far = max(far * 2 ** (1 / _KNOTS_PER_OCTAVE), far + 1)
    return tuple(sorted(near | {steps - 1 - place for place in near}))


def _between(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each column the given ones below and above it, and how near it is to the latter."""
    places, columns = np.array(_places(steps)), np.arange(steps)
    above = np.clip(np.searchsorted(places, columns, side="right"), 1, len(places) - 1)
    if len(places) == 1:
        above = np.zeros(1, int)
    below = np.maximum(above - 1, 0)
    return below, above, (columns - places[below]) / np.maximum(places[above] - places[below], 1)


def _drawn(raw: Any, steps: int) -> Any:
    """All columns before they are scaled; of numpy's kind or of JAX's, as what comes in."""
    below, above, share = _between(steps)
    inside = np.arange(steps)[:, None] + np.arange(raw.shape[1]) < steps
    return (raw[below] * (1 - share[:, None]) + raw[above] * share[:, None]) * inside


def _norms(raw: Any, steps: int) -> Any:
    return (_drawn(raw, steps) ** 2).sum(axis=1) ** 0.5


def _columns(raw: Any, steps: int) -> Any:
    return _drawn(raw, steps) / _norms(raw, steps)[:, None]


def _found(steps: int, bands: int, workload: Workload) -> np.ndarray:
    count = len(_places(steps))
    rates = workload.rates(steps)

    @jax.jit
    @jax.value_and_grad
    def value(rest: Array) -> Array:
        raw = jnp.concatenate([jnp.ones((count, 1)), rest.reshape(count, bands - 1)], 1)
        return jnp.log(_squares(_columns(raw, steps), rates, workload.momentum).sum())

    start = np.array(Toeplitz.of(steps, bands, workload).coefficients)
    rest = np.tile(start[1:] / start[0], (count, 1))
    with jax.enable_x64(True):
        if bands > 1:
            both = lambda x: (float((made := value(x))[0]), np.asarray(made[1]))  # noqa: E731
            rest = minimised(both, rest.ravel()).reshape(count, bands - 1)
    return np.concatenate([np.ones((count, 1)), rest], 1)


@functools.partial(jax.jit, static_argnums=2)
def _squares(columns: Array, rates: Array, momentum: float) -> Float[Array, " steps"]:
    """The variance of each step's noise in the parameters, by the noises' covariance.

    What stands in the covariance: the parameters, the momentum, the last `bands - 1` noises.
    """
    steps, bands = columns.shape
    column = np.arange(steps)[:, None] - np.arange(bands)
    rows = jnp.where(column >= 0, columns[np.maximum(column, 0), np.arange(bands)], 0.0)
    # The noise of a step in terms of those before it, and of its own draw.
    weights = jnp.pad(-rows[:, 1:] / rows[:, :1], ((0, 0), (2, 0)))

    def following(cov: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        weight, own, rate = step
        # What the new noise, momentum and parameters have in common with all that stands there.
        noise = cov @ weight
        held = momentum * cov[1] + noise
        moved = cov[0] + rate * held
        # And with each other.
        noises = weight @ noise + own
        both = momentum * noise[1] + noises
        helds = momentum * (held[1] + noise[1]) + noises
        before = momentum * cov[0, 1] + noise[0]
        square = cov[0, 0] + 2 * rate * before + rate**2 * helds
        over, across = before + rate * helds, noise[0] + rate * both
        corner = jnp.array([[square, over, across], [over, helds, both], [across, both, noises]])
        beside = jnp.stack([moved, held, noise])[:, 2:-1]
        later = jnp.concatenate(
            [
                jnp.concatenate([corner, beside], 1),
                jnp.concatenate([beside.T, cov[2:-1, 2:-1]], 1),
            ]
        )
        return later[: bands + 1, : bands + 1], square

    # In parts, so that a gradient keeps one covariance for each and makes the others again.
    part = int(np.sqrt(steps)) + 1
    missing = -steps % part

    def parted(array: Array, fill: float) -> Array:
        array = jnp.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)), constant_values=fill)
        return array.reshape(-1, part, *array.shape[1:])

    each = parted(weights, 0.0), parted(1 / rows[:, 0] ** 2, 1.0), parted(rates, 0.0)
    again = jax.checkpoint(lambda cov, steps: lax.scan(following, cov, steps))
    _, made = lax.scan(again, jnp.zeros((bands + 1, bands + 1), columns.dtype), each)
    return made.reshape(-1)[:steps]
