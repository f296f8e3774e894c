"""Poisson sampling: every example by its own coin, in every step anew.

The generators are seeded, so these tests always give the same answer. Each bound
is one that true Poisson samples would miss with probability `ALARM` or less.
"""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hushgrad.errors import InputError
from hushgrad.sampling import Poisson

ALARM = 1e-6
# Above a rate of 1/3 numpy draws geometric numbers in another way.
RATES = [0.002, 0.05, 0.3, 0.4, 0.9]


@functools.cache
def joined(rate: float, examples: int = 400, steps: int = 4000) -> np.ndarray:
    """Who joined which step, bool[steps, examples], from one generator."""
    rng, sampler = np.random.default_rng(20_240_229), Poisson(rate)
    out = np.zeros((steps, examples), bool)
    for row in out:
        row[sampler.draw(examples, rng)] = True
    out.flags.writeable = False
    return out


def assert_binomial(counts: np.ndarray | int, trials: int, chance: float) -> None:
    """Each count is Binomial(trials, chance); the alarm is shared among them (Bonferroni)."""
    counts = np.atleast_1d(counts)
    alarm = ALARM / counts.size / 2
    low, high = stats.binom.ppf(alarm, trials, chance), stats.binom.isf(alarm, trials, chance)
    assert low <= counts.min(), (counts.min(), low)
    assert counts.max() <= high, (counts.max(), high)


@pytest.mark.parametrize("rate", RATES)
def test_the_inclusion_rate_is_the_rate(rate):
    # Of 1.6 million coins: a rate that is off by 10% is off by at least 5.6 standard deviations.
    x = joined(rate)
    assert_binomial(x.sum(), x.size, rate)


@pytest.mark.parametrize("rate", RATES)
def test_every_example_has_that_rate_the_first_and_the_last_too(rate):
    x = joined(rate)
    assert_binomial(x.sum(axis=0), len(x), rate)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.4])
def test_examples_are_independent_pairwise(rate):
    x = joined(rate).astype(np.float32)
    together = (x.T @ x)[np.triu_indices(x.shape[1], k=1)]
    assert_binomial(together, len(x), rate**2)


