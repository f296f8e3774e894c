"""Privacy loss distributions: the tight accountant, by `dp_accounting`.

Koskela et al. 2020 (arXiv 1906.03049); the discretisation is the pessimistic one
of Doroshenko et al. 2022 (arXiv 2207.04380), so the answer is an upper bound.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution as distributions

from hushgrad.accounting import rdp
from hushgrad.accounting.events import poisson_gaussian_parts

__all__ = ["delta", "epsilon"]

_GRID_POINTS = 500_000


def epsilon(event: dp_accounting.DpEvent, delta: float) -> float:
    """Upper bound on epsilon at `delta` under adding or removing one example.

    The truncated tails hold about 1e-15, so at smaller deltas the grid answers
    infinity; the Renyi bound holds there, and is the answer.
    """
    found = _distribution(event).get_epsilon_for_delta(delta)
    return rdp.epsilon(event, delta) if math.isinf(found) else found


def delta(event: dp_accounting.DpEvent, epsilon: float) -> float:
    """Upper bound on delta at `epsilon` under adding or removing one example."""
    return _distribution(event).get_delta_for_epsilon(epsilon)


def _distribution(event: dp_accounting.DpEvent) -> Any:
    return _composed(*poisson_gaussian_parts(event))


# Training asks for many step counts of one mechanism, so one step is kept.
@functools.lru_cache(maxsize=32)
def _one_step(rate: float, noise_multiplier: float) -> Any:
    # One step's losses reach to about this; with little noise a grid of 1e-4 over them
    # would take minutes and gigabytes. A coarser one is as pessimistic, so still a bound.
    reach = 0.5 / noise_multiplier**2 + 10 / noise_multiplier
    return distributions.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=rate,
        value_discretization_interval=max(1e-4, reach / _GRID_POINTS),
        use_connect_dots=True,
    )


@functools.lru_cache(maxsize=8)
def _composed(rate: float, noise_multiplier: float, count: int) -> Any:
    if count == 0:
        return distributions.identity()
    one = _one_step(rate, noise_multiplier)
    return one if count == 1 else one.self_compose(count)
