"""Events in `dp_accounting`'s language, read so that its known faults are out of reach.

A noise multiplier is the noise's standard deviation over the clip, whatever the
neighbouring relation: replacing an example may move a sum by two clips, and that is
counted here, never left to whoever writes the event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dp_accounting
from dp_accounting import dp_event
from scipy import stats

from hushgrad._check import whole
from hushgrad.accounting.losses import Release
from hushgrad.errors import InputError

__all__ = [
    "RELATIONS",
    "Parts",
    "as_event",
    "as_relation",
    "flattened",
    "keeps_nothing",
    "poisson_gaussian",
    "releases",
]

RELATIONS = ("add-or-remove-one", "replace-one", "replace-special")

Parts = Sequence[tuple[dp_accounting.DpEvent, int]]


def poisson_gaussian(rate: float, noise_multiplier: float, steps: int) -> dp_accounting.DpEvent:
    """`steps` Gaussian releases, each of a fresh Poisson sample.

    Args:
      rate: probability that an example takes part in one release; 1 for all of them.
      noise_multiplier: standard deviation of the noise over the clip.
      steps: number of releases.
    """
    released = dp_accounting.GaussianDpEvent(float(noise_multiplier))
    sampled = dp_accounting.PoissonSampledDpEvent(float(rate), released)
    return dp_accounting.SelfComposedDpEvent(sampled, int(steps))


def as_event(event: Any) -> dp_accounting.DpEvent:
    """The event of a mechanism, or the event itself.

    Raises:
      InputError: if it is neither.
    """
    # A composed event has an `event` of its own: looking into it would drop the count.
    found = event if isinstance(event, dp_accounting.DpEvent) else getattr(event, "event", None)
    if not isinstance(found, dp_accounting.DpEvent):
        raise InputError(f"event must be a mechanism or a dp_accounting.DpEvent, got {event!r}")
    return found


def as_relation(event: Any, relation: str | None) -> str:
    """The neighbouring relation that is asked for, else the mechanism's own.

    Raises:
      InputError: if it is not one of `RELATIONS`.
    """
    if relation is None:
        relation = getattr(event, "neighbouring_relation", RELATIONS[0])
    if relation not in RELATIONS:
        known = ", ".join(repr(name) for name in RELATIONS)
        raise InputError(f"relation must be one of {known}, got {relation!r}")
    return relation


def flattened(event: dp_accounting.DpEvent, count: int = 1) -> list[tuple[Any, int]]:
    """The event's parts and how often each occurs, their numbers checked and made floats.

    Raises:
      InputError: for a number out of range, which would be answered with NaN.
    """
    match event:
        case dp_accounting.NoOpDpEvent():
            return []
        case dp_accounting.SelfComposedDpEvent(event=inner, count=times):
            times = whole("count", times, at_least=0)
            return flattened(inner, count * times) if times else []
        case dp_accounting.ComposedDpEvent(events=events):
            return [part for inner in events for part in flattened(inner, count)]
        case dp_accounting.PoissonSampledDpEvent(sampling_probability=rate, event=inner):
            rate = _within("sampling_probability", rate, 0, 1)
            if rate in (0, 1):
                return flattened(inner, count) if rate else []
            one = _joint(inner)
            return [(dp_accounting.PoissonSampledDpEvent(rate, one), count)] if one else []
        case dp_accounting.SampledWithoutReplacementDpEvent(
            source_dataset_size=examples, sample_size=size, event=inner
        ):
            examples = whole("source_dataset_size", examples)
            size = int(_within("sample_size", size, 0, examples))
            one = _joint(inner)
            sampled = dp_accounting.SampledWithoutReplacementDpEvent
            return [(sampled(examples, size, one), count)] if one and size else []
        case dp_event.RepeatAndSelectDpEvent(event=inner, mean=mean, shape=shape):
            runs = flattened(inner)
            if any(keeps_nothing(run) for run, _ in runs):
                return [(_NOTHING_KEPT, count)]
            one = dp_accounting.ComposedDpEvent(
                [dp_accounting.SelfComposedDpEvent(run, n) for run, n in runs]
            )
            return [(dp_event.RepeatAndSelectDpEvent(one, float(mean), float(shape)), count)]
        case dp_accounting.GaussianDpEvent(noise_multiplier=noise):
            return [(_gaussian(noise), count)]
        case dp_accounting.TruncatedSubsampledGaussianDpEvent():
            if not event.sampling_probability or not event.truncated_batch_size:
                return []
            return [(event if event.noise_multiplier else _NOTHING_KEPT, count)]
        case dp_accounting.LaplaceDpEvent(noise_multiplier=noise):
            noise = _within("noise_multiplier", noise, 0, math.inf)
            return [(dp_accounting.LaplaceDpEvent(noise) if noise else _NOTHING_KEPT, count)]
    return [(event, count)]


_NOTHING_KEPT = dp_accounting.NonPrivateDpEvent()


def keeps_nothing(event: dp_accounting.DpEvent) -> bool:
    """The part of an event is released without noise, or to a sample."""
    inner = getattr(event, "event", None)
    return isinstance(event, dp_accounting.NonPrivateDpEvent) or (
        isinstance(inner, dp_accounting.DpEvent) and keeps_nothing(inner)
    )


def releases(parts: Parts) -> list[tuple[Release, int]] | None:
    """The parts as Gaussian releases, or None if some are not."""
    found = []
    for event, count in parts:
        match event:
            case dp_accounting.GaussianDpEvent(noise_multiplier=noise):
                found.append((Release(noise), count))
            case dp_accounting.PoissonSampledDpEvent(
                sampling_probability=rate,
                event=dp_accounting.GaussianDpEvent(noise_multiplier=noise),
            ):
                found.append((Release(noise, rate), count))
            case dp_accounting.SampledWithoutReplacementDpEvent(
                source_dataset_size=examples,
                sample_size=size,
                event=dp_accounting.GaussianDpEvent(noise_multiplier=noise),
            ):
                found.append((Release(noise, size / examples, fixed_size=True), count))
            case dp_event.MixtureOfGaussiansDpEvent():
                found.append((_mixture(event), count))
            case dp_accounting.TruncatedSubsampledGaussianDpEvent():
                found.append((_truncated(event), count))
            case _:
                return None
    return found


def _mixture(event: dp_event.MixtureOfGaussiansDpEvent) -> Release:
    noise = _within("standard_deviation", event.standard_deviation, 1e-300, math.inf)
    parts = tuple(_within("sensitivities", s, 0, math.inf) for s in event.sensitivities)
    weights = tuple(_within("sampling_probs", w, 0, 1) for w in event.sampling_probs)
    if not parts or not math.isclose(sum(weights), 1, rel_tol=1e-9):
        raise InputError(f"sampling_probs must add up to 1, got {event.sampling_probs!r}")
    kept = [(s, w) for s, w in sorted(zip(parts, weights, strict=True)) if w]
    weights = _adding_up_to_one([w for _, w in kept])
    return Release(noise, 1.0, tuple(s for s, _ in kept), weights)


def _adding_up_to_one(weights: list[float]) -> tuple[float, ...]:
    """Without what was rounded, such that no large part becomes less likely.

    What is missing to 1 is the last part's, the largest; what is too much is taken from the first.
    """
    missing = 1 - math.fsum(weights)
    if missing > 0:
        weights[-1] += missing
    for place, weight in enumerate(weights):
        if missing >= 0:
            break
        weights[place] = max(weight + missing, 0.0)
        missing += weight - weights[place]
    return tuple(weights)


def _truncated(event: dp_accounting.TruncatedSubsampledGaussianDpEvent) -> Release:
    examples = whole("dataset_size", event.dataset_size)
    most = whole("truncated_batch_size", event.truncated_batch_size)
    rate = _within("sampling_probability", event.sampling_probability, 0, 1)
    noise = _within("noise_multiplier", event.noise_multiplier, 0, math.inf)
    # Without somebody who is added, all of the data are others.
    return Release(noise, rate, crowded=float(stats.binom.sf(most - 1, examples, rate)))


def _joint(event: dp_accounting.DpEvent) -> dp_accounting.DpEvent | None:
    """What is released of one sample, if anything: several Gaussians are one, exactly.

    `dp_accounting` 0.6 drops the rest of a sampled composition that holds an integer
    noise multiplier; nothing is left to drop here.
    """
    parts = flattened(event)
    if all(isinstance(part, dp_accounting.GaussianDpEvent) for part, _ in parts):
        square = math.fsum(count / part.noise_multiplier**2 for part, count in parts)
        return _gaussian(square**-0.5) if square else None
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    raise InputError(
        f"several releases of one sample must all be Gaussian to be accounted for, got {event!r}"
    )


def _gaussian(noise_multiplier: Any) -> dp_accounting.DpEvent:
    noise = _within("noise_multiplier", noise_multiplier, 0, math.inf)
    return dp_accounting.GaussianDpEvent(noise) if noise else _NOTHING_KEPT


def _within(name: str, value: Any, least: Any, most: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most or math.isinf(number):
        raise InputError(f"{name} must lie between {least:g} and {most:g}, got {value!r}")
    return number
