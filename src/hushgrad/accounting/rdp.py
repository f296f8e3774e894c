"""Renyi differential privacy, by `dp_accounting`: quick, and an upper bound.

Mironov 2017 (arXiv 1702.07476), with the sampled Gaussian of Mironov, Talwar and
Zhang 2019 (arXiv 1908.10530).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import dp_accounting
from dp_accounting import rdp

__all__ = ["delta", "epsilon"]

# Asked for only when the best of the usual orders is the largest, as it is for
# little spent at a tiny delta; beyond these the gain is below a percent.
_MORE_ORDERS = [1536, 2048, 3072, 4096, 8192, 16384, 32768, 65536]


def epsilon(event: dp_accounting.DpEvent, delta: float) -> float:
    """Upper bound on epsilon at `delta` under adding or removing one example."""
    accountant = _accountant(event)
    best, order = accountant.get_epsilon_and_optimal_order(delta)
    if order < accountant.orders[-1]:
        return best
    return min(best, _accountant(event, _MORE_ORDERS).get_epsilon(delta))


def delta(event: dp_accounting.DpEvent, epsilon: float) -> float:
    """Upper bound on delta at `epsilon` under adding or removing one example."""
    accountant = _accountant(event)
    best, order = accountant.get_delta_and_optimal_order(epsilon)
    if order < accountant.orders[-1]:
        return best
    return min(best, _accountant(event, _MORE_ORDERS).get_delta(epsilon))


def _accountant(event: dp_accounting.DpEvent, orders: list[int] | None = None) -> rdp.RdpAccountant:
    with _quiet():
        return rdp.RdpAccountant(orders).compose(event)


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
