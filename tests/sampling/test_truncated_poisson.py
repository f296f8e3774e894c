"""Poisson samples with a ceiling: everybody drawn is as likely to be kept."""

import numpy as np
import pytest
from scipy import stats

from hushgrad.errors import InputError
from hushgrad.sampling import Poisson, TruncatedPoisson


def generator(number: int) -> np.random.Generator:
    return np.random.default_rng([13, number])


def test_no_batch_is_larger_and_small_ones_are_poissons():
    sampler = TruncatedPoisson(0.1, 11)
    cut = 0
    for step in range(300):
        whole = Poisson(0.1).draw(100, generator(step))
        rows = sampler.batch(step, 100, generator)
        assert np.all(np.diff(rows) > 0)
        assert set(rows) <= set(whole)
        assert len(rows) == min(11, len(whole))
        cut += len(whole) > 11
        if len(whole) <= 11:
            np.testing.assert_array_equal(rows, whole)
    assert 50 < cut < 150


def test_everybody_is_as_likely_to_be_kept():
    """4,000 batches of 30 with rate 1/2, cut to 12.

    One is kept with probability E[min(12, N)] / 30, N binomial: p = 0.388, 1,553 times, with
    a deviation of at most 31; five and a half of them away at most.
    """
    counts, sampler = np.zeros(30), TruncatedPoisson(0.5, 12)
    for step in range(4000):
        counts[sampler.batch(step, 30, generator)] += 1
    sizes = np.arange(31)
    chance = float(stats.binom.pmf(sizes, 30, 0.5) @ np.minimum(sizes, 12)) / 30
    assert abs(counts - 4000 * chance).max() < 5.5 * 31


def test_where_it_cuts_by_itself():
    sampler = TruncatedPoisson.of(60_000, 256)
    assert sampler.rate == 256 / 60_000
    over = [stats.binom.sf(sampler.most - n, 60_000, sampler.rate) for n in (0, 1)]
    assert over[0] <= 1e-9 < over[1]
    assert TruncatedPoisson.of(100, 100).most == 100
    assert TruncatedPoisson.of(1000, 10, 30) == TruncatedPoisson(0.01, 30)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "4", None])
def test_cuts_that_are_none(most):
    with pytest.raises(InputError, match="most must be a whole number"):
        TruncatedPoisson(0.1, most)
    with pytest.raises(InputError, match="rate"):
        TruncatedPoisson(1.5, 10)
