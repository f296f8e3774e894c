"""One cost by every accountant, from the crudest to the tightest."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
from scipy import special

from hushgrad._check import fraction
from hushgrad.accounting import pld, rdp
from hushgrad.accounting.accountants import parts_of
from hushgrad.accounting.events import Parts, as_event, as_relation, flattened, releases
from hushgrad.accounting.losses import gaussian_epsilon
from hushgrad.errors import InputError

__all__ = ["Bound", "bounds", "central_limit"]

_CLASSIC_ORDERS = [
    *(1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 4.5),
    *(float(order) for order in range(5, 64)),
    *(128.0, 256.0, 512.0),
]


@dataclasses.dataclass(frozen=True)
class Bound:
    """What one way of accounting says.

    Attributes:
      name: of the way.
      epsilon: at the delta that was asked for; infinite where it proves nothing.
      kind: "upper bound", "approximation" (may be too low) or "lower bound".
      source: the paper.
    """

    name: str
    epsilon: float
    kind: str
    source: str


def bounds(event: Any, delta: float, *, relation: str | None = None) -> list[Bound]:
    """Epsilon by every way of accounting, from the crudest to the tightest.

    Naive and advanced composition add up what each release costs by itself, tightly
    accounted for; the moments accountant is Renyi's with the conversion and the orders
    of 2016, which older papers and tutorials report. The central limit of Gaussian
    differential privacy is an approximation and may be too low. Ways that do not
    cover the event are left out.

    Args:
      event: a mechanism or a `dp_accounting.DpEvent`.
      delta: in (0, 1).
      relation: the neighbouring relation; by default the event's.

    Raises:
      InputError: if no way covers the event.
    """
    delta, relation = fraction("delta", delta), as_relation(event, relation)
    parts = parts_of(event)
    if not parts:
        worth = math.inf if parts is None else 0.0
        return [Bound("PLD", worth, "upper bound", "exact")]
    rows = []
    for name, kind, source, worth in _WAYS:
        with contextlib.suppress(InputError):
            rows.append(Bound(name, worth(parts, delta, relation), kind, source))
    if not rows:
        raise InputError(f"no accountant covers {as_event(event)!r} under {relation}")
    return rows


def central_limit(event: Any) -> float:
    """The shift of the Gaussian that many sampled releases come near to.

    Dong, Roth and Su 2019 (arXiv 1905.02383), Bu, Dong, Long and Su 2020 (arXiv
    1911.11607): rate * sqrt(steps * (exp(1 / noise^2) - 1)). No bound.

    Raises:
      InputError: for releases that are not sampled Gaussians.
    """
    return _shift(flattened(as_event(event)), "add-or-remove-one")


def _shift(parts: Parts, relation: str) -> float:
    found = releases(parts)
    if found is None or any(len(r.parts) > 1 or r.crowded for r, _ in found):
        raise InputError("the central limit is known for (Poisson-sampled) Gaussians only")
    square = 0.0
    for release, count in found:
        each = (release.parts[0] / release.noise_multiplier) ** 2
        if release.is_gaussian:
            spread = 4 * each if relation == "replace-one" else each
        elif release.fixed_size:
            spread = release.rate**2 * _drawn(2 * math.sqrt(each))
        elif relation == "replace-one":
            spread = release.rate**2 * 4 * math.sinh(each)
        else:
            spread = release.rate**2 * math.expm1(each)
        square += count * spread
    return math.sqrt(square)


def _drawn(shift: float) -> float:
    """Dong, Roth and Su 2019, corollary 5.4: for samples of one size."""
    more = math.exp(shift**2) * special.ndtr(1.5 * shift)
    return float(2 * (more + 3 * special.ndtr(-0.5 * shift) - 2))


def _naive(parts: Parts, delta: float, relation: str) -> float:
    total = sum(count for _, count in parts)
    return math.fsum(_single(part, delta / total, relation) * count for part, count in parts)


def _advanced(parts: Parts, delta: float, relation: str) -> float:
    total = sum(count for _, count in parts)
    each = [(_single(part, delta / 2 / total, relation), count) for part, count in parts]
    drift = math.fsum(n * e * math.expm1(min(e, 700.0)) for e, n in each)
    return drift + math.sqrt(2 * math.log(2 / delta) * math.fsum(n * e * e for e, n in each))


def _single(event: dp_accounting.DpEvent, delta: float, relation: str) -> float:
    return pld.epsilon([(event, 1)], delta, relation)


def _moments(parts: Parts, delta: float, relation: str) -> float:
    divergences = rdp.divergences(parts, relation, _CLASSIC_ORDERS)
    pairs = zip(_CLASSIC_ORDERS, divergences, strict=True)
    return min(d - math.log(delta) / (order - 1) for order, d in pairs)


def _limit(parts: Parts, delta: float, relation: str) -> float:
    try:
        return gaussian_epsilon(_shift(parts, relation), delta)
    except OverflowError:
        return math.inf


def _below(parts: Parts, delta: float, relation: str) -> float:
    found = pld.epsilon_interval(parts, delta, relation).lower
    if not found:
        raise InputError("no lower bound is known")
    return found


_UPPER = "upper bound"
# Name, kind, source, and the epsilon or an error where it does not cover an event.
_WAYS: tuple[tuple[str, str, str, Callable[[Parts, float, str], float]], ...] = (
    ("naive composition", _UPPER, "Dwork et al. 2006", _naive),
    ("advanced composition", _UPPER, "Dwork, Rothblum and Vadhan 2010", _advanced),
    ("moments accountant", _UPPER, "Abadi et al. 2016, Mironov 2017", _moments),
    ("RDP", _UPPER, "Canonne, Kamath and Steinke 2020", rdp.epsilon),
    ("Gaussian DP, central limit", "approximation", "Bu et al. 2020", _limit),
    ("PLD", _UPPER, "Doroshenko et al. 2022", pld.epsilon),
    ("nothing below this holds", "lower bound", "binned PLD", _below),
)
