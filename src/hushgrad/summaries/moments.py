"""Mean and standard deviation of each channel, released once with noise, and their cost."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from hushgrad._check import finite
from hushgrad.errors import InputError
from hushgrad.mechanism import Guarantee
from hushgrad.summaries.channels import ChannelRelease, numbers_of
from hushgrad.summaries.release import charged, with_noise
from hushgrad.training import Budget

__all__ = ["Moments", "Scale", "moments"]

# A mean and a mean square of numbers within -1 .. 1, the square less a half, at their largest.
_LARGEST = 1.25


@dataclasses.dataclass(frozen=True)
class Scale:
    """Estimates that may be published, at the price of `Moments`.

    Attributes:
      mean: of each channel, float64[channels].
      deviation: of each channel, float64[channels], above zero.
    """

    mean: Float[np.ndarray, " channels"]
    deviation: Float[np.ndarray, " channels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments(ChannelRelease):
    """One release of the means and mean squares of all channels.

    ```python
    m = Moments(examples=60_000, channels=81, noise_multiplier=20.0, delta=1e-5)
    scale = moments(features, m, low=-7.0, high=0.0)
    ```

    Every value is brought within a public range and each record's values are averaged by channel,
    so a record moves all sums together by at most sqrt(1.25 * channels), in units of half
    the range (of its square for squares, from which a half is taken).

    Formal guarantee: the Gaussian mechanism with `noise_multiplier`, under add-or-remove-one.

    Its attributes are those of `ChannelRelease`.
    """

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise on every sum."""
        return self.noise_multiplier * math.sqrt(_LARGEST * self.channels)


def moments(
    values: Float[np.ndarray, "examples channels *places"],
    mechanism: Moments,
    *,
    low: float,
    high: float,
    budget: Budget | None = None,
    run: str | None = None,
    then: Guarantee | None = None,
    seed: int | None = None,
) -> Scale:
    """Estimates each channel's mean and standard deviation, once, with noise.

    Noise on a variance has about `mechanism.stddev / mechanism.examples` times the square of half
    the range, and no variance is told to be smaller: choose the range, or transform what is in it,
    such that values fill it.

    Formal guarantee: that of `mechanism`, for all of them together.

    Args:
      values: one row for each record; may be mapped from a file. What is not a number counts as
        the middle of the range.
      mechanism: the noise, and its cost; for as many examples and channels.
      low: the range's lower end, a public number; values below it are taken for it.
      high: its upper end.
      budget: that is charged, durably, before the noise is drawn.
      run: the release's name in the budget; a new one by default.
      then: what will be released next: the budget must hold it too, or nothing is spent.
      seed: for tests: not private against whoever knows it.

    Raises:
      InputError: if the shape is not what the mechanism accounts for, values are no numbers, or
        the range is none.
      BudgetError: if the budget does not hold it; nothing has been spent.
    """
    values = numbers_of(values, mechanism)
    low, high = finite("low", low), finite("high", high)
    if low >= high:
        raise InputError(f"low must be below high, got {low!r} and {high!r}")
    middle, half = (low + high) / 2, (high - low) / 2
    sums = _sums(values, middle, half)
    secret = charged(mechanism, budget, run, then, seed=seed)
    noisy = with_noise([sums], mechanism.stddev, secret)[0] / mechanism.examples
    mean, square = noisy[: mechanism.channels], noisy[mechanism.channels :] + 0.5
    # A variance that noise hides is taken for the noise: too large, and never next to nothing.
    least = mechanism.stddev / mechanism.examples
    deviation = np.sqrt(np.maximum(square - mean**2, least))
    return Scale(middle + half * np.clip(mean, -1, 1), half * deviation)


def _sums(values: Any, middle: float, half: float) -> Float[np.ndarray, " two_channels"]:
    """Over all records, of means by channel and of mean squares less a half."""
    total, rows = np.zeros(2 * values.shape[1]), 1024
    for start in range(0, len(values), rows):
        part = np.asarray(values[start : start + rows], np.float32)
        part = part.reshape(*part.shape[:2], -1)
        unit = np.clip(np.nan_to_num((part - middle) / half, nan=0.0), -1, 1)
        means = unit.mean(axis=-1, dtype=np.float64)
        squares = np.square(unit).mean(axis=-1, dtype=np.float64) - 0.5
        total += np.concatenate([means, squares], axis=1).sum(axis=0)
    return total.astype(np.float32)
