"""Gaussian noise on a sum: the right size, everywhere, and nothing that repeats.

Keys are fixed, so these tests always give the same answer. Each bound is one that
true noise would miss with probability `ALARM` or less.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from hushgrad import noise
from hushgrad.errors import InputError

ALARM = 1e-6
SIZE = 2**20


def key_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 2**32, 8, dtype=np.uint32)


@functools.cache
def compiled(stddev: float):
    transformation = noise.gaussian(stddev)

    @jax.jit
    def update(updates, key):
        return transformation.update(updates, transformation.init(updates), key=key)

    return update


def noisy(updates, *, stddev=1.0, key=None):
    out, state = compiled(stddev)(updates, key_of(0) if key is None else key)
    assert jax.tree.structure(state) == jax.tree.structure(optax.EmptyState())
    assert jax.tree.structure(out) == jax.tree.structure(updates)
    return out


def plainly(updates, *, stddev=1.0, key=None):
    """The same without compiling."""
    transformation = noise.gaussian(stddev)
    key = key_of(0) if key is None else key
    return transformation.update(updates, transformation.init(updates), key=key)[0]


def assert_stddev(values, stddev: float) -> None:
    """The sum of n squares over the variance is chi-square with n degrees of freedom.

    At 2^20 coordinates and this alarm that holds the standard deviation within 0.35%.
    """
    x = np.asarray(values, np.float64).ravel()
    total = ((x / stddev) ** 2).sum()
    assert stats.chi2.ppf(ALARM / 2, x.size) < total < stats.chi2.isf(ALARM / 2, x.size)


def assert_unrelated(x, y) -> None:
    """Correlation of independent samples times sqrt(n) is close to standard normal."""
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    correlation = np.corrcoef(x, y)[0, 1]
    assert abs(correlation) < stats.norm.isf(ALARM / 2) / math.sqrt(x.size)


@pytest.mark.parametrize("stddev", [1e-3, 1.0, 37.5])
def test_the_standard_deviation_is_stddev(stddev):
    assert_stddev(noisy(jnp.zeros(SIZE), stddev=stddev), stddev)


@pytest.mark.parametrize("stddev", [0.3, 1.1])
def test_the_noise_is_normal_with_mean_zero(stddev):
    made = np.asarray(noisy(jnp.zeros(SIZE), stddev=stddev), np.float64)
    # The mean of n has standard deviation stddev / sqrt(n).
    assert abs(made.mean()) < stats.norm.isf(ALARM / 2) * stddev / math.sqrt(SIZE)
    assert stats.kstest(made / stddev, "norm").pvalue > ALARM


def test_every_leaf_has_the_whole_noise():
    tree = {"w": jnp.zeros((300, 400)), "b": (jnp.zeros(100_000), jnp.zeros((50, 60, 40)))}
    for leaf in jax.tree.leaves(noisy(tree, stddev=2.5)):
        assert_stddev(leaf, 2.5)


def test_every_coordinate_has_it_over_the_steps():
    """Small leaves, many keys: no coordinate is left out, a scalar neither."""
    tree = {"scalar": jnp.zeros(()), "odd": jnp.zeros(3), "matrix": jnp.zeros((2, 2))}
    transformation = noise.gaussian(0.7)
    keys = np.stack([key_of(i) for i in range(4000)])
    update = jax.jit(jax.vmap(lambda key: transformation.update(tree, (), key=key)[0]))
    for leaf in jax.tree.leaves(update(keys)):
        for coordinate in np.asarray(leaf).reshape(4000, -1).T:
            assert_stddev(coordinate, 0.7)


def test_the_noise_is_added_to_the_sum_and_does_not_depend_on_it():
    total = {"a": jnp.linspace(-8, 8, 1000).reshape(10, 100), "b": jnp.full(7, 3.0)}
    out, alone = noisy(total), noisy(jax.tree.map(jnp.zeros_like, total))
    for name in total:
        np.testing.assert_allclose(out[name] - total[name], alone[name], atol=1e-5)


def test_leaves_of_equal_shape_have_independent_noise():
    tree = {f"layer {i}": {"w": jnp.zeros(2**15)} for i in range(6)}
    leaves = jax.tree.leaves(noisy(tree))
    for one, other in itertools.combinations(leaves, 2):
        assert not (np.asarray(one) == np.asarray(other)).any()
        assert_unrelated(one, other)


def test_leaves_of_different_shape_have_independent_noise():
    one, other = noisy((jnp.zeros((2**14,)), jnp.zeros((2**15,))))
    assert_unrelated(one, other[: 2**14])
    assert_unrelated(one[: 2**13], other[: 2**13])
    assert_unrelated(one[2**13 :], other[2**14 :][: 2**13])


def test_steps_have_independent_noise():
    steps = [noisy(jnp.zeros(2**15), key=key_of(i)) for i in range(6)]
    for one, other in itertools.combinations(steps, 2):
        assert not (np.asarray(one) == np.asarray(other)).any()
        assert_unrelated(one, other)


def test_and_their_sum_has_the_sum_of_the_variances():
    """Noise that repeats, or that cancels, over 64 steps would show here."""
    total = sum(np.asarray(noisy(jnp.zeros(2**14), key=key_of(i)), np.float64) for i in range(64))
    assert_stddev(total, 8.0)


@pytest.mark.parametrize("bit", [0, 63, 64, 127, 128, 255])
def test_every_part_of_the_key_counts(bit):
    key = key_of(0)
    key[bit // 32] ^= np.uint32(1 << bit % 32)
    assert_unrelated(noisy(jnp.zeros(2**15)), noisy(jnp.zeros(2**15), key=key))


def test_the_noise_is_a_function_of_the_key_alone():
    tree = {"a": jnp.zeros(1000), "b": jnp.zeros((3, 5))}
    np.random.seed(1)
    first = noisy(tree)
    np.random.seed(2)
    noisy(tree, key=key_of(1))
    again = noisy(tree, key=jnp.asarray(key_of(0)))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_calls_of_one_transformation_do_not_count():
    transformation = noise.gaussian(1.0)
    state = transformation.init(jnp.zeros(8))
    first, state = transformation.update(jnp.zeros(8), state, key=key_of(3))
    again, state = transformation.update(jnp.zeros(8), state, key=key_of(3))
    np.testing.assert_array_equal(first, again)


def test_noise_beyond_what_jax_random_reaches(monkeypatch):
    """The smallest uniform, 2^-64, is 9.42 standard deviations out; JAX's own stops at 5.42."""
    zeros = lambda key, nonce, counter: [jnp.zeros_like(counter)] * 16  # noqa: E731
    monkeypatch.setattr("hushgrad.noise.normal.key_stream", zeros)
    assert float(plainly(jnp.zeros(2), stddev=2.0)[0]) == pytest.approx(2 * 9.4192, rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_leaves_come_back_wide_and_their_noise_unrounded(dtype):
    out = noisy(jnp.ones(SIZE, dtype), stddev=0.5)
    assert out.dtype == jnp.float32
    assert (np.asarray(out.astype(dtype), np.float32) != np.asarray(out)).mean() > 0.95
    assert_stddev(np.asarray(out, np.float64) - 1, 0.5)


def test_wide_leaves_have_wide_noise():
    with jax.enable_x64(True):
        out = noisy({"wide": jnp.zeros(SIZE), "plain": jnp.zeros(SIZE, jnp.float32)})
        assert out["wide"].dtype == jnp.float64
        assert out["plain"].dtype == jnp.float32
        wide, plain = np.asarray(out["wide"]), np.asarray(out["plain"])
    assert (wide.astype(np.float32) != wide).mean() > 0.999
    assert_stddev(wide, 1.0)
    assert_stddev(plain, 1.0)


def test_leaves_that_are_not_floats_are_left_alone():
    tree = {
        "w": jnp.zeros(4),
        "count": jnp.array([1, 2, 3]),
        "small": jnp.array(7, jnp.int8),
        "flags": jnp.array([True, False]),
        "nothing": None,
    }
    out = noisy(tree)
    for name in ("count", "small", "flags"):
        assert out[name].dtype == tree[name].dtype
        np.testing.assert_array_equal(out[name], tree[name])
    assert out["nothing"] is None
    assert (np.asarray(out["w"]) != 0).all()


def test_what_is_not_a_float_does_not_shift_the_others_into_one_stream():
    before, after = noisy((jnp.zeros(2**14), jnp.arange(3), jnp.zeros(2**14)))[::2]
    assert_unrelated(before, after)


def test_complex_leaves_are_not_passed_through_without_noise():
    with pytest.raises(InputError, match="complex64"):
        plainly({"w": jnp.zeros(3), "z": jnp.zeros(3, jnp.complex64)})


@pytest.mark.parametrize("tree", [{}, (), [jnp.zeros(0)], {"a": jnp.zeros((3, 0))}])
def test_nothing_to_add_noise_to(tree):
    out = noisy(tree)
    assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, tree)


