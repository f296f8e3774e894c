"""The events of the mechanisms, in `dp_accounting`'s language."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting

from hushgrad.errors import InputError

__all__ = ["poisson_gaussian", "poisson_gaussian_parts"]


def poisson_gaussian(rate: float, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
    """`steps` Gaussian releases, each of a fresh Poisson sample.

    Numbers are made floats here: `dp_accounting` 0.6 skips the rest of a sampled
    composition that holds an integer noise multiplier.
    """
    gaussian = dp_accounting.GaussianDpEvent(float(noise_multiplier))
    sampled = dp_accounting.PoissonSampledDpEvent(float(rate), gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, int(steps))


def poisson_gaussian_parts(event: Any) -> tuple[float, float, int]:
    """Rate, noise multiplier and steps of an event that `poisson_gaussian` makes.

    Raises:
      InputError: for any other event: `dp_accounting` answers too low for some of
        them, so none is taken on trust.
    """
    match event:
        case dp_accounting.SelfComposedDpEvent(
            event=dp_accounting.PoissonSampledDpEvent(
                sampling_probability=rate,
                event=dp_accounting.GaussianDpEvent(noise_multiplier=noise_multiplier),
            ),
            count=steps,
        ):
            return _checked(float(rate), float(noise_multiplier), int(steps))
    raise InputError(
        "event must be a mechanism or a self-composed Poisson-sampled Gaussian "
        f"(hushgrad.accounting.poisson_gaussian makes one), got {event!r}"
    )


def _checked(rate: float, noise_multiplier: float, steps: int) -> tuple[float, float, int]:
    """Numbers out of range would be answered with NaN, which compares as nothing spent."""
    if not 0 < rate <= 1:
        raise InputError(f"sampling rate must be in (0, 1], got {rate!r}")
    if not 0 < noise_multiplier < math.inf:
        raise InputError(f"noise_multiplier must be positive and finite, got {noise_multiplier!r}")
    if steps < 0:
        raise InputError(f"steps must be zero or more, got {steps!r}")
    return rate, noise_multiplier, steps
