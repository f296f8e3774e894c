"""Discrete Gaussian noise, from whole numbers alone."""

import math
import random
import secrets

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hushgrad.compat import tensorflow_privacy as tfp
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import discrete_gaussian_utils as utils
from hushgrad.errors import InputError


@pytest.fixture
def repeatable_numbers(monkeypatch):
    monkeypatch.setattr(secrets, "randbelow", random.Random(20260101).randrange)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5, 17.25])
def test_samples_are_of_the_discrete_gaussian(repeatable_numbers, scale):
    size = 20000
    drawn = np.asarray(utils.sample_discrete_gaussian(scale, (size,)))
    far = math.ceil(12 * scale) + 1
    points = np.arange(-far, far + 1)
    chances = np.exp(-(points**2) / (2 * scale**2))
    chances /= chances.sum()
    # Bins of at least 20 expected samples; the ends take what is beyond them.
    inner = np.flatnonzero(chances * size > 20)
    low, high = points[inner[0]], points[inner[-1]]
    binned = np.clip(drawn, low, high)
    counts = [np.sum(binned == point) for point in range(low, high + 1)]
    expected = [chances[points == point].sum() for point in range(low, high + 1)]
    expected[0] += chances[points < low].sum()
    expected[-1] += chances[points > high].sum()
    # A correct sampler fails for less than one seed in a million.
    assert stats.chisquare(counts, size * np.array(expected) / sum(expected)).pvalue > 2e-7


def test_shapes_and_types():
    found = utils.sample_discrete_gaussian(3, [2, 3])
    assert found.shape == (2, 3)
    assert found.dtype == jnp.int32
    assert not np.any(utils.sample_discrete_gaussian(0, (5,)))
    assert utils.sample_discrete_gaussian(2, ()).shape == ()
    with pytest.raises(InputError, match="dtype"):
        utils.sample_discrete_gaussian(1, (2,), jnp.float32)
    with pytest.raises(InputError, match="scale"):
        utils.sample_discrete_gaussian(-1, (2,))
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda: utils.sample_discrete_gaussian(1, (2,)))()


def test_sums_of_whole_numbers(run_query):
    query = tfp.DiscreteGaussianSumQuery(l2_norm_bound=10, stddev=0.0)
    records = [np.array([2, 0], np.int32), np.array([-1, 1], np.int32)]
    assert run_query(query, records)[0].tolist() == [1, 1]
    t, u = np.array([1, 0], np.int32), np.ones((2, 2), np.int32)
    result, _ = run_query(query, [[t, {"a": u, "b": [(u, t)]}]] * 3)
    assert result[0].tolist() == [3, 0]
    assert result[1]["b"][0][0].tolist() == [[3, 3], [3, 3]]


@pytest.mark.parametrize("stddev", [10, 100.5])
def test_the_noise_of_a_discrete_sum(run_query, repeatable_numbers, stddev):
    size = 5000
    query = tfp.DiscreteGaussianSumQuery(l2_norm_bound=size, stddev=stddev)
    result, _ = run_query(query, [np.zeros(size, np.int32), np.ones(size, np.int32)])
    # 5.1 standard errors.
    assert float(np.std(result)) == pytest.approx(stddev, rel=5.1 / math.sqrt(2 * size))
    assert float(np.mean(result)) == pytest.approx(1.0, abs=5.1 * stddev / math.sqrt(size))


def test_what_a_discrete_sum_costs():
    query = tfp.DiscreteGaussianSumQuery(l2_norm_bound=3, stddev=6)
    state, total = query.initial_global_state(), np.zeros(200, np.int32)
    a, _, event = query.get_noised_result(total, state)
    b, _, _ = query.get_noised_result(total, state)
    assert np.any(np.asarray(a) != np.asarray(b))
    assert event == dp_accounting.ZCDpEvent(0.125)
    bare = tfp.DiscreteGaussianSumQuery(l2_norm_bound=3, stddev=0)
    _, _, event = bare.get_noised_result(total, bare.initial_global_state())
    assert event == dp_accounting.NonPrivateDpEvent()


@pytest.mark.parametrize(
    "kind", [tfp.DiscreteGaussianSumQuery, tfp.DistributedDiscreteGaussianSumQuery]
)
def test_records_beyond_the_bound_are_refused(run_query, kind):
    record = np.array([10, 10], np.int32)
    for bound in (0, 3, 10, 14.1, math.nextafter(math.sqrt(200), 0)):
        with pytest.raises(InputError, match="l2_norm_bound"):
            run_query(kind(bound, 0.0), [record])
    assert run_query(kind(14.2, 0.0), [record])[0].tolist() == [10, 10]
    # Squares that do not fit into 32 bits.
    with pytest.raises(InputError, match="l2_norm_bound"):
        run_query(kind(10.0, 0.0), [np.full(2, 2**31 - 1, np.int32)])
    with pytest.raises(TypeError, match="whole numbers"):
        run_query(kind(10.0, 0.0), [np.array([1.0, 2.0])])
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda r: kind(10.0, 1.0).preprocess_record(kind(10.0, 1.0)._state, r))(record)


def test_every_record_brings_its_noise(repeatable_numbers):
    size, records = 5000, 4
    query = tfp.DistributedDiscreteGaussianSumQuery(l2_norm_bound=1, local_stddev=8)
    state = query.initial_global_state()
    params = query.derive_sample_params(state)
    total = query.initial_sample_state(np.zeros(size, np.int32))
    for _ in range(records):
        total = query.accumulate_record(params, total, np.zeros(size, np.int32))
    result, _, event = query.get_noised_result(total, state)
    # 5.1 standard errors of a deviation.
    assert float(np.std(result)) == pytest.approx(16, rel=5.1 / math.sqrt(2 * size))
    assert isinstance(event, dp_accounting.UnsupportedDpEvent)