def test_numpy_leaves():
    made = plainly({"a": np.zeros(10_000, np.float32), "n": np.arange(3)})
    assert_stddev(made["a"], 1.0)
    np.testing.assert_array_equal(made["n"], np.arange(3))


def test_compiled_it_is_the_same_noise():
    tree = {"a": jnp.zeros((40, 50)), "n": jnp.arange(4), "b": jnp.ones(3, jnp.bfloat16)}
    out = noisy(tree, stddev=1.5)
    jax.tree.map(np.testing.assert_array_equal, out, noisy(tree, stddev=1.5))
    plain = plainly(tree, stddev=1.5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), out, plain)


def test_the_key_comes_through_an_optax_chain():
    tree = {"a": jnp.zeros(1000)}
    chain = optax.chain(optax.scale(1.0), noise.gaussian(2.0), optax.scale(-0.5))
    out, _ = chain.update(tree, chain.init(tree), tree, key=key_of(0), value=jnp.zeros(()))
    np.testing.assert_allclose(out["a"], -noisy(tree)["a"], rtol=1e-6)


def test_a_chain_without_a_key_has_no_noise_to_give():
    chain = optax.chain(noise.gaussian(2.0), optax.sgd(0.1))
    tree = jnp.zeros(3)
    with pytest.raises(InputError, match="key is missing"):
        chain.update(tree, chain.init(tree), tree)


