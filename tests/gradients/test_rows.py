"""Counts of looked-up rows from the engine, against sets of Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.gradients import RowCounts

ROWS, WORDS = 12, 5
PARAMS = {
    "table": jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, 3)), jnp.float32),
    "out": jnp.ones((3, ROWS)),
}


def taken(params, ids):
    """Out of bounds reads zeros, and is no row."""
    return params["table"].at[ids].get(mode="fill", fill_value=0)


def bag(params, ids, y):
    return jnp.sum(jnp.tanh(taken(params, ids).sum(0)) @ params["out"][:, :2]) * y


def in_turns(params, ids, y):
    def turn(state, i):
        return jnp.tanh(state + params["table"][i]), None

    return jnp.sum(lax.scan(turn, jnp.zeros(3), jnp.clip(ids, 0, ROWS - 1))[0]) * y


def twice(params, ids, y):
    first, last = ids[:2], ids[2:]
    return jnp.sum(taken(params, first).sum(0) * taken(params, last).max(0)) * y


def many(params, ids, y):
    return jax.vmap(lambda i: jnp.sum(jnp.sin(taken(params, i))))(ids).sum() * y


def checkpointed(params, ids, y):
    return jax.checkpoint(lambda p, i: bag(p, i, y))(params, ids)


def wide(params, ids, y):
    return bag({**params, "table": params["table"].astype(jnp.bfloat16)}, ids, y)


def sliced(params, ids, y):
    rows = [lax.dynamic_slice(params["table"], (i, 0), (1, 3)) for i in jnp.clip(ids, 0, ROWS - 1)]
    return jnp.sum(jnp.cos(jnp.concatenate(rows))) * y


def wanted(batch, keep, norm=1.0, clipped=False):
    counts = np.zeros(ROWS)
    for ids, there in zip(np.asarray(batch), keep, strict=True):
        ids = np.clip(ids, 0, ROWS - 1) if clipped else ids
        # Negative numbers count from the end, as everywhere in JAX.
        rows = {int(i) + ROWS * (i < 0) for i in ids if -ROWS <= i < ROWS}
        for row in rows if there else ():
            counts[row] += min(1.0, norm / np.sqrt(len(rows)))
    return counts


def batches():
    row = st.lists(st.integers(-1, ROWS + 1), min_size=WORDS, max_size=WORDS)
    return st.lists(st.tuples(row, st.booleans()), min_size=1, max_size=8)


@functools.cache
def counted(norm):
    """Compiled: the counts of eight examples, by one mask after the other."""
    engine = hg.clipped_grad(bag, 1.0, counts=RowCounts("table", norm))

    def counts(ids, masks):
        ones = jnp.ones(8)
        return jax.vmap(lambda mask: engine(PARAMS, ids, ones, mask=mask).counts)(masks)

    return jax.jit(counts)


@settings(max_examples=30, deadline=None)
@given(batch=batches(), norm=st.sampled_from([0.5, 1.0, 1.5, 10.0]))
def test_each_row_once_for_each_example_that_looks_it_up(batch, norm):
    ids = np.full((8, WORDS), ROWS, np.int32)
    keep = np.zeros(8, bool)
    for number, (row, there) in enumerate(batch):
        ids[number], keep[number] = row, there
    masks = np.vstack([keep, np.eye(8, dtype=bool)])
    counts, *alone = np.asarray(counted(norm)(ids, masks), np.float64)
    np.testing.assert_allclose(counts, wanted(ids, keep, norm), rtol=1e-5, atol=1e-6)
    assert all(np.sum(one**2) <= norm**2 for one in alone)


@pytest.mark.parametrize(
    "loss", [bag, in_turns, twice, many, checkpointed, wide, sliced], ids=lambda f: f.__name__
)
def test_however_the_loss_looks_them_up(loss):
    ids = np.random.default_rng(1).integers(0, ROWS + 2, (6, WORDS)).astype(np.int32)
    keep = np.array([1, 1, 0, 1, 1, 1], bool)
    out = jax.jit(hg.clipped_grad(loss, 1.0, counts=RowCounts("table")))(
        PARAMS, ids, np.ones(6, np.float32), mask=keep
    )
    clipped = loss in (in_turns, sliced)
    np.testing.assert_allclose(out.counts, wanted(ids, keep, clipped=clipped), rtol=1e-5)


def test_a_word_that_is_said_twice_counts_once():
    ids = np.array([[3, 3, 3, 3, 3]], np.int32)
    out = jax.jit(hg.clipped_grad(bag, 1.0, counts=RowCounts("table")))(PARAMS, ids, np.ones(1))
    np.testing.assert_array_equal(out.counts, np.eye(ROWS)[3])


def test_a_gradient_that_is_not_finite_counts_nowhere():
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    out = jax.jit(hg.clipped_grad(bag, 1.0, counts=RowCounts("table")))(
        PARAMS, ids, np.array([1.0, np.nan], np.float32)
    )
    np.testing.assert_allclose(out.counts, wanted(ids, [True, False]), rtol=1e-5)
    assert int(out.nonfinite) == 1


def test_in_chunks_and_the_sums_are_as_without_counts():
    ids = np.random.default_rng(2).integers(0, ROWS, (40, WORDS)).astype(np.int32)
    y = np.ones(40, np.float32)
    plain = jax.jit(hg.clipped_grad(bag, 1.0))(PARAMS, ids, y)
    assert plain.counts is None
    for memory in (None, 2_000):
        engine = hg.clipped_grad(bag, 1.0, memory=memory, counts=RowCounts("table"))
        out = jax.jit(engine)(PARAMS, ids, y)
        np.testing.assert_allclose(out.counts, wanted(ids, [True] * 40), rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            out.grads,
            plain.grads,
        )


def tied(params, ids, y):
    return jnp.sum(jax.nn.log_softmax(params["table"] @ taken(params, ids).sum(0))[0]) * y


def scaled(params, ids, y):
    return jnp.sum((2 * params["table"])[ids]) * y


def part_of_it(params, ids, y):
    return jnp.sum(params["table"][:4][ids]) * y


def turned(params, ids, y):
    return jnp.sum(params["table"].T[:, ids]) * y


def decayed(params, ids, y):
    return bag(params, ids, y) + jnp.sum(params["table"] ** 2)


def entries(params, ids, y):
    return jnp.sum(params["table"][ids, 0]) * y


@pytest.mark.parametrize(
    "loss", [tied, scaled, part_of_it, turned, decayed, entries], ids=lambda f: f.__name__
)
def test_a_table_with_other_uses_is_refused_by_name(loss):
    ids = np.zeros((2, WORDS), np.int32)
    engine = hg.clipped_grad(loss, 1.0, counts=RowCounts("table"))
    with pytest.raises(InputError, match=r"table 'table' must be used in lookups.*hg\.dp_sgd"):
        jax.eval_shape(engine, PARAMS, ids, np.ones(2))


def test_a_table_that_is_not_there_or_not_used_is_refused():
    ids = np.zeros((2, WORDS), np.int32)
    engine = hg.clipped_grad(bag, 1.0, counts=RowCounts("words"))
    with pytest.raises(InputError, match="table must be one of the parameters out, table"):
        jax.eval_shape(engine, PARAMS, ids, np.ones(2))
    engine = hg.clipped_grad(bag, 1.0, counts=RowCounts("spare"))
    with pytest.raises(InputError, match="'spare' is not used"):
        jax.eval_shape(engine, {**PARAMS, "spare": jnp.ones((2, 2))}, ids, np.ones(2))
    with pytest.raises(InputError, match="without a group"):
        hg.clipped_grad(bag, 1.0, group=2, counts=RowCounts("table"))
    with pytest.raises(InputError, match="norm"):
        RowCounts("table", 0.0)
