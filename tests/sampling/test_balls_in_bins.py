"""Balls in bins: once in every pass, each by itself."""

import numpy as np
import pytest

from hushgrad.errors import InputError
from hushgrad.sampling import BallsInBins


def generator(number: int) -> np.random.Generator:
    return np.random.default_rng([13, number])


@pytest.mark.parametrize(("examples", "bins"), [(10, 3), (5, 5), (3, 8), (1000, 1)])
def test_every_example_is_in_every_pass_once(examples, bins):
    for epoch in range(3):
        batches = [
            BallsInBins(bins).batch(epoch * bins + i, examples, generator) for i in range(bins)
        ]
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(examples))


def test_nobody_depends_on_how_many_others_there_are():
    """One example more, at the end, changes nobody's batch: so presence can be hidden."""
    for step in range(12):
        fewer = BallsInBins(6).batch(step, 100, generator)
        more = BallsInBins(6).batch(step, 101, generator)
        np.testing.assert_array_equal(more[more < 100], fewer)


def test_every_batch_is_as_likely():
    """600 passes of 50 in 5 bins: 6,000 for each bin, deviation 69; 5.5 of them."""
    sizes = np.zeros(5)
    for step in range(3000):
        sizes[step % 5] += len(BallsInBins(5).batch(step, 50, generator))
    assert sizes.sum() == 30_000
    assert abs(sizes - 6000).max() < 381


def test_the_batch_size_decides_the_bins():
    assert BallsInBins.of(100, 10).bins == 10
    assert BallsInBins.of(101, 10).bins == 11


@pytest.mark.parametrize("bins", [0, -1, 1.5, True, "4"])
def test_bins_that_are_none(bins):
    with pytest.raises(InputError, match="bins must be a whole number"):
        BallsInBins(bins)
