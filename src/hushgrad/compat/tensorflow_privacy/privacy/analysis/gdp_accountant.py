"""Gaussian differential privacy by the central limit: an APPROXIMATION, no bound.

Dong, Roth and Su 2019 (arXiv 1905.02383), Bu, Dong, Long and Su 2020 (arXiv 1911.11607).
The true epsilon may be larger; `hushgrad.accounting.epsilon` is proved, and tight.
"""

from __future__ import annotations

import math

from scipy.special import ndtr

from hushgrad._check import fraction, positive
from hushgrad.accounting.losses import gaussian_delta, gaussian_epsilon
from hushgrad.errors import InputError

__all__ = [
    "compute_eps_poisson",
    "compute_eps_uniform",
    "compute_mu_poisson",
    "compute_mu_uniform",
    "delta_eps_mu",
    "eps_from_mu",
]


def compute_mu_uniform(epoch: float, noise_multi: float, n: int, batch_size: int) -> float:
    """The mu that batches of one size, drawn at random, come near to.

    Args:
      epoch: passes over the data.
      noise_multi: noise over clip.
      n: number of examples.
      batch_size: in each batch.
    """
    noise = positive("noise_multi", noise_multi)
    spread = math.exp(noise**-2) * ndtr(1.5 / noise) + 3 * ndtr(-0.5 / noise) - 2
    return math.sqrt(2 * float(spread)) * _scale(epoch, n, batch_size)


def compute_mu_poisson(epoch: float, noise_multi: float, n: int, batch_size: int) -> float:
    """The mu that Poisson samples come near to; takes what `compute_mu_uniform` does."""
    noise = positive("noise_multi", noise_multi)
    return math.sqrt(math.expm1(noise**-2)) * _scale(epoch, n, batch_size)


def delta_eps_mu(eps: float, mu: float) -> float:
    """The delta at `eps` of one Gaussian release with shift `mu` (zero or more)."""
    if not eps >= 0:
        raise InputError(f"eps must be non-negative, got {eps!r}")
    return gaussian_delta(positive("mu", mu), float(eps))


def eps_from_mu(mu: float, delta: float) -> float:
    """The epsilon at `delta` of one Gaussian release with shift `mu`."""
    return gaussian_epsilon(positive("mu", mu), fraction("delta", delta))


def compute_eps_uniform(
    epoch: float, noise_multi: float, n: int, batch_size: int, delta: float
) -> float:
    """Near to the epsilon of batches of one size, and maybe below it."""
    return eps_from_mu(compute_mu_uniform(epoch, noise_multi, n, batch_size), delta)


def compute_eps_poisson(
    epoch: float, noise_multi: float, n: int, batch_size: int, delta: float
) -> float:
    """Near to the epsilon of Poisson samples, and maybe below it."""
    return eps_from_mu(compute_mu_poisson(epoch, noise_multi, n, batch_size), delta)


def _scale(epoch: float, n: int, batch_size: int) -> float:
    """The sampling rate times the root of the number of steps."""
    rate = positive("batch_size", batch_size) / positive("n", n)
    if rate > 1:
        raise InputError(f"batch_size must be at most n, got {batch_size} for n={n}")
    return rate * math.sqrt(positive("epoch", epoch) / rate)
