"""What so many steps with a sampler release, in the words of the accountants."""

from __future__ import annotations

import functools
import math

import dp_accounting
from dp_accounting import dp_event
from scipy import stats

from hushgrad.accounting import poisson_gaussian
from hushgrad.errors import InputError
from hushgrad.sampling import (
    BallsInBins,
    CyclicPoisson,
    FixedSize,
    Poisson,
    Sampler,
    Shuffle,
    Stream,
    TruncatedPoisson,
)

__all__ = ["released"]

# A group's members that are sampled together are told apart up to this probability.
_NEVER = 1e-25


@functools.singledispatch
def released(
    sampling: Sampler, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """All that `steps` noisy sums tell of `group` examples that are there or not together.

    Args:
      sampling: how each batch is drawn.
      examples: number of examples.
      noise_multiplier: standard deviation of the noise over what one example may add.
      steps: number of sums.
      group: how many examples, each clipped by itself, are to be hidden.

    Raises:
      InputError: where no guarantee for a group is known.
    """
    raise TypeError(f"nothing is known of what {sampling!r} costs")


@released.register
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


@released.register
def _(
    sampling: TruncatedPoisson, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    _single(sampling, group)
    one = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        examples, sampling.rate, sampling.most, float(noise_multiplier)
    )
    return dp_accounting.SelfComposedDpEvent(one, steps)


@released.register
def _(
    sampling: CyclicPoisson, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """An example may be drawn once per cycle, in the first step of each at the worst."""
    _single(sampling, group)
    return poisson_gaussian(sampling.rate, noise_multiplier, -(-steps // sampling.cycle))


@released.register
def _(
    sampling: FixedSize, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    _single(sampling, group)
    one = dp_accounting.SampledWithoutReplacementDpEvent(
        examples, sampling.batch_size, dp_accounting.GaussianDpEvent(float(noise_multiplier))
    )
    return dp_accounting.SelfComposedDpEvent(one, steps)


@released.register(Shuffle)
@released.register(BallsInBins)
def _(
    sampling: Shuffle | BallsInBins,
    examples: int,
    noise_multiplier: float,
    steps: int,
    group: int,
) -> dp_accounting.DpEvent:
    """A group may fall into one batch of every pass, which is its worst."""
    passes = -(-steps // sampling.per_epoch(examples))
    return poisson_gaussian(1.0, noise_multiplier / group, passes)


@released.register
def _(
    sampling: Stream, examples: int, noise_multiplier: float, steps: int, group: int
) -> dp_accounting.DpEvent:
    """A group may be in every batch together."""
    return poisson_gaussian(1.0, noise_multiplier / group, steps)


def _single(sampling: Sampler, group: int) -> None:
    if group > 1:
        raise InputError(
            f"no guarantee for a group of {group} is known with {sampling!r}; take Poisson, "
            "Shuffle or BallsInBins, or a group of 1"
        )
