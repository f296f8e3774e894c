"""Batches of one size: as many different rows as said, each as likely."""

import numpy as np
import pytest

from hushgrad.errors import InputError
from hushgrad.sampling import FixedSize


def generator(number: int) -> np.random.Generator:
    return np.random.default_rng([11, number])


@pytest.mark.parametrize(("examples", "size"), [(10, 3), (7, 7), (1, 1), (100_000, 5)])
def test_a_batch_is_so_many_different_rows(examples, size):
    for step in range(5):
        rows = FixedSize(size).batch(step, examples, generator)
        assert rows.shape == (size,)
        assert np.all(np.diff(rows) > 0)
        assert rows[0] >= 0
        assert rows[-1] < examples


def test_every_row_and_pair_is_as_likely():
    """4,000 batches of 3 in 12: 1,000 each (deviation 27.4), 181.8 a pair (13.2); 5.5 of them."""
    together = np.zeros((12, 12))
    for step in range(4000):
        rows = FixedSize(3).batch(step, 12, generator)
        together[np.ix_(rows, rows)] += 1
    assert abs(np.diag(together) - 1000).max() < 151
    assert abs(together[~np.eye(12, dtype=bool)] - 2000 / 11).max() < 73


def test_a_step_repeats_itself_and_no_other():
    batches = [FixedSize(20).batch(step, 1000, generator).tolist() for step in (0, 1, 0)]
    assert batches[0] == batches[2] != batches[1]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4"])
def test_batch_sizes_that_are_none(size):
    with pytest.raises(InputError, match="batch_size must be a whole number"):
        FixedSize(size)


def test_fewer_examples_than_a_batch():
    with pytest.raises(InputError, match="examples must be at least a batch"):
        FixedSize(5).batch(0, 4, generator)
