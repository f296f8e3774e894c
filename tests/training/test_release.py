"""What one release adds: the noise of the split on the sum, the rest of it on the count.

Keys are fixed. Each bound is one that true noise would miss once in a million keys.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import mechanism
from scipy import stats

from hushgrad.clip import Adaptive, Automatic, PerLayer
from hushgrad.training.step import State, initial_state, release

ALARM = 1e-6
SIZE = 2**17
SGD = optax.sgd(1.0)
# With batches of 12 and z = 1 the sum's noise has (1 - 1/1.44)^(-1/2) = 1.81 times the norm.
RULE = Adaptive(0.5, initial_norm=0.5, learning_rate=0.4, count_stddev=0.6)
SPLIT = (1 - 1.2**-2) ** -0.5


def key_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 2**32, 8, dtype=np.uint32)


def start(m, *sizes: int) -> State:
    """One array, or one of each size."""
    params = tuple(jnp.zeros(size) for size in sizes) if sizes else jnp.zeros(SIZE)
    return initial_state(params, m, SGD)


def released(m, state: State, bits: float, key: np.ndarray) -> State:
    grads = jax.tree.map(jnp.zeros_like, state.params)
    return release(m, SGD, state, grads, jnp.float32(bits), key)


def assert_stddev(values, stddev: float) -> None:
    """The sum of n squares over the variance is chi-square with n degrees of freedom.

    At 2^17 coordinates that holds the deviation within 1%.
    """
    x = np.asarray(values, np.float64).ravel()
    total = ((x / stddev) ** 2).sum()
    assert stats.chi2.ppf(ALARM / 2, x.size) < total < stats.chi2.isf(ALARM / 2, x.size)


@pytest.mark.parametrize("bits", [-6.0, 6.0])
@pytest.mark.parametrize("norm", [0.05, 40.0])
def test_the_noise_is_the_split_times_the_old_norm(norm, bits):
    """Not z times it, and neither the initial norm nor the one that follows from the step.

    The next norm is e^(+-0.2) times this one and more, which 1% tells apart.
    """
    m = mechanism(clip=RULE)
    state = start(m)._replace(norm=jnp.float32(norm))
    after = released(m, state, bits, key_of(0))
    assert_stddev(after.params * m.batch_size, SPLIT * norm)
    assert (float(after.norm) > 1.1 * norm) if bits < 0 else (float(after.norm) < norm / 1.1)


@pytest.mark.parametrize(
    ("clip", "sensitivity"),
    [(3.0, 3.0), (Automatic(), 1.0), (PerLayer(total=2.0), 2.0), (PerLayer(0.7), 0.7)],
    ids=str,
)
def test_other_kinds_have_all_of_the_noise_on_the_sum(clip, sensitivity):
    m = mechanism(clip=clip)
    after = released(m, start(m), -6.0, key_of(1))
    assert_stddev(after.params * m.batch_size, sensitivity)
    assert after.norm is None


def test_other_kinds_do_not_look_at_the_count():
    m = mechanism(clip=1.0)
    one, other = (released(m, start(m, 50), bits, key_of(1)) for bits in (-6.0, 1e9))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@functools.cache
def many(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Over as many keys: the count's noise in deviations, and the sum's, a row per key."""
    m = mechanism(clip=RULE)
    # Arrays of one and two numbers are made from the same bits as the count, did they share
    # a stream; larger ones from the same in another order.
    state = start(m, 1, 2, 5)
    step = jax.jit(jax.vmap(lambda key: released(m, state, 0.0, key)))
    after = step(np.stack([key_of(i) for i in range(count)]))
    # log(C' / C) = -eta (bits + noise) / 12, where half of the batch is below the median.
    moves = np.log(np.asarray(after.norm, np.float64) / 0.5)
    noise = np.concatenate(after.params, axis=1).astype(np.float64) * 12
    return -moves / 0.4 * 12 / 0.6, noise / (SPLIT * 0.5)


def test_the_count_has_its_noise():
    """At 20,000 keys its deviation is held within 2.5%."""
    count, _ = many(20_000)
    assert_stddev(count, 1.0)
    assert abs(count.mean()) < stats.norm.isf(ALARM / 2) / math.sqrt(count.size)
    assert stats.kstest(count, "norm").pvalue > ALARM


def test_the_counts_noise_is_that_of_no_coordinate():
    """Were a stream used twice, the difference of two releases would be without noise."""
    count, noise = many(20_000)
    assert noise.shape == (20_000, 8)
    for coordinate in noise.T:
        correlation = np.corrcoef(count, coordinate)[0, 1]
        assert abs(correlation) < stats.norm.isf(ALARM / 16) / math.sqrt(count.size)


def test_all_that_is_released_costs_no_more_than_z():
    """One example changes sum and count together by at most 1/z, in deviations of the noise."""
    m = mechanism(clip=RULE)
    example, bit = 1 / m.sum_noise_multiplier, 0.5 / RULE.count_stddev
    assert math.hypot(example, bit) == pytest.approx(1 / m.noise_multiplier, rel=1e-12)


def test_the_norm_is_a_function_of_the_key_alone():
    m = mechanism(clip=RULE)
    first, again = (released(m, start(m, 5), 2.0, key_of(3)) for _ in range(2))
    other = released(m, start(m, 5), 2.0, key_of(4))
    assert first.norm == again.norm != other.norm
    assert first.norm.dtype == jnp.float32
