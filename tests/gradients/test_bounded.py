"""No example contributes more than the clip, whatever its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hushgrad as hg


def rand(seed: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def size(grads) -> float:
    leaves = (np.asarray(g, np.float64) for g in jax.tree.leaves(grads))
    return float(np.sqrt(sum((leaf**2).sum() for leaf in leaves)))


def layers(p, x):
    return jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"] + p["b"])


PARAMS = {"w": rand(0, 40, 30), "v": rand(1, 30, 2), "b": rand(2, 2)}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    clip=st.floats(1e-6, 1e6),
    magnitude=st.floats(-18, 18),
    rows=st.sampled_from([1, 3]),
    seed=st.integers(0, 5),
)
def test_the_clipped_norm_never_exceeds_the_clip(clip, magnitude, rows, seed):
    x = rand(seed, 1, rows, 40) * 10.0**magnitude
    out = hg.clipped_grad(layers, clip)(PARAMS, x)
    assert size(out.grads) <= np.float32(clip)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_nor_with_narrow_parameters(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    for seed in range(5):
        x = rand(seed, 1, 3, 40).astype(dtype)
        assert size(hg.clipped_grad(layers, 0.1)(params, x).grads) <= 0.1


@pytest.mark.parametrize("seed", range(5))
def test_nor_when_large_terms_cancel_in_the_ghost_norm(seed):
    """Two rows with opposite gradients leave a small norm between terms of 1e8."""
    rng = np.random.default_rng(seed)
    wide = jnp.zeros((64, 64))
    row = rng.normal(size=64) * 1e4
    x = jnp.asarray(np.stack([row, row * (1 + 3e-5)]), jnp.float32)[None]
    signs = jnp.asarray(np.stack([np.ones(64), -np.ones(64)]), jnp.float32)

    def loss(w, x):
        return jnp.sum((x @ w) * signs)

    out = hg.clipped_grad(loss, 1.0)(wide, x)
    assert size(out.grads) <= 1.0


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("small", [1e-20, 1e-12, 1e12])
def test_nor_when_tiny_inputs_meet_huge_gradients(rows, small):
    """The squares of the inputs vanish in float32, those of the gradients overflow."""
    x = jnp.full((1, rows, 64), small)

    def loss(w, x):
        return jnp.sum(x @ w) * (10 / small)

    out = hg.clipped_grad(loss, 0.01)(jnp.zeros((64, 64)), x)
    assert int(out.nonfinite) == 0
    np.testing.assert_allclose(out.norms, [rows * 640.0], rtol=1e-5)
    assert 0.0099 < size(out.grads) <= 0.01


@pytest.mark.parametrize("value", [1.1, 1.45, 1.7])
@pytest.mark.parametrize("width", [1000, 8192])
def test_nor_where_products_are_rounded_the_same_way_again_and_again(width, value):
    """Equal terms, summed one after the other as some processors do, all lose alike."""
    x = jnp.full((1, 40, width), value)
    out = hg.clipped_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), 1.0)(jnp.zeros((width, 50)), x)
    assert 0.999 < size(out.grads) <= 1.0


def test_nor_with_a_million_inputs_per_row():
    x = jnp.full((1, 2, 1_000_000), 1.1)
    out = hg.clipped_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), 1.0)(jnp.zeros((1_000_000, 3)), x)
    assert size(out.grads) <= 1.0


def test_nor_when_some_parameters_are_wider_than_others():
    with jax.enable_x64(True):
        params = {"a": jnp.zeros(3, jnp.float32), "b": jnp.zeros((), jnp.float64)}
        for seed in range(20):
            x = jnp.asarray(np.random.default_rng(seed).normal(size=(1, 3)))
            out = hg.clipped_grad(lambda p, x: jnp.sum(p["a"] * x) + p["b"], 0.1)(params, x)
            assert size(out.grads) <= 0.1


def test_gradients_are_real_whatever_the_loss_computes_with():
    def loss(w, x):
        return jnp.sum(jnp.abs(jnp.fft.fft(x) @ w) ** 2)

    out = hg.clipped_grad(loss, 1.0)(rand(0, 40, 3), rand(1, 1, 40))
    assert out.grads.dtype == out.norms.dtype == jnp.float32
    assert size(out.grads) <= 1.0


def test_the_sensitivity_is_the_clip():
    assert hg.clipped_grad(layers, 0.25).sensitivity == 0.25
    assert hg.clipped_grad(layers, hg.clip.Flat(0.5)).sensitivity == 0.5


def test_long_gradients_are_scaled_to_the_clip_and_short_ones_left_alone():
    def loss(w, x):
        return jnp.sum(w * x)

    x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    one = hg.clipped_grad(loss, 1.0)
    np.testing.assert_allclose(one(jnp.zeros(2), x[:1]).grads, [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(one(jnp.zeros(2), x[1:]).grads, [0.3, 0.4], rtol=1e-6)


def test_examples_are_clipped_one_by_one_though_the_loss_could_be_batched():
    """Two opposite long gradients must not cancel before the clip."""

    def loss(w, x):
        return jnp.sum(w * x)

    x = jnp.array([[10.0, 0.0], [-5.0, 0.0]])
    out = hg.clipped_grad(loss, 1.0)(jnp.zeros(2), x)
    np.testing.assert_allclose(out.grads, [0.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(out.norms, [10.0, 5.0])


def poisoned(kind: str) -> tuple[jnp.ndarray, jnp.ndarray]:
    x = rand(3, 6, 3, 40)
    bad = {
        "nan": jnp.nan,
        "inf": jnp.inf,
        "minus inf": -jnp.inf,
        "overflow": 3e38,
    }[kind]
    return x, x.at[2, 1, 5].set(bad)


@pytest.mark.parametrize("kind", ["nan", "inf", "minus inf", "overflow"])
def test_one_bad_record_contributes_zero_and_is_counted(kind):
    def loss(p, x):  # unbounded, so that large numbers reach every gradient
        return jnp.sum(((x @ p["w"]) @ p["v"] + p["b"]) ** 2)

    clean, bad = poisoned(kind)
    clipped = hg.clipped_grad(loss, 1.0)
    out = clipped(PARAMS, bad)
    without = clipped(PARAMS, clean, mask=jnp.arange(6) != 2)
    assert int(out.nonfinite) == 1
    assert not np.isfinite(out.norms[2])
    for got, want in zip(jax.tree.leaves(out.grads), jax.tree.leaves(without.grads), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.delete(out.norms, 2), np.delete(without.norms, 2))


def test_padding_contributes_exactly_zero_whatever_it_holds():
    clean, bad = poisoned("nan")
    mask = jnp.arange(6) != 2
    clipped = hg.clipped_grad(layers, 1.0)
    good, padded = clipped(PARAMS, clean, mask=mask), clipped(PARAMS, bad, mask=mask)
    jax.tree.map(np.testing.assert_array_equal, good, padded)
    assert int(padded.nonfinite) == 0
    assert padded.norms[2] == padded.losses[2] == 0
    # The same rows without the padded one, in another batch size: other rounding.
    rest = clipped(PARAMS, jnp.delete(clean, 2, axis=0))
    for got, want in zip(jax.tree.leaves(good.grads), jax.tree.leaves(rest.grads), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_batch_of_padding_alone_sums_to_zero():
    out = hg.clipped_grad(layers, 1.0)(PARAMS, rand(0, 4, 3, 40), mask=jnp.zeros(4, bool))
    assert size(out.grads) == 0


@pytest.mark.parametrize("size", [1e8, 1e12, 1e20])
def test_rows_of_opposite_sizes_keep_their_norm(size):
    """One row has a huge input and a tiny gradient, the other the reverse: both count."""
    w = jnp.zeros((64, 64))
    x = jnp.stack([jnp.full(64, size), jnp.full(64, 1 / size)])[None]
    weights = jnp.asarray([[1 / size], [size]])

    def loss(w, x):
        return jnp.sum(weights * (x @ w))

    out = hg.clipped_grad(loss, 1.0)(w, x)
    # Each row adds one to every entry.
    np.testing.assert_allclose(out.norms, [2 * 64], rtol=1e-4)
    assert np.linalg.norm(np.asarray(out.grads, np.float64)) <= 1.0


def test_lookups_of_opposite_sizes_keep_their_norm():
    table = jnp.ones((300, 40))

    def loss(t, ids, size):
        return jnp.sum(t[ids] * size[:, None])

    ids, sizes = jnp.array([[3, 3, 5]]), jnp.array([[1e12, -1e12, 1.0]])
    out = hg.clipped_grad(loss, 1.0)(table, ids, sizes)
    assert np.linalg.norm(np.asarray(out.grads, np.float64)) <= 1.0
