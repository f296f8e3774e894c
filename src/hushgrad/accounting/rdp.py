"""Renyi differential privacy, by `dp_accounting`: quick, and an upper bound.

Mironov 2017 (arXiv 1702.07476), with the sampled Gaussian of Mironov, Talwar and
Zhang 2019 (arXiv 1908.10530); to epsilon and delta as by Canonne, Kamath and Steinke
2020 (arXiv 2004.00010).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import dp_accounting
from dp_accounting import rdp

from hushgrad.accounting.events import Parts
from hushgrad.errors import InputError

__all__ = ["delta", "divergences", "epsilon"]

# Asked for only when the best of the usual orders is the largest, as it is for
# little spent at a tiny delta; beyond these the gain is below a percent.
_MORE_ORDERS = [1536, 2048, 3072, 4096, 8192, 16384, 32768, 65536]

_RELATION = {
    "add-or-remove-one": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace-one": dp_accounting.NeighboringRelation.REPLACE_ONE,
    "replace-special": dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
}


def epsilon(parts: Parts, delta: float, relation: str) -> float:
    """Upper bound on epsilon at `delta`."""
    accountant = _accountant(parts, relation)
    best, order = accountant.get_epsilon_and_optimal_order(delta)
    if order < accountant.orders[-1]:
        return float(best)
    more = _accountant(parts, relation, _MORE_ORDERS).get_epsilon(delta)
    return float(min(best, more))


def delta(parts: Parts, epsilon: float, relation: str) -> float:
    """Upper bound on delta at `epsilon`."""
    accountant = _accountant(parts, relation)
    best, order = accountant.get_delta_and_optimal_order(epsilon)
    if order < accountant.orders[-1]:
        return float(best)
    more = _accountant(parts, relation, _MORE_ORDERS).get_delta(epsilon)
    return float(min(best, more))


def divergences(parts: Parts, relation: str, orders: Sequence[float]) -> list[float]:
    """The Renyi divergence at every order."""
    # There is no public name for what every conversion starts from.
    return [float(value) for value in _accountant(parts, relation, orders)._rdp]


def _accountant(
    parts: Parts, relation: str, orders: Sequence[float] | None = None
) -> rdp.RdpAccountant:
    accountant = rdp.RdpAccountant(orders, _RELATION[relation])
    with _quiet():
        for event, count in parts:
            try:
                accountant.compose(_moved(event, relation), count)
            except (dp_accounting.UnsupportedEventError, ValueError) as error:
                raise InputError(
                    f"accountant 'rdp' cannot account for {type(event).__name__} under "
                    f"{relation} ({error})"
                ) from error
    return accountant


def _moved(event: dp_accounting.DpEvent, relation: str) -> dp_accounting.DpEvent:
    """The event as `dp_accounting` reads it right: it overlooks that replacing moves twice.

    Raises:
      InputError: where no reading of it is known to be right.
    """
    if relation != "replace-one":
        return event
    match event:
        case dp_accounting.GaussianDpEvent(noise_multiplier=noise):
            return dp_accounting.GaussianDpEvent(noise / 2)
        case dp_accounting.SampledWithoutReplacementDpEvent(
            source_dataset_size=examples, sample_size=size, event=inner
        ):
            moved = _moved(inner, relation)
            return dp_accounting.SampledWithoutReplacementDpEvent(examples, size, moved)
        case dp_accounting.LaplaceDpEvent(noise_multiplier=noise):
            return dp_accounting.LaplaceDpEvent(noise / 2)
        case dp_accounting.RandomizedResponseDpEvent() | dp_accounting.NonPrivateDpEvent():
            return event
    raise InputError(
        f"accountant 'rdp' has no bound for {type(event).__name__} under replace-one; "
        "accountant 'pld' has for Gaussian releases"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out the warnings about orders that do not converge: they are not used."""
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
