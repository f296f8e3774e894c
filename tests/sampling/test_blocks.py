"""Blocks: the masked rows are the batch, whatever its size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad.errors import InputError
from hushgrad.sampling import Poisson, blocks

ROWS = st.lists(st.integers(0, 10**6), max_size=300, unique=True).map(
    lambda rows: np.array(sorted(rows), np.int64)
)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, block_size=st.integers(1, 70))
def test_masked_rows_are_the_draw(rows, block_size):
    made = list(blocks(rows, block_size))
    for block in made:
        assert block.rows.shape == block.mask.shape == (block_size,)
        assert block.rows.dtype == rows.dtype
        assert block.mask.dtype == bool
    np.testing.assert_array_equal(np.concatenate([b.rows[b.mask] for b in made]), rows)
    assert sum(int(b.mask.sum()) for b in made) == len(rows)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, block_size=st.integers(1, 70))
def test_only_the_last_block_is_padded_and_at_its_end(rows, block_size):
    made = list(blocks(rows, block_size))
    assert len(made) == max(1, -(-len(rows) // block_size))
    assert all(b.mask.all() for b in made[:-1])
    last = made[-1].mask
    assert (last[:-1] >= last[1:]).all()


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, block_size=st.integers(1, 70))
def test_padding_is_a_row_that_every_data_set_has(rows, block_size):
    for block in blocks(rows, block_size):
        assert (block.rows[~block.mask] == 0).all()


@pytest.mark.parametrize("block_size", [1, 64])
def test_an_empty_batch_is_one_block_that_counts_nobody(block_size):
    (block,) = blocks(np.array([], np.int64), block_size)
    assert block.rows.tolist() == [0] * block_size
    assert block.mask.tolist() == [False] * block_size


@pytest.mark.parametrize(("drawn", "expected"), [(7, 1), (8, 1), (9, 2), (16, 2)])
def test_a_batch_that_just_fits(drawn, expected):
    made = list(blocks(np.arange(drawn), 8))
    assert len(made) == expected
    assert [int(b.mask.sum()) for b in made] == ([drawn] if expected == 1 else [8, drawn - 8])


def test_the_batch_is_not_written_to():
    rows = np.arange(5)
    rows.flags.writeable = False
    first, second = blocks(rows, 4)
    first.rows[:] = 9
    second.rows[:] = 9
    assert rows.tolist() == [0, 1, 2, 3, 4]


def test_a_poisson_draw_comes_through():
    rows = Poisson(0.2).draw(1000, np.random.default_rng(1))
    together = np.concatenate([b.rows[b.mask] for b in blocks(rows, 64)])
    np.testing.assert_array_equal(together, rows)


@pytest.mark.parametrize("block_size", [0, -1, 1.5, True, "8", None])
def test_sizes_that_are_none(block_size):
    with pytest.raises(InputError, match=r"^block_size must be a whole number") as caught:
        list(blocks(np.arange(3), block_size))
    assert repr(block_size) in str(caught.value)