@pytest.mark.parametrize("distance", [1, 2, 7, 50, 200])
def test_neighbours_join_together_as_often_as_strangers(distance):
    """All disjoint pairs at one distance pooled: a sharper test of the pairs."""
    x = joined(0.05)
    first = [i for i in range(400 - distance) if (i // distance) % 2 == 0]
    pairs = x[:, first] & x[:, np.array(first) + distance]
    assert_binomial(pairs.sum(), pairs.size, 0.05**2)


@pytest.mark.parametrize("distance", [1, 2, 10])
def test_steps_are_independent(distance):
    x = joined(0.05)
    first = [t for t in range(len(x) - distance) if (t // distance) % 2 == 0]
    pairs = x[first] & x[np.array(first) + distance]
    assert_binomial(pairs.sum(), pairs.size, 0.05**2)


@pytest.mark.parametrize("rate", RATES)
def test_batch_sizes_have_the_binomial_variance(rate):
    x = joined(rate)
    sizes = x.sum(axis=1)
    steps, examples = x.shape
    variance = examples * rate * (1 - rate)
    excess = (1 - 6 * rate * (1 - rate)) / variance
    # The variance of a sample variance (Cramer 1946), taken as normal: 4000 draws.
    spread = variance * np.sqrt(2 / (steps - 1) + excess / steps)
    assert abs(sizes.var(ddof=1) - variance) <= stats.norm.isf(ALARM / 2) * spread


@pytest.mark.parametrize("rate", RATES)
def test_batch_sizes_are_binomial(rate):
    """Pearson's chi-square over sizes, grouped so that each group expects at least 50."""
    x = joined(rate)
    sizes, (steps, examples) = x.sum(axis=1), x.shape
    expected = steps * stats.binom.pmf(np.arange(examples + 1), examples, rate)
    seen = np.bincount(sizes, minlength=examples + 1)
    groups, total = np.zeros(examples + 1, int), 0.0
    for size in range(examples):
        total += expected[size]
        full = total >= 50 and expected[size + 1 :].sum() >= 50
        groups[size + 1] = groups[size] + full
        total *= not full
    want = np.bincount(groups, expected)
    statistic = ((np.bincount(groups, seen) - want) ** 2 / want).sum()
    assert len(want) > 2
    assert statistic <= stats.chi2.isf(ALARM, len(want) - 1)


@pytest.mark.parametrize("rate", [1, 1.0, np.float64(1)])
def test_rate_one_takes_everyone(rate):
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(Poisson(rate).draw(17, rng), np.arange(17))


def test_at_a_tiny_rate_empty_batches_are_ordinary():
    sampler, rng = Poisson(1e-3), np.random.default_rng(5)
    drawn = [sampler.draw(1000, rng) for _ in range(3000)]
    assert_binomial(sum(len(rows) == 0 for rows in drawn), 3000, (1 - 1e-3) ** 1000)
    empty = next(rows for rows in drawn if len(rows) == 0)
    assert empty.shape == (0,)
    assert np.issubdtype(empty.dtype, np.integer)


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e-19, 1e-12])
def test_gaps_beyond_the_largest_integer_do_not_wrap_around(rate):
    for seed in range(20):
        assert len(Poisson(rate).draw(60_000, np.random.default_rng(seed))) == 0


def test_a_billion_examples_cost_no_more_than_their_batch():
    rows = Poisson(1e-7).draw(1_000_000_000, np.random.default_rng(3))
    assert_binomial(len(rows), 1_000_000_000, 1e-7)
    assert rows[0] >= 0
    assert rows[-1] < 1_000_000_000
    assert (np.diff(rows) > 0).all()


@settings(max_examples=200, deadline=None)
@given(
    examples=st.integers(1, 5000),
    rate=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**32),
)
def test_rows_are_sorted_distinct_and_in_range(examples, rate, seed):
    rows = Poisson(rate).draw(examples, np.random.default_rng(seed))
    assert np.issubdtype(rows.dtype, np.integer)
    assert rows.ndim == 1
    assert (np.diff(rows) > 0).all()
    assert ((rows >= 0) & (rows < examples)).all()


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 2000),
    rate=st.floats(1e-4, 1),
    seed=st.integers(0, 2**32),
)
def test_a_draw_is_a_function_of_the_generator(examples, rate, seed):
    np.random.seed(seed % 2**32)
    one, two = np.random.default_rng(seed), np.random.default_rng(seed)
    first = Poisson(rate).draw(examples, one)
    np.random.seed(0)
    np.testing.assert_array_equal(first, Poisson(rate).draw(examples, two))
    assert one.bit_generator.state == two.bit_generator.state


def test_another_generator_draws_other_rows():
    seen = {tuple(Poisson(0.1).draw(1000, np.random.default_rng(seed))) for seed in range(50)}
    assert len(seen) == 50


def test_a_batch_far_larger_than_expected_is_drawn_whole():
    class Greedy:
        """Every coin falls on the same side: all gaps are 1."""

        def geometric(self, rate, size):
            return np.ones(size, np.int64)

    rows = Poisson(0.001).draw(10_000, Greedy())  # pyright: ignore
    np.testing.assert_array_equal(rows, np.arange(10_000))


def test_the_rate_is_the_sampling_rate():
    sampler = Poisson(0.25)
    assert sampler.expected_size(100) == 100 * sampler.rate == 25
    assert sampler == Poisson(np.float32(0.25))
    assert hash(sampler) == hash(Poisson(0.25))


@pytest.mark.parametrize("rate", [0, -0.1, 1.0000001, 2, np.nan, np.inf, True, "0.1", None])
def test_rates_that_are_no_probability(rate):
    with pytest.raises(InputError, match=r"^rate ") as caught:
        Poisson(rate)
    assert repr(rate) in str(caught.value)


@pytest.mark.parametrize("examples", [0, -1, 2.5, True, None, np.nan])
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_numbers_of_examples_that_are_none(examples, rate):
    with pytest.raises(InputError, match=r"^examples must be a whole number") as caught:
        Poisson(rate).draw(examples, np.random.default_rng(0))
    assert repr(examples) in str(caught.value)
