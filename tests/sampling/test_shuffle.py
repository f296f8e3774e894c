"""Shuffled epochs: everybody once in every pass, in an order nobody knows."""

import numpy as np
import pytest

from hushgrad.errors import InputError
from hushgrad.sampling import Shuffle


def generator(number: int) -> np.random.Generator:
    return np.random.default_rng([7, number])


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 3), (12, 4), (5, 5), (7, 1), (4, 9)])
def test_every_example_is_in_every_pass_once(examples, batch_size):
    sampler = Shuffle(batch_size)
    steps = sampler.per_epoch(examples)
    for epoch in range(3):
        batches = [sampler.batch(epoch * steps + i, examples, generator) for i in range(steps)]
        assert [len(b) for b in batches[:-1]] == [batch_size] * (steps - 1)
        assert all(np.all(np.diff(b) > 0) for b in batches)
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(examples))


def test_passes_differ_and_a_step_repeats_itself():
    sampler = Shuffle(50)
    first = [sampler.batch(step, 1000, generator).tolist() for step in range(40)]
    assert first == [sampler.batch(step, 1000, generator).tolist() for step in range(40)]
    assert first[0] != first[20]
    passes = [sorted(row for batch in part for row in batch) for part in (first[:20], first[20:])]
    assert passes == [list(range(1000))] * 2


def test_chance_comes_from_one_generator_for_each_pass():
    asked = []

    def counted(number):
        asked.append(number)
        return generator(number)

    for step in range(6):
        Shuffle(4).batch(step, 10, counted)
    assert asked == [0, 0, 0, 1, 1, 1]


def test_every_example_is_as_likely_in_a_batch():
    """2,000 passes; the first batch of 10 in 50: 400 each, 5.5 deviations of 17.9 away at most."""
    counts = np.zeros(50)
    for epoch in range(2000):
        counts[Shuffle(10).batch(5 * epoch, 50, generator)] += 1
    assert abs(counts - 400).max() < 99


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "4"])
def test_batch_sizes_that_are_none(batch_size):
    with pytest.raises(InputError, match="batch_size must be a whole number"):
        Shuffle(batch_size)
