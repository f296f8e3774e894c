"""What so many steps with a sampler and a kind of noise release, in the accountants' words."""

from __future__ import annotations

import functools
import math

import dp_accounting
from dp_accounting import dp_event
from scipy import stats

from hushgrad.accounting import poisson_gaussian
from hushgrad.errors import InputError
from hushgrad.noise import OncePerPass, Participation, Periodic, Spaced, Strategy
from hushgrad.sampling import (
    BallsInBins,
    CheckIn,
    CyclicPoisson,
    FixedSize,
    InOrder,
    Poisson,
    Sampler,
    Shuffle,
    Stream,
    TruncatedPoisson,
)

__all__ = ["participation", "released"]

# A group's members that are sampled together are told apart up to this probability.
_NEVER = 1e-25


def released(
    sampling: Sampler,
    strategy: Strategy,
    examples: int,
    noise_multiplier: float,
    steps: int,
    group: int,
) -> dp_accounting.DpEvent:
    """All that `steps` noisy sums tell of `group` examples that are there or not together.

    Args:
      sampling: how each batch is drawn.
      strategy: how the steps' noises depend on each other.
      examples: number of examples.
      noise_multiplier: standard deviation of the noise over what one example may add.
      steps: number of sums.
      group: how many examples, each clipped by itself, are to be hidden.

    Raises:
      InputError: where no guarantee for a group, or for the noise with the sampling, is known.
    """
    if not strategy.correlated:
        return _independently(sampling, examples, noise_multiplier, steps, group)
    bands = strategy.bands
    if isinstance(sampling, CyclicPoisson) and bands is not None and bands <= sampling.cycle:
        return _amplified(sampling, strategy, noise_multiplier, steps, group)
    pattern = participation(sampling, examples, steps)
    # Members of a group move the sums by as much each, and together at most by the sum.
    moved = group * _sensitivity(strategy, max(steps, 1), pattern)
    return poisson_gaussian(1.0, noise_multiplier / moved, min(steps, 1))


def _amplified(
    sampling: CyclicPoisson,
    strategy: Strategy,
    noise_multiplier: float,
    steps: int,
    group: int,
) -> dp_accounting.DpEvent:
    """Theorem 4 of Choquette-Choo et al. 2023 (arXiv 2306.08153).

    What an example moves in one cycle has no row in common with what it moves in another, so
    each cycle is a sampled Gaussian mechanism of its own, of one column's norm at the most.
    """
    _single(sampling, group)
    column = _sensitivity(strategy, max(steps, 1), Spaced(1, 1))
    return poisson_gaussian(sampling.rate, noise_multiplier / column, -(-steps // sampling.cycle))


@functools.lru_cache(maxsize=64)
def _sensitivity(strategy: Strategy, steps: int, pattern: Participation) -> float:
    """Kept, for a search for the noise asks again and again."""
    return strategy.sensitivity(steps, pattern)


def participation(sampling: Sampler, examples: int, steps: int) -> Participation:
    """In which steps an example may be.

    Raises:
      InputError: where it may be in any, by chance.
    """
    match sampling:
        case Shuffle() | BallsInBins():
            return OncePerPass(sampling.per_epoch(examples))
        case CyclicPoisson():
            return Periodic(sampling.cycle)
        case InOrder():
            return Periodic(sampling.per_epoch(examples))
        case Stream():
            return Spaced(max(steps, 1), 1)
        case CheckIn():
            return Spaced(max(1, sampling.turns(steps)), sampling.min_separation)
    raise InputError(
        f"noise that depends on other steps' needs to know when an example takes part, which "
        f"{sampling!r} leaves to chance; take hg.sampling.Shuffle, InOrder or CyclicPoisson"
    )


@functools.singledispatch
def _independently(
    sampling: Sampler, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """What `released` says where each step has noise of its own."""
    raise TypeError(f"nothing is known of what {sampling!r} costs")


@_independently.register
def _(
    sampling: Poisson, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """A binomial number of the group, each by a coin of its own, is in a batch."""
    if group == 1:
        return poisson_gaussian(sampling.rate, noise_multiplier, steps)
    counts = range(group + 1)
    chances = stats.binom.pmf(counts, group, sampling.rate)
    listed = [(float(n), float(p)) for n, p in zip(counts, chances, strict=True) if p > _NEVER]
    listed = [(n, p) for n, p in listed if n < group]
    # What is too unlikely to be listed is charged as if the whole group were in the batch.
    rest = max(_NEVER, 1 - math.fsum(p for _, p in listed))
    one = dp_event.MixtureOfGaussiansDpEvent(
        noise_multiplier, [*(n for n, _ in listed), float(group)], [*(p for _, p in listed), rest]
    )
    return dp_accounting.SelfComposedDpEvent(one, steps)


@_independently.register
def _(
    sampling: TruncatedPoisson, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    _single(sampling, group)
    one = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        examples, sampling.rate, sampling.most, float(noise_multiplier)
    )
    return dp_accounting.SelfComposedDpEvent(one, steps)


@_independently.register
def _(
    sampling: CyclicPoisson, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """An example may be drawn once per cycle, in the first step of each at the worst."""
    _single(sampling, group)
    return poisson_gaussian(sampling.rate, noise_multiplier, -(-steps // sampling.cycle))


@_independently.register
def _(
    sampling: FixedSize, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    _single(sampling, group)
    one = dp_accounting.SampledWithoutReplacementDpEvent(
        examples, sampling.batch_size, dp_accounting.GaussianDpEvent(float(noise_multiplier))
    )
    return dp_accounting.SelfComposedDpEvent(one, steps)


@_independently.register(Shuffle)
@_independently.register(BallsInBins)
@_independently.register(InOrder)
def _(
    sampling: Shuffle | BallsInBins | InOrder,
    examples: int,
    noise_multiplier: float,
    steps: int,
    group: int,
) -> dp_accounting.DpEvent:
    """A group may fall into one batch of every pass, which is its worst."""
    passes = -(-steps // sampling.per_epoch(examples))
    return poisson_gaussian(1.0, noise_multiplier / group, passes)


@_independently.register
def _(
    sampling: Stream, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """A group may be in every batch together."""
    return poisson_gaussian(1.0, noise_multiplier / group, steps)


@_independently.register
def _(
    sampling: CheckIn, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """A group may come together every time."""
    return poisson_gaussian(1.0, noise_multiplier / group, sampling.turns(steps))


def _single(sampling: Sampler, group: int) -> None:
    if group > 1:
        raise InputError(
            f"no guarantee for a group of {group} is known with {sampling!r}; take Poisson, "
            "Shuffle or BallsInBins, or a group of 1"
        )
