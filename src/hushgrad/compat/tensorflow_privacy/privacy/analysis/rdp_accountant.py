"""Renyi accounting by hand, as scripts for older TensorFlow Privacy do it.

New code composes events: `hushgrad.accounting.epsilon(event, delta, "rdp")`.
"""

from __future__ import annotations

from typing import Any

import dp_accounting
import numpy as np
from dp_accounting.rdp import rdp_privacy_accountant

from hushgrad.accounting import rdp as renyi
from hushgrad.errors import InputError

__all__ = ["compute_rdp", "get_privacy_spent"]


def compute_rdp(q: float, noise_multiplier: float, steps: float, orders: Any) -> Any:
    """Renyi divergences of a Gaussian release of a Poisson sample, repeated.

    Args:
      q: sampling rate.
      noise_multiplier: noise over clip.
      steps: number of releases.
      orders: Renyi orders, one or several.

    Returns:
      The divergence at each order: an array, or a number for one order.

    Raises:
      InputError: if an order is 1 or less, or a number is out of range.
    """
    if not 0 <= q <= 1:
        raise InputError(f"q must be between 0 and 1, got {q!r}")
    if not noise_multiplier >= 0:
        raise InputError(f"noise_multiplier must be non-negative, got {noise_multiplier!r}")
    if not steps >= 0:
        raise InputError(f"steps must be non-negative, got {steps!r}")
    asked = [float(order) for order in np.atleast_1d(orders)]
    if not min(asked) > 1:
        raise InputError(f"orders must be above 1, got {orders!r}")
    gaussian = dp_accounting.GaussianDpEvent(float(noise_multiplier))
    event = dp_accounting.PoissonSampledDpEvent(float(q), gaussian)
    once = np.array(renyi.divergences([(event, 1)], "add-or-remove-one", asked))
    found = once * steps if steps else np.zeros(len(asked))
    return float(found[0]) if np.isscalar(orders) else found


def get_privacy_spent(
    orders: Any, rdp: Any, target_eps: float | None = None, target_delta: float | None = None
) -> tuple[float, float, float]:
    """Epsilon at a delta, or delta at an epsilon, from Renyi divergences.

    Args:
      orders: Renyi orders, one or several.
      rdp: the divergence at each.
      target_eps: the epsilon to find the delta for, or
      target_delta: the delta to find the epsilon for.

    Returns:
      Epsilon, delta and the order that the one that was open was found at.

    Raises:
      InputError: unless exactly one target is given, or if orders and divergences do not
        fit together.
    """
    if (target_eps is None) == (target_delta is None):
        raise InputError(
            "give exactly one of target_eps and target_delta, got "
            f"target_eps={target_eps!r}, target_delta={target_delta!r}"
        )
    orders, rdp = np.atleast_1d(orders), np.atleast_1d(rdp)
    try:
        if target_delta is not None:
            found, order = rdp_privacy_accountant.compute_epsilon(orders, rdp, target_delta)
            return float(found), float(target_delta), float(order)
        target_eps = float(target_eps or 0.0)
        found, order = rdp_privacy_accountant.compute_delta(orders, rdp, target_eps)
        return target_eps, float(found), float(order)
    except ValueError as error:
        raise InputError(f"orders and rdp must be divergences at orders ({error})") from error
