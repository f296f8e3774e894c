"""From what users say to a mechanism: DP-SGD, DP-FTRL and matrix factorisation."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable

import dp_accounting

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.clip import Rule, as_rule
from hushgrad.costs import participation, released
from hushgrad.errors import InputError
from hushgrad.mechanism import Mechanism, group_of
from hushgrad.noise import (
    STRATEGIES,
    Banded,
    Independent,
    Spaced,
    Sparse,
    Strategy,
    Toeplitz,
    Tree,
    Workload,
)
from hushgrad.sampling import SAMPLERS, CheckIn, CyclicPoisson, Poisson, Sampler, Shuffle

__all__ = ["dp_adafest", "dp_banded", "dp_ftrl", "dp_sgd", "planned"]

_INDEPENDENT, _TREE = Independent(), Tree()
# More bands than this are not looked at: each costs the memory of the parameters.
_MOST_BANDS = 32


def dp_sgd(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    clip: float | Rule = 1.0,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    sampling: type[Sampler] | Sampler = Poisson,
    unit: str = "example",
) -> Mechanism:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133).

    ```python
    m = hg.dp_sgd(examples=60_000, batch_size=256, epochs=60, clip=1.0, delta=1e-5, epsilon=3.0)
    ```

    Formal guarantee: the sequence of all `steps` noisy sums, and whatever is computed from
    them, is (epsilon, delta)-differentially private under the sampler's neighbouring relation.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm, or a rule from `hushgrad.clip`.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: noise over the clip's sensitivity, in place of `epsilon`.
      sampling: a sampler of `hushgrad.sampling`, or one made for these examples.
      unit: "example", "user" (`examples` and `batch_size` count users) or "group of 4".

    Raises:
      InputError: if an argument is out of range, not exactly one of each pair is
        given, or an adaptive clip's count has too little noise beside the sum's.

    Warns: if delta is above 1 / examples.
    """
    return planned(
        examples,
        batch_size,
        (epochs, steps),
        clip,
        delta,
        functools.partial(_noise, epsilon, noise_multiplier, delta),
        sampling,
        _INDEPENDENT,
        unit,
    )


def dp_ftrl(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    clip: float | Rule = 1.0,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    sampling: type[Sampler] | Sampler | None = None,
    min_separation: int | None = None,
    max_participations: int | None = None,
    strategy: type[Strategy] | Strategy = _TREE,
) -> Mechanism:
    """DP-FTRL (Kairouz et al. 2021, arXiv 2103.00039): noise that cancels between steps.

    ```python
    m = hg.dp_ftrl(examples=60_000, batch_size=500, epochs=20, clip=1.0, delta=1e-5, epsilon=3.0)
    m = hg.dp_ftrl(examples=60_000, batch_size=500, epochs=20, clip=1.0, delta=1e-5, epsilon=3.0,
                   sampling=hg.sampling.InOrder, strategy=hg.noise.BLT)
    ```

    For data that cannot be sampled at random: the noise of a sum over many steps grows with
    their logarithm, and needs no amplification by sampling. Where Poisson sampling can be
    had, `dp_sgd` and `dp_banded` are most often better at small epsilon; `hushgrad plan
    --compare` says for which.

    Formal guarantee: as `dp_sgd`'s, under the sampler's neighbouring relation. What is charged
    is the exact cost of one Gaussian mechanism over all steps, for the worst steps in which an
    example may take part with this sampler (for matrices over shuffled passes, a bound on the
    worst); amplified as in `dp_banded` where the sampler is
    `CyclicPoisson` and the strategy has no more bands than its cycle.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm, or a rule of `hushgrad.clip` that stays.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: of one draw over the clip's sensitivity, in place of `epsilon`.
      sampling: `Shuffle` (the default), `InOrder`, `BallsInBins`, `CyclicPoisson`, `CheckIn`, or
        one made for these examples.
      min_separation: least number of steps from one that somebody takes part in to their next,
        for cohorts that are given: in place of `sampling`, for `CheckIn`.
      max_participations: most steps that anybody takes part in; as `min_separation`.
      strategy: of `hushgrad.noise`: one tree by default; or a kind, such as `hg.noise.BLT`, of
        which the best for these steps is found.

    Raises:
      InputError: as `dp_sgd`; or if the sampler leaves it to chance when an example takes part,
        the clip moves, both a sampler and its rules are given, or bands are to be found for a
        noise multiplier.

    Warns: if delta is above 1 / examples.
    """
    if sampling is CyclicPoisson and strategy is Banded and noise_multiplier is not None:
        raise InputError(
            "sampling must say its cycle with a noise multiplier: how many bands are the best "
            "depends on epsilon; take hg.sampling.CyclicPoisson(rate, cycle)"
        )
    if min_separation is not None or max_participations is not None:
        if sampling is not None:
            raise InputError(
                "give sampling or the rules of who comes when (min_separation, "
                f"max_participations), not both; got sampling={sampling!r}"
            )
        sampling = CheckIn(
            batch_size,
            min_separation=1 if min_separation is None else min_separation,
            max_participations=max_participations,
        )
    return planned(
        examples,
        batch_size,
        (epochs, steps),
        clip,
        delta,
        functools.partial(_noise, epsilon, noise_multiplier, delta),
        Shuffle if sampling is None else sampling,
        strategy,
        "example",
    )


