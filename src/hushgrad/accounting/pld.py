"""Privacy loss distributions: the tight accountant, by `dp_accounting`.

Koskela et al. 2020 (arXiv 1906.03049); the discretisation is the pessimistic one
of Doroshenko et al. 2022 (arXiv 2207.04380), so the answer is an upper bound.
"""

from __future__ import annotations

import functools
from typing import Any

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution as distributions

from hushgrad.accounting.events import poisson_gaussian_parts

__all__ = ["delta", "epsilon"]


def epsilon(event: dp_accounting.DpEvent, delta: float) -> float:
    """Upper bound on epsilon at `delta` under adding or removing one example."""
    return _distribution(event).get_epsilon_for_delta(delta)


def delta(event: dp_accounting.DpEvent, epsilon: float) -> float:
    """Upper bound on delta at `epsilon` under adding or removing one example."""
    return _distribution(event).get_delta_for_epsilon(epsilon)


def _distribution(event: dp_accounting.DpEvent) -> Any:
    return _composed(*poisson_gaussian_parts(event))


# Training asks for many step counts of one mechanism, so one step is kept.
@functools.lru_cache(maxsize=32)
def _one_step(rate: float, noise_multiplier: float) -> Any:
    return distributions.from_gaussian_mechanism(
        standard_deviation=noise_multiplier, sampling_prob=rate, use_connect_dots=True
    )


@functools.lru_cache(maxsize=8)
def _composed(rate: float, noise_multiplier: float, count: int) -> Any:
    if count == 0:
        return distributions.identity()
    one = _one_step(rate, noise_multiplier)
    return one if count == 1 else one.self_compose(count)
