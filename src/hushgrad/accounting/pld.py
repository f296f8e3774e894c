"""Privacy loss distributions: the tight accountant.

Releases of the Gaussian family are composed by `hushgrad.accounting.losses`, with a
certificate; other events by `dp_accounting`, whose answer is an upper bound too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dp_accounting
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as distributions

from hushgrad.accounting import losses, rdp
from hushgrad.accounting.events import Parts, releases
from hushgrad.errors import InputError

__all__ = ["delta", "delta_interval", "epsilon", "epsilon_interval", "known", "profile"]

# Below this, masses of losses are no longer normal numbers.
_SMALLEST = 1e-280
# Of a curve, points that are computed by themselves where one grid for all of them is too fine:
# each may take seconds then.
_SINGLE = 4


def epsilon(parts: Parts, delta: float, relation: str) -> float:
    """Upper bound on epsilon at `delta`."""
    gaussians = releases(parts)
    if gaussians is None:
        return float(_foreign(parts, relation).get_epsilon_for_delta(delta))
    if delta < _SMALLEST and not all(r.is_gaussian for r, _ in gaussians):
        return rdp.epsilon(parts, delta, relation)
    return losses.epsilon_upper(known(gaussians, relation), delta, relation)


def delta(parts: Parts, epsilon: float, relation: str) -> float:
    """Upper bound on delta at `epsilon`."""
    gaussians = releases(parts)
    if gaussians is None:
        return float(_foreign(parts, relation).get_delta_for_epsilon(epsilon))
    return losses.delta_upper(known(gaussians, relation), epsilon, relation)


def profile(parts: Parts, epsilons: Sequence[float], relation: str) -> list[float]:
    """Upper bounds on delta at every epsilon."""
    gaussians = releases(parts)
    if gaussians is None:
        composed = _foreign(parts, relation)
        return [float(composed.get_delta_for_epsilon(epsilon)) for epsilon in epsilons]
    found = losses.profile_upper(known(gaussians, relation), epsilons, relation)
    if found and min(found) >= 1.0:
        return _one_by_one(parts, epsilons, relation)
    return found


def _one_by_one(parts: Parts, epsilons: Sequence[float], relation: str) -> list[float]:
    """The same where a grid for all of them would be too fine: a few, and steps between them.

    Delta falls with epsilon, so that what holds at one holds at all that are larger.
    """
    order = sorted(range(len(epsilons)), key=lambda place: epsilons[place])
    every, found, bound = max(1, len(order) // _SINGLE), [1.0] * len(epsilons), 1.0
    for count, place in enumerate(order):
        if count % every == 0:
            bound = min(bound, delta(parts, epsilons[place], relation))
        found[place] = bound
    return found


def epsilon_interval(parts: Parts, delta: float, relation: str) -> losses.Interval:
    """Certified bounds on epsilon; zero below where no better one is known."""
    gaussians = releases(parts)
    if gaussians is None or delta < _SMALLEST or not _reached(gaussians):
        return losses.Interval(0.0, epsilon(parts, delta, relation))
    return losses.epsilon_interval(known(gaussians, relation), delta, relation)


def delta_interval(parts: Parts, epsilon: float, relation: str) -> losses.Interval:
    """Certified bounds on delta; zero below where no better one is known."""
    gaussians = releases(parts)
    if gaussians is None or not _reached(gaussians):
        return losses.Interval(0.0, delta(parts, epsilon, relation))
    return losses.delta_interval(known(gaussians, relation), epsilon, relation)


def known(
    gaussians: list[tuple[losses.Release, int]], relation: str
) -> list[tuple[losses.Release, int]]:
    """The releases, if their dominating pairs are known.

    Raises:
      InputError: for mixtures under replace-one, and for samples of one size under
        any other relation.
    """
    if relation != "replace-one" and any(r.fixed_size for r, _ in gaussians):
        raise InputError(
            f"samples of one size have no sound bound under {relation}: without somebody, all "
            "others are drawn otherwise; take replace-one"
        )
    if relation == "replace-one" and any(len(r.parts) > 1 for r, _ in gaussians):
        raise InputError(
            "no dominating pair is known for mixtures of Gaussians under replace-one; take "
            "add-or-remove-one and count a replacement as one removed and one added"
        )
    return gaussians


def _reached(gaussians: list[tuple[losses.Release, int]]) -> bool:
    """Some data sets reach the dominating pairs: what is below them holds for none."""
    return not any(release.crowded for release, _ in gaussians)


def _foreign(parts: Parts, relation: str) -> Any:
    """Composed here, since `dp_accounting` 0.6 forgets the counts of some events."""
    composed = distributions.identity()
    for event, count in parts:
        try:
            one = _distribution(event, relation)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{event!r} cannot be accounted for: {error}") from error
        if one is None:
            raise InputError(
                f"accountant 'pld' cannot account for {type(event).__name__} under {relation}; "
                "accountant 'rdp' may"
            )
        composed = composed.compose(one if count == 1 else one.self_compose(count))
    return composed


def _distribution(event: dp_accounting.DpEvent, relation: str) -> Any:
    moved = 2.0 if relation == "replace-one" else 1.0
    match event:
        case dp_accounting.GaussianDpEvent(noise_multiplier=noise):
            return distributions.from_gaussian_mechanism(noise, sensitivity=moved)
        case dp_accounting.LaplaceDpEvent(noise_multiplier=noise):
            return distributions.from_laplace_mechanism(noise, sensitivity=moved)
        case dp_accounting.RandomizedResponseDpEvent(noise_parameter=p, num_buckets=buckets):
            if relation == "replace-one":
                return distributions.from_randomized_response(float(p), int(buckets))
        case dp_accounting.PoissonSampledDpEvent(sampling_probability=rate, event=inner):
            if relation != "replace-one":
                return _sampled(inner, rate)
        case dp_event.DiscreteLaplaceDpEvent(noise_parameter=p, sensitivity=sensitivity):
            if relation != "replace-one":
                return distributions.from_discrete_laplace_mechanism(float(p), int(sensitivity))
        case dp_accounting.NonPrivateDpEvent():
            return distributions.from_privacy_parameters(
                dp_accounting.pld.common.DifferentialPrivacyParameters(math.inf, 1.0)
            )
    return None


def _sampled(event: dp_accounting.DpEvent, rate: float) -> Any:
    match event:
        case dp_accounting.GaussianDpEvent(noise_multiplier=noise):
            return distributions.from_gaussian_mechanism(noise, sampling_prob=rate)
        case dp_accounting.LaplaceDpEvent(noise_multiplier=noise):
            return distributions.from_laplace_mechanism(noise, sampling_prob=rate)
    return None