def dp_banded(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    clip: float | Rule = 1.0,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    bands: int | None = None,
    workload: Workload | None = None,
) -> Mechanism:
    """Banded matrix factorisation with sampling (Choquette-Choo et al. 2023, arXiv 2306.08153).

    ```python
    m = hg.dp_banded(examples=60_000, batch_size=500, epochs=20, clip=1.0, delta=1e-5, epsilon=3.0)
    ```

    The noises of `bands` steps in a row cancel each other, and batches are drawn by coins from
    one of `bands` parts of the data after the other (`hg.sampling.CyclicPoisson`), so both help:
    few bands are `dp_sgd`, many are `dp_ftrl`, and the best of both lies between.

    Formal guarantee: as `dp_sgd`'s, for examples that leave an empty place ("replace-special"):
    columns of the matrix that lie `bands` apart have no row in common, so an example is in one
    sampled Gaussian mechanism per cycle (theorem 4 there), each with the rate of the cyclic
    sampler, `batch_size * bands / examples`. Others are not told apart by more.

    Args:
      examples: number of examples, a public fact.
      batch_size: expected batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm, or a rule of `hushgrad.clip` that stays.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: of one draw over the clip's sensitivity, in place of `epsilon`.
      bands: of the matrix, and parts of the data; by default the power of two up to 32 that
        has the least noise in the sums of gradients at this epsilon.
      workload: what the noise is kept small for: sums of gradients by default, or the parameters
        of SGD with momentum and a learning rate that cools down.

    Raises:
      InputError: as `dp_sgd`; or if bands are to be found for a noise multiplier, the clip
        moves, or the data are fewer than `bands` batches.

    Warns: if delta is above 1 / examples.
    """
    sampling, strategy = CyclicPoisson, Banded
    if bands is None and noise_multiplier is not None:
        raise InputError(
            "bands must be given with a noise multiplier: which are the best depends on epsilon; "
            "got bands=None"
        )
    if bands is not None or workload is not None:
        examples, batch_size = whole("examples", examples), whole("batch_size", batch_size)
        count = _steps(examples, batch_size, epochs, steps)
        if bands is None:
            assert epsilon is not None
            find = functools.partial(_noise, epsilon, None, fraction("delta", delta))
            bands = _best_bands(examples, batch_size, count, find)
        bands = min(whole("bands", bands), count)
        sampling = CyclicPoisson.of(examples, batch_size, bands)
        strategy = Banded.of(count, bands, workload)
    return planned(
        examples,
        batch_size,
        (epochs, steps),
        clip,
        delta,
        functools.partial(_noise, epsilon, noise_multiplier, delta),
        sampling,
        strategy,
        "example",
    )


def dp_adafest(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    clip: float | Rule = 1.0,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    strategy: Sparse,
    sampling: type[Sampler] | Sampler = Poisson,
    unit: str = "example",
) -> Mechanism:
    """DP-AdaFEST (Ghazi et al. 2023, arXiv 2311.08357): few rows of a large table move per step.

    ```python
    m = hg.dp_adafest(examples=60_000, batch_size=1024, epochs=10, clip=1.0, delta=1e-6,
                      epsilon=3.0, strategy=hg.noise.Sparse("embedding"))
    ```

    Each step chooses by noisy counts which rows of an embedding get a gradient and noise; all
    others stay as they are, and no noise is drawn for them. `hg.train` has the counts from
    the loss itself. What does not choose, `dp_sgd`, moves all rows in each step.

    Formal guarantee: as `dp_sgd`'s, for counts and gradients together: see
    `hushgrad.noise.Sparse`. Parameters tell which rows were chosen; that is accounted for.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm by all parameters, or a rule from `hushgrad.clip`.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: of counts and gradients together, in place of `epsilon`.
      strategy: which table, and how rows are chosen. The vocabulary must be public (such as
        words hashed to so many rows), or paid for.
      sampling: a sampler of `hushgrad.sampling`, or one made for these examples.
      unit: as `dp_sgd`'s.

    Raises:
      InputError: as `dp_sgd`; or if the strategy is another.

    Warns: if delta is above 1 / examples.
    """
    if not isinstance(strategy, Sparse):
        raise InputError(f"strategy must be hg.noise.Sparse('embedding'), got {strategy!r}")
    return planned(
        examples,
        batch_size,
        (epochs, steps),
        clip,
        delta,
        functools.partial(_noise, epsilon, noise_multiplier, delta),
        sampling,
        strategy,
        unit,
    )


