"""Second moments of all pairs of channels, released once with noise, and their cost."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from hushgrad._check import positive
from hushgrad.errors import InputError
from hushgrad.mechanism import Guarantee
from hushgrad.summaries.channels import ChannelRelease, numbers_of
from hushgrad.summaries.release import charged, with_noise
from hushgrad.training import Budget

__all__ = ["Covariance", "covariance", "whitening"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Covariance(ChannelRelease):
    """One release of the second moments of all pairs of channels.

    ```python
    c = Covariance(examples=60_000, channels=81, noise_multiplier=10.0, delta=1e-5)
    turned = whitening(covariance(features, c, clip=60.0), ridge=1.0)
    ```

    A record adds the mean over its places of the outer product of its channels, scaled down to
    a Frobenius norm of `clip` at most. Noise is added to the entries on and above the diagonal
    (Dwork, Talwar, Thakurta and Zhang 2014, "Analyze Gauss").

    Formal guarantee: the Gaussian mechanism with `noise_multiplier`, under add-or-remove-one.

    Its attributes are those of `ChannelRelease`.
    """


def covariance(
    values: Float[np.ndarray, "examples channels *places"],
    mechanism: Covariance,
    *,
    clip: float,
    budget: Budget | None = None,
    run: str | None = None,
    then: Guarantee | None = None,
    seed: int | None = None,
) -> Float[np.ndarray, "channels channels"]:
    """Estimates the second moments of channels about zero, once, with noise.

    Of values that are centred it is their covariance; of values that have a deviation of one, too,
    their correlation. Noise on an entry of the diagonal has a deviation of `clip *
    mechanism.noise_multiplier / mechanism.examples`, on others that over the root of two.
    Eigenvalues that noise made negative are zero in what is returned.

    Formal guarantee: that of `mechanism`.

    Args:
      values: one row for each record; may be mapped from a file. What is not finite counts as 0.
      mechanism: the noise, and its cost; for as many examples and channels.
      clip: bound on the Frobenius norm of what a record adds, a public number. A record of
        standardised channels has about as many as it has channels, less where they go together.
      budget: that is charged, durably, before the noise is drawn.
      run: the release's name in the budget; a new one by default.
      then: what will be released next: the budget must hold it too, or nothing is spent.
      seed: for tests: not private against whoever knows it.

    Raises:
      InputError: if the shape is not what the mechanism accounts for, values are no numbers, or
        clip is not positive.
      BudgetError: if the budget does not hold it; nothing has been spent.
    """
    values = numbers_of(values, mechanism)
    clip = positive("clip", clip)
    sums = _sums(values, clip)
    secret = charged(mechanism, budget, run, then, seed=seed)
    noisy = with_noise([sums], mechanism.noise_multiplier, secret)[0]
    matrix = _matrix(noisy, mechanism.channels) * clip / mechanism.examples
    found, directions = np.linalg.eigh(matrix)
    return _symmetric((directions * np.maximum(found, 0)) @ directions.T)


def whitening(
    covariance: Float[np.ndarray, "channels channels"], ridge: float
) -> Float[np.ndarray, "channels channels"]:
    """The symmetric matrix that makes channels of that covariance uncorrelated: ZCA.

    Gradient descent is slow along directions in which features hardly vary; turned by this matrix,
    all directions are alike. Channels have a mean variance of one afterwards.

    Args:
      covariance: symmetric, with eigenvalues of zero or more.
      ridge: added to every eigenvalue, so that directions with less than that stay small.

    Raises:
      InputError: if the matrix is not square and finite, or ridge is not positive.
    """
    matrix, ridge = np.asarray(covariance, np.float64), positive("ridge", ridge)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.all(np.isfinite(matrix)):
        raise InputError(
            f"covariance must be a finite square matrix, got shape {list(matrix.shape)}"
        )
    found, directions = np.linalg.eigh(_symmetric(matrix))
    found = np.maximum(found, 0)
    turned = _symmetric((directions * (found + ridge) ** -0.5) @ directions.T)
    left = float(np.mean(found / (found + ridge)))
    return turned / np.sqrt(left) if left else turned


def _symmetric(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    return (matrix + matrix.T) / 2


def _sums(values: Any, clip: float) -> Float[np.ndarray, " entries"]:
    """Over all records, of clipped outer products over `clip`: the diagonal, and what is above it.

    What is above stands for what is below it too: times the root of two, so that the norm of these
    entries is the matrix's.
    """
    channels = values.shape[1]
    total, rows = np.zeros((channels, channels)), max(1, 2**24 // channels**2)
    for start in range(0, len(values), rows):
        part = np.asarray(values[start : start + rows], np.float32)
        part = part.reshape(*part.shape[:2], -1)
        # Beyond this a square is infinite in float32; it is clipped either way.
        part = np.clip(np.where(np.isfinite(part), part, 0), -1e15, 1e15)
        outer = part @ np.swapaxes(part, 1, 2) / part.shape[2]
        norms = np.sqrt(np.einsum("ncd,ncd->n", outer, outer, dtype=np.float64))
        # A little less than the bound, for what is rounded here.
        factors = np.minimum(1 / clip, (1 - 1e-6) / np.maximum(norms, 1e-300))
        total += np.einsum("n,ncd->cd", factors, outer, dtype=np.float64, optimize=True)
    above = np.triu_indices(channels, 1)
    return np.concatenate([np.diag(total), np.sqrt(2) * total[above]]).astype(np.float32)


def _matrix(entries: Float[np.ndarray, " entries"], channels: int) -> Float[np.ndarray, "c c"]:
    matrix = np.zeros((channels, channels))
    matrix[np.triu_indices(channels, 1)] = entries[channels:] / np.sqrt(2)
    return matrix + matrix.T + np.diag(entries[:channels])
