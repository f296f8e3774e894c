"""One cost by every accountant, from the crudest to the tightest."""

from __future__ import annotations

import dataclasses
import math
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
    found = [way(parts, delta, relation) for way in _WAYS]
    rows = [row for row in found if row is not None]
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
    if found is None or any(len(r.parts) > 1 for r, _ in found):
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


def _naive(parts: Parts, delta: float, relation: str) -> Bound | None:
    total = sum(count for _, count in parts)
    try:
        each = [(_single(part, delta / total, relation), count) for part, count in parts]
    except InputError:
        return None
    worth = math.fsum(epsilon * count for epsilon, count in each)
    return Bound("naive composition", worth, "upper bound", "Dwork et al. 2006")


def _advanced(parts: Parts, delta: float, relation: str) -> Bound | None:
    total = sum(count for _, count in parts)
    try:
        each = [(_single(part, delta / 2 / total, relation), count) for part, count in parts]
    except InputError:
        return None
    drift = math.fsum(n * e * math.expm1(min(e, 700.0)) for e, n in each)
    swing = math.sqrt(2 * math.log(2 / delta) * math.fsum(n * e * e for e, n in each))
    source = "Dwork, Rothblum and Vadhan 2010"
    return Bound("advanced composition", drift + swing, "upper bound", source)


def _single(event: dp_accounting.DpEvent, delta: float, relation: str) -> float:
    return pld.epsilon([(event, 1)], delta, relation)


def _moments(parts: Parts, delta: float, relation: str) -> Bound | None:
    try:
        divergences = rdp.divergences(parts, relation, _CLASSIC_ORDERS)
    except InputError:
        return None
    pairs = zip(_CLASSIC_ORDERS, divergences, strict=True)
    worth = min(d - math.log(delta) / (order - 1) for order, d in pairs)
    return Bound("moments accountant", worth, "upper bound", "Abadi et al. 2016, Mironov 2017")


def _renyi(parts: Parts, delta: float, relation: str) -> Bound | None:
    try:
        worth = rdp.epsilon(parts, delta, relation)
    except InputError:
        return None
    return Bound("RDP", worth, "upper bound", "Canonne, Kamath and Steinke 2020")


def _limit(parts: Parts, delta: float, relation: str) -> Bound | None:
    try:
        worth = gaussian_epsilon(_shift(parts, relation), delta)
    except (InputError, OverflowError):
        return None
    return Bound("Gaussian DP, central limit", worth, "approximation", "Bu et al. 2020")


def _tight(parts: Parts, delta: float, relation: str) -> Bound | None:
    try:
        worth = pld.epsilon(parts, delta, relation)
    except InputError:
        return None
    return Bound("PLD", worth, "upper bound", "Doroshenko et al. 2022")


def _below(parts: Parts, delta: float, relation: str) -> Bound | None:
    try:
        worth = pld.epsilon_interval(parts, delta, relation).lower
    except InputError:
        return None
    if not worth:
        return None
    return Bound("nothing below this holds", worth, "lower bound", "binned PLD")


_WAYS = (_naive, _advanced, _moments, _renyi, _limit, _tight, _below)
