"""Coins for one part of the data after the other."""

import numpy as np
import pytest

from hushgrad.errors import InputError
from hushgrad.sampling import CyclicPoisson


def generator(number: int) -> np.random.Generator:
    return np.random.default_rng([17, number])


@pytest.mark.parametrize(("examples", "cycle"), [(100, 3), (7, 7), (5, 1), (3, 4)])
def test_a_step_draws_from_its_part_alone(examples, cycle):
    everybody = CyclicPoisson(1.0, cycle)
    for step in range(3 * cycle):
        rows = everybody.batch(step, examples, generator)
        np.testing.assert_array_equal(rows, np.arange(examples)[step % cycle :: cycle])


def test_every_row_is_as_likely_in_its_steps():
    """2,000 cycles of 4 with rate 0.3: 600 each, deviation 20.5; five and a half of them."""
    sampler, counts = CyclicPoisson(0.3, 4), np.zeros((4, 50))
    for step in range(8000):
        counts[step % 4, sampler.batch(step, 50, generator)] += 1
    for part in range(4):
        mine = np.arange(50) % 4 == part
        assert abs(counts[part, mine] - 600).max() < 113
        assert not counts[part, ~mine].any()


def test_coins_are_fresh_in_every_cycle():
    sampler = CyclicPoisson(0.5, 2)
    batches = [sampler.batch(step, 400, generator).tolist() for step in (0, 2, 0)]
    assert batches[0] == batches[2] != batches[1]


def test_of_a_data_set():
    sampler = CyclicPoisson.of(1000, 50, 4)
    assert sampler == CyclicPoisson(0.2, 4)
    assert sampler.expected_size(1000) == 50
    with pytest.raises(InputError, match=r"batch_size must be at most examples / cycle = 250"):
        CyclicPoisson.of(1000, 251, 4)
    for cycle in (0, 1.5, True, "3"):
        with pytest.raises(InputError, match="cycle"):
            CyclicPoisson(0.1, cycle)
    with pytest.raises(InputError, match="rate"):
        CyclicPoisson(0.0, 2)
