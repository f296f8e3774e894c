"""Noise on chosen rows: by statistics, each alarm of probability 1e-6 where all is well.

A count of independent yes-or-no outcomes is binomial, a sum of squared normals chi-square; the
bounds are those distributions' quantiles. Keys are fixed, so a test gives the same each time.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hushgrad import noise
from hushgrad.errors import InputError
from hushgrad.noise.normal import ROW_STREAM

ALARM = 1e-6
ROWS, WIDTH = 2**15, 3


def key_of(number):
    return np.random.default_rng(number).integers(0, 2**32, 8, dtype=np.uint32)


def released(sums, counts, *, key=0, stddev=1.0, counts_stddev=1.0, threshold=0.0, **more):
    adds = noise.sparse(stddev, counts_stddev, threshold, table="table", **more)
    counted = noise.Counted(sums, counts)
    out, chosen = jax.jit(lambda u, k: adds.update(u, adds.init(u), key=k))(counted, key_of(key))
    return jax.tree.map(np.asarray, out), chosen


def table(value, rows=ROWS, width=WIDTH):
    return {"table": jnp.full((rows, width), value), "other": jnp.zeros(50_000)}


def assert_share(hits, share):
    low, high = (
        stats.binom.ppf(ALARM / 2, hits.size, share),
        stats.binom.isf(ALARM / 2, hits.size, share),
    )
    assert low <= hits.sum() <= high, (hits.mean(), share)


def assert_stddev(values, stddev):
    x = np.asarray(values, np.float64).ravel()
    total = ((x / stddev) ** 2).sum()
    assert stats.chi2.ppf(ALARM / 2, x.size) < total < stats.chi2.isf(ALARM / 2, x.size)


@pytest.mark.parametrize(
    ("count", "deviation", "threshold"), [(0.0, 1.0, 1.0), (5.0, 2.0, 4.0), (3.0, 4.0, 6.0)]
)
def test_rows_are_chosen_as_noise_on_their_counts_has_it(count, deviation, threshold):
    """Without noise all or none were chosen; with half of it, another share."""
    out, chosen = released(
        table(7.0),
        jnp.full(ROWS, count),
        counts_stddev=deviation,
        threshold=threshold,
        capacity=ROWS,
    )
    moved = np.any(out["table"] != 0, axis=1)
    assert_share(moved, stats.norm.sf((threshold - count) / deviation))
    assert int(chosen.rows) == moved.sum()
    assert int(chosen.dropped) == 0


def test_a_row_has_gradient_and_noise_or_neither():
    out, _ = released(table(100.0), jnp.zeros(ROWS), stddev=2.5, threshold=0.5, capacity=ROWS)
    moved = np.any(out["table"] != 0, axis=1)
    assert 0 < moved.sum() < ROWS
    # One number of a row without noise would be 100 to the bit.
    assert (out["table"][moved] != 100).all()
    assert_stddev(out["table"][moved] - 100, 2.5)
    assert_stddev(out["other"], 2.5)


def test_who_is_chosen_does_not_depend_on_the_gradients():
    moved = []
    for value in (0.0, 1e6):
        out, _ = released(table(value), jnp.zeros(ROWS), threshold=1.0, capacity=ROWS)
        moved.append(np.any(out["table"] != 0, axis=1))
    np.testing.assert_array_equal(*moved)


def test_rows_have_other_noise_than_their_counts():
    """A row passes if its count's noise is positive; a seat's noise is by its number."""
    out, _ = released(table(0.0, width=1), jnp.zeros(ROWS), capacity=ROWS)
    moved = out["table"][:, 0] != 0
    seats = out["table"][moved, 0]
    correlation = np.corrcoef(seats, moved[: len(seats)])[0, 1]
    # That of independent samples, times the root of their number, is close to standard normal.
    assert abs(correlation) < stats.norm.isf(ALARM / 2) / math.sqrt(len(seats))


def test_and_than_other_parameters_and_other_steps():
    sums = {"other": jnp.zeros((2**14, 1)), "table": jnp.zeros((2**14, 1))}
    all_of_them = {"threshold": -100.0, "capacity": 2**14}
    one, _ = released(sums, jnp.zeros(2**14), **all_of_them)
    two, _ = released(sums, jnp.zeros(2**14), key=1, **all_of_them)
    for a, b in ((one["table"], one["other"]), (one["table"], two["table"])):
        correlation = np.corrcoef(a[:, 0], b[:, 0])[0, 1]
        assert abs(correlation) < stats.norm.isf(ALARM / 2) / 2**7


def test_the_counts_stream_is_no_parameters():
    assert ROW_STREAM not in (noise.COUNT_STREAM, *range(10**6))


def test_no_more_rows_than_there_is_room_for_and_those_with_the_highest_counts():
    counts = jnp.asarray(np.random.default_rng(0).permutation(ROWS).astype(np.float32))
    out, chosen = released(
        table(1.0), counts, counts_stddev=1e-3, threshold=ROWS - 100.5, capacity=10
    )
    moved = np.any(out["table"] != 0, axis=1)
    np.testing.assert_array_equal(np.sort(np.asarray(counts)[moved]), np.arange(ROWS - 10, ROWS))
    assert (int(chosen.rows), int(chosen.dropped)) == (10, 90)


def test_room_is_an_eighth_by_default_and_a_thousand_at_least():
    for rows, room in ((ROWS, ROWS // 8), (2_000, 1_024), (100, 100)):
        _, chosen = released(table(0.0, rows), jnp.zeros(rows), threshold=-100.0)
        # Ties at the raised threshold are left out; noise has hardly any.
        assert room - 2 <= int(chosen.rows) <= room
        assert int(chosen.rows) + int(chosen.dropped) == rows


def test_noise_is_drawn_for_chosen_rows_alone(monkeypatch):
    drawn = []
    made = noise.sparse.__globals__["standard_normals"]

    def standard_normals(key, wanted, draw=0):
        drawn.extend(math.prod(one.shape) for one in wanted)
        return made(key, wanted, draw)

    monkeypatch.setitem(noise.sparse.__globals__, "standard_normals", standard_normals)
    released(table(0.0), jnp.zeros(ROWS), capacity=40)
    assert sorted(drawn) == [40 * WIDTH, ROWS, 50_000]


def test_the_counts_may_stand_inside_a_larger_tree():
    """As where an audit adds coordinates of its own."""
    adds = noise.sparse(1.0, 1.0, -100.0, table="table", capacity=ROWS)
    tree = (noise.Counted(table(0.0), jnp.zeros(ROWS)), jnp.zeros(1_000))
    (inner, canaries), _ = adds.update(tree, adds.init(tree), key=key_of(0))
    assert inner.keys() == {"table", "other"}
    assert_stddev(canaries, 1.0)
    assert_stddev(inner["table"], 1.0)


def test_narrow_tables_come_back_wide():
    out, _ = released(
        {"table": jnp.zeros((ROWS, 2), jnp.bfloat16), "n": jnp.arange(3)},
        jnp.zeros(ROWS),
        threshold=-100.0,
        capacity=ROWS,
    )
    assert out["table"].dtype == np.float32
    assert_stddev(out["table"], 1.0)
    np.testing.assert_array_equal(out["n"], np.arange(3))


def test_tables_of_any_shape():
    for shape in ((6,), (6, 2, 2), (1, 3)):
        out, chosen = released({"table": jnp.ones(shape)}, jnp.full(shape[0], 100.0))
        assert out["table"].shape == shape
        assert (out["table"] != 1).all()
        assert int(chosen.rows) == shape[0]


@pytest.mark.parametrize(
    ("updates", "match"),
    [
        (table(0.0), "must hold one hg.noise.Counted.*got 0"),
        (noise.Counted({"rows": jnp.zeros((4, 2))}, jnp.zeros(4)), "table must be one of rows"),
        (noise.Counted({"table": jnp.zeros((4, 2))}, jnp.zeros(5)), "one for each row"),
        (noise.Counted({"table": jnp.zeros(())}, jnp.zeros(())), "one for each row"),
        (noise.Counted({"table": jnp.zeros(4, int)}, jnp.zeros(4)), "one for each row"),
    ],
)
def test_a_sum_without_its_counts_is_refused(updates, match):
    adds = noise.sparse(1.0, 1.0, 1.0, table="table")
    with pytest.raises(InputError, match=match):
        adds.update(updates, adds.init(updates), key=key_of(0))


def test_wrong_numbers_are_refused():
    for arguments in ((0.0, 1.0), (1.0, 0.0), (1.0, math.nan)):
        with pytest.raises(InputError, match="stddev"):
            noise.sparse(*arguments, 1.0, table="table")
    with pytest.raises(InputError, match="capacity"):
        noise.sparse(1.0, 1.0, 1.0, table="table", capacity=0)
    counted, adds = noise.Counted(table(0.0), jnp.zeros(ROWS)), noise.sparse(1, 1, 1, table="table")
    with pytest.raises(InputError, match="key is missing"):
        adds.update(counted, adds.init(counted))


@pytest.mark.parametrize("ratio", [0.1, 1.0, 2.0, 7.3])
@pytest.mark.parametrize("z", [0.3, 1.0, 1.1])
def test_the_two_noises_make_one(z, ratio):
    strategy = noise.Sparse("table", ratio=ratio)
    rows = strategy.sum_noise_multiplier(z)
    counts = ratio * rows
    assert rows**-2 + counts**-2 == pytest.approx(z**-2, rel=1e-12)
    assert rows**-2 + counts**-2 <= z**-2 * (1 + 1e-15)
    assert strategy.variances(3)[-1] * z**2 == pytest.approx(3 * rows**2)


def test_the_strategys_noise_is_in_the_clips_and_the_examples_units():
    strategy = noise.Sparse("table", ratio=3.0, norm=2.0, threshold=1.5, capacity=ROWS)
    adds = strategy.noise(0.5, 10.0, 1)
    # 3 * 0.5 * 2 = 3 examples of noise, and a threshold of 4.5 of them.
    counted = noise.Counted(table(0.0), jnp.full(ROWS, 3.0))
    out, _ = adds.update(counted, adds.init(counted), key=key_of(0))
    moved = np.any(np.asarray(out["table"]) != 0, axis=1)
    assert_share(moved, stats.norm.sf((4.5 - 3.0) / 3.0))
    assert_stddev(np.asarray(out["table"])[moved], 5.0)


def test_a_strategy_is_plain_data():
    strategy = noise.Sparse("table", threshold=2.0, ratio=0.5, norm=3.0, capacity=7)
    assert noise.from_dict(strategy.to_dict()) == strategy
    assert noise.STRATEGIES["sparse"] is noise.Sparse
    for wrong in (
        {"table": ""},
        {"threshold": math.inf},
        {"ratio": 0},
        {"norm": -1.0},
        {"capacity": 0},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            noise.Sparse(**{"table": "table", **wrong})
