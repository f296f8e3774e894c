"""Bounds that are read off a noisy histogram: what they hold, and what they do not tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushgrad.summaries import Counts, Histograms, Noisy, bounds_of, survey
from hushgrad.summaries.bounds import _edges, cells

CELLS = len(cells(np.zeros(0)))


@given(st.floats(allow_nan=False))
def test_a_value_is_in_one_cell_between_its_edges(value):
    (cell,) = np.flatnonzero(cells(np.array([value])))
    low, high = _edges(int(cell))
    if abs(value) < 2.0**-20:
        assert low == high == 0
    elif abs(value) <= 2.0**63:
        assert low <= value <= high
        assert max(abs(low), abs(high)) <= max(1.2 * min(abs(low), abs(high)), 2.0**-20)
    else:
        assert abs(low if value < 0 else high) == 2.0**63


def test_nan_is_in_no_cell():
    assert cells(np.array([np.nan, 1.0])).sum() == 1


def found(values, epsilon=1.0, seed=0):
    h = Histograms.of(examples=len(values), columns=1, epsilon=epsilon, delta=1e-5)
    (result,) = bounds_of(survey([Counts.of_numbers(values)], h, seed=seed))
    return result


@pytest.mark.parametrize(
    ("low", "high"), [(17, 90), (0, 1), (-3, 3), (-200, -100), (1e6, 1e9), (0, 1e-4)]
)
def test_they_hold_nearly_all_values_and_little_more(low, high):
    values = np.random.default_rng(0).uniform(low, high, 20_000)
    result = found(values)
    assert result.found
    assert np.mean((values >= result.low) & (values <= result.high)) > 0.99
    assert result.high - result.low < 1.5 * (high - low) + 1e-6


def test_zeros_and_ones_are_bounded_by_zero_and_one():
    assert found(np.arange(1000) % 2.0)[:2] == (0.0, 1.0)
    assert found(np.zeros(1000))[:2] == (0.0, 1.0)


def test_one_record_moves_nothing_however_far_it_is():
    """The bounds of the records would follow it."""
    values = np.random.default_rng(0).uniform(17, 90, 5000)
    for far in (1e12, -1e12):
        assert found(np.append(values, far)) == found(np.append(values, 50.0))


def test_where_noise_hides_all_it_is_said():
    result = found(np.random.default_rng(0).uniform(17, 90, 20), epsilon=0.01)
    assert result == (-1.0, 1.0, False)


def test_noise_alone_is_seldom_taken_for_records():
    """One column in a thousand; more than 12 of 2,000 happen for one seed in 10^6."""
    rng = np.random.default_rng(0)
    columns = [Noisy(rng.normal(0, 50, CELLS), {}, 50.0) for _ in range(2000)]
    assert sum(result.found for result in bounds_of(columns)) <= 12
