"""The noise for a budget, as TensorFlow Privacy finds it.

`hg.dp_sgd(epsilon=...)` and `hg.accounting.calibrate` find less, by a tighter bound.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize

from hushgrad._check import positive
from hushgrad.compat.tensorflow_privacy.privacy.analysis.compute_dp_sgd_privacy_lib import ORDERS
from hushgrad.compat.tensorflow_privacy.privacy.analysis.rdp_accountant import (
    compute_rdp,
    get_privacy_spent,
)
from hushgrad.errors import InputError

__all__ = ["compute_noise"]

_LARGEST = 1e9
# Divergences below this are rounded to anything, and `dp_accounting` takes a negative one
# for perfect privacy.
_ROUNDING = 1e-14


def compute_noise(
    n: int,
    batch_size: int,
    target_epsilon: float,
    epochs: float,
    delta: float,
    noise_lbd: float,
) -> float:
    """The smallest noise multiplier of at least `noise_lbd` that keeps the target.

    For Poisson samples and by Renyi accounting. Where `noise_lbd` itself keeps the target,
    TensorFlow Privacy returns 0, which a script takes for "no noise is needed"; this returns
    `noise_lbd`. The answer's epsilon never exceeds the target.

    Args:
      n: number of examples.
      batch_size: expected batch size.
      target_epsilon: what may be spent.
      epochs: passes over the data.
      delta: probability that the promise may fail.
      noise_lbd: the smallest noise multiplier to consider.

    Raises:
      InputError: if a number is out of range or no noise keeps the target.
    """
    noise, target = positive("noise_lbd", noise_lbd), positive("target_epsilon", target_epsilon)
    if batch_size > n:
        raise InputError(
            f"n must be at least the batch size, got n={n} for batch_size={batch_size}"
        )
    rate, steps = batch_size / n, math.ceil(epochs * n / batch_size)

    def excess(noise: float) -> float:
        rdp = steps * np.maximum(compute_rdp(rate, noise, 1, ORDERS), _ROUNDING)
        return get_privacy_spent(ORDERS, rdp, target_delta=delta)[0] - target

    if excess(noise) <= 0:
        print("min_noise too large for target epsilon.")
        return noise
    low = noise
    while excess(noise) > 0:
        low, noise = noise, 2 * noise
        if noise > _LARGEST:
            raise InputError(
                f"target_epsilon={target_epsilon!r} is kept by no noise at delta={delta!r}; "
                "choose a larger delta or fewer epochs"
            )
    noise = optimize.root_scalar(excess, bracket=(low, noise), method="bisect").root
    while excess(noise) > 0:  # the root may lie on the wrong side by its last digits
        noise *= 1 + 1e-12
    print(
        f"DP-SGD with sampling rate = {100 * rate:.3g}% and noise_multiplier = {noise} iterated "
        f"over {steps} steps satisfies differential privacy with eps = {target:.3g} and "
        f"delta = {delta}."
    )
    return noise