def test_a_missing_key():
    transformation = noise.gaussian(1.0)
    for arguments in ({}, {"key": None}):
        with pytest.raises(InputError, match=r"key is missing.*update\(\.\.\., key="):
            transformation.update(jnp.zeros(3), transformation.init(None), **arguments)


@pytest.mark.parametrize(
    "key",
    [
        np.zeros(8, np.int32),
        np.zeros(8, np.float32),
        np.zeros(4, np.uint32),
        np.zeros((2, 8), np.uint32),
        np.zeros((), np.uint32),
        list(range(8)),
        0,
        jax.random.key(0),
        jax.random.PRNGKey(0),
    ],
    ids=lambda key: f"{type(key).__name__}-{getattr(key, 'dtype', '')}{getattr(key, 'shape', '')}",
)
def test_a_wrong_key(key):
    with pytest.raises(InputError, match=r"key must be uint32 of shape \(8,\), got"):
        plainly(jnp.zeros(3), key=key)
    with pytest.raises(InputError, match=r"key must be uint32 of shape \(8,\), got"):
        jax.jit(lambda tree: plainly(tree, key=key))(jnp.zeros(3))


@pytest.mark.parametrize("stddev", [0, 0.0, -1.0, math.nan, math.inf, True, "1", None])
def test_no_noise_is_no_choice(stddev):
    with pytest.raises(InputError, match="stddev must be a positive finite number") as caught:
        noise.gaussian(stddev)
    assert repr(stddev) in str(caught.value)