def planned(
    examples: int,
    batch_size: int,
    length: tuple[float | None, int | None],
    clip: float | Rule,
    delta: float,
    noise: Callable[[str, Callable[[float], dp_accounting.DpEvent]], float],
    sampling: type[Sampler] | Sampler,
    strategy: type[Strategy] | Strategy,
    unit: str,
) -> Mechanism:
    """A mechanism from what users say.

    The length is epochs or steps, the other one None; `noise` gives the noise multiplier from
    the neighbouring relation and from what would be released with any one. Of a kind of sampler
    or strategy, the one that suits the rest is taken.
    """
    examples, batch_size = whole("examples", examples), whole("batch_size", batch_size)
    if batch_size > examples:
        raise InputError(
            f"batch_size must be at most the number of examples, got batch_size={batch_size} "
            f"for {examples} examples"
        )
    steps, group = _steps(examples, batch_size, *length), group_of(unit)
    clip = as_rule(clip).for_batch(batch_size)
    delta = _delta(delta, examples)
    if sampling is CyclicPoisson and strategy is Banded:
        bands = _best_bands(examples, batch_size, steps, noise)
        sampling = CyclicPoisson.of(examples, batch_size, bands)
    drawn = _drawn(sampling, examples, batch_size)
    strategy = _found(strategy, drawn, examples, steps)
    noise_multiplier = noise(
        drawn.neighbouring_relation,
        lambda z: released(drawn, strategy, examples, z, steps, group),
    )
    return Mechanism(
        examples=examples,
        batch_size=batch_size,
        sampling=drawn,
        clip=clip,
        noise_multiplier=noise_multiplier,
        steps=steps,
        delta=delta,
        unit=unit,
        strategy=strategy,
    )


def _drawn(sampling: type[Sampler] | Sampler, examples: int, batch_size: int) -> Sampler:
    if sampling in SAMPLERS:
        return sampling.of(examples, batch_size)
    if not isinstance(sampling, SAMPLERS):
        raise InputError(f"sampling must be a sampler of hushgrad.sampling, got {sampling!r}")
    expected = sampling.expected_size(examples)
    if abs(expected - batch_size) > max(1.0, 0.01 * batch_size):
        raise InputError(
            f"batch_size must be what {sampling!r} draws of {examples} examples, {expected:g}, "
            f"got {batch_size}"
        )
    return sampling


def _found(
    strategy: type[Strategy] | Strategy, sampling: Sampler, examples: int, steps: int
) -> Strategy:
    kinds = tuple(STRATEGIES.values())
    if isinstance(strategy, kinds):
        return strategy
    if strategy not in kinds:
        raise InputError(f"strategy must be one of hushgrad.noise or its kind, got {strategy!r}")
    if not strategy.correlated:
        return strategy.for_run(steps, Spaced(1, 1), Workload())
    return strategy.for_run(steps, participation(sampling, examples, steps), Workload())


def _best_bands(
    examples: int,
    batch_size: int,
    steps: int,
    noise: Callable[[str, Callable[[float], dp_accounting.DpEvent]], float],
) -> int:
    """With the least noise in the sums of gradients; by Toeplitz matrices, which come close."""
    most, least, best = min(_MOST_BANDS, steps, examples // batch_size), math.inf, 1
    for bands in (2**n for n in range(most.bit_length())):
        sampling = CyclicPoisson.of(examples, batch_size, bands)
        strategy = Toeplitz.of(steps, bands)
        found = noise(
            sampling.neighbouring_relation,
            lambda z, s=sampling, k=strategy: released(s, k, examples, z, steps, 1),
        )
        error = found * math.sqrt(strategy.variances(steps).mean())
        if error > least:
            break  # more bands, with more in a batch's part, only do worse from here
        least, best = error, bands
    return best


def _delta(delta: float, examples: int) -> float:
    delta = fraction("delta", delta)
    if delta > 1 / examples:
        warnings.warn(
            f"delta={delta:g} is above 1/examples = {1 / examples:.3g}: a mechanism that "
            "publishes one record at random would pass; choose a smaller delta",
            stacklevel=4,
        )
    return delta


def _steps(examples: int, batch_size: int, epochs: float | None, steps: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise InputError(f"give one of epochs and steps, got epochs={epochs!r}, steps={steps!r}")
    if epochs is None:
        return whole("steps", steps)
    return accounting.whole_steps(examples, batch_size, positive("epochs", epochs))


def _noise(
    epsilon: float | None,
    noise_multiplier: float | None,
    delta: float,
    relation: str,
    event: Callable[[float], dp_accounting.DpEvent],
) -> float:
    if (epsilon is None) == (noise_multiplier is None):
        raise InputError(
            "give one of epsilon and noise_multiplier, got "
            f"epsilon={epsilon!r}, noise_multiplier={noise_multiplier!r}"
        )
    if noise_multiplier is not None:
        return positive("noise_multiplier", noise_multiplier)
    return accounting.smallest_noise(event, positive("epsilon", epsilon), delta, relation=relation)
