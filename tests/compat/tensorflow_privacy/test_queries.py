"""Sums, averages and nested queries: TensorFlow Privacy's tests, and what it gets wrong."""

import collections
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hushgrad import accounting
from hushgrad.compat import tensorflow_privacy as tfp
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _records
from hushgrad.errors import InputError

CLOSE = 1e-5


def close(found, expected):
    leaves, wanted = jax.tree.leaves(found), jax.tree.leaves(expected)
    return all(
        np.allclose(a, b, rtol=CLOSE, atol=CLOSE) for a, b in zip(leaves, wanted, strict=True)
    )


def test_a_gaussian_sum_without_clip_and_noise(run_query):
    query = tfp.GaussianSumQuery(l2_norm_clip=10.0, stddev=0.0)
    result, _ = run_query(query, [jnp.array([2.0, 0.0]), jnp.array([-1.0, 1.0])])
    assert np.allclose(result, [1.0, 1.0])


def test_a_gaussian_sum_is_clipped(run_query):
    query = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=0.0)
    records = [jnp.array([-6.0, 8.0]), jnp.array([4.0, -3.0])]  # clipped to [-3, 4]; not clipped
    result, _ = run_query(query, records)
    assert np.allclose(result, [1.0, 1.0], atol=CLOSE)
    closed = tfp.GaussianSumQuery(l2_norm_clip=0.0, stddev=0.0)
    assert not np.any(run_query(closed, records)[0])


def test_the_clip_is_over_all_leaves(run_query):
    query = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=0.0)
    record = {"a": np.array([-6.0]), "b": (8.0,)}
    result, _ = run_query(query, [record])
    assert np.allclose(result["a"], -3, atol=CLOSE)
    assert np.allclose(result["b"][0], 4, atol=CLOSE)


def test_samples_merge():
    query = tfp.GaussianSumQuery(l2_norm_clip=10.0, stddev=1.0)
    params = query.derive_sample_params(query.initial_global_state())

    def state(*records):
        found = query.initial_sample_state(jnp.array(records[0]))
        for record in records:
            found = query.accumulate_record(params, found, jnp.array(record))
        return found

    merged = query.merge_sample_states(
        state([2.0, 0.0], [-1.0, 1.0]), state([3.0, 5.0], [-1.0, 4.0])
    )
    assert np.allclose(merged, [3.0, 10.0])


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ([1.0], (1.0,), TypeError),
        ([1.0], [1.0, 1.0], ValueError),
        ([1.0, 1.0], [1.0], ValueError),
    ],
)
@pytest.mark.parametrize("query", [tfp.GaussianSumQuery(1.0, 0.0), tfp.NoPrivacySumQuery()])
def test_records_of_another_structure_are_refused(run_query, query, first, second, kind):
    with pytest.raises(kind, match="must be built like"):
        run_query(query, [first, second])


def test_a_record_is_not_broadcast():
    # A number of norm 1 that is added to 4 places weighs 2.
    query = tfp.GaussianSumQuery(1.0, 1.0)
    total = query.initial_sample_state(jnp.zeros(4))
    with pytest.raises(InputError, match="shapes"):
        query.accumulate_record(1.0, total, 1.0)
    with pytest.raises(InputError, match="shapes"):
        query.merge_sample_states(total, jnp.zeros((3, 4)))


def test_what_a_number_of_it_means_is_checked():
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="l2_norm_clip"):
            tfp.GaussianSumQuery(wrong, 1.0)
        with pytest.raises(ValueError, match="stddev"):
            tfp.GaussianSumQuery(1.0, wrong)
    with pytest.raises(ValueError, match="denominator"):
        tfp.NormalizedQuery(tfp.GaussianSumQuery(1.0, 1.0), 0.0)
    with pytest.raises(ValueError, match="numerator_query"):
        tfp.NormalizedQuery(tfp.NestedQuery([]), 1.0)
    with pytest.raises(ValueError, match="real"):
        tfp.GaussianSumQuery(1.0, 1.0).preprocess_record(1.0, jnp.ones(2, jnp.complex64))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.int32])
@pytest.mark.parametrize("clip", [0.1, 1.0, 300.0])
def test_no_clipped_norm_exceeds_the_clip(dtype, clip):
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 5000):
        for scale in (0.9, 1.0, 1.0 + 1e-7, 3.0, 200.0):
            x = rng.normal(size=size)
            x = jnp.asarray(x * scale * clip / np.linalg.norm(x), dtype)
            record = {"a": x[: size // 2], "b": x[size // 2 :]}
            clipped, norm = _records.clip_by_global_norm(record, clip)
            flat = np.concatenate([np.asarray(leaf, np.float64) for leaf in clipped.values()])
            assert all(leaf.dtype == jnp.float32 for leaf in clipped.values())
            assert np.linalg.norm(flat) <= clip
            exact = np.linalg.norm(np.asarray(x, np.float64))
            assert float(norm) == pytest.approx(exact, rel=1e-5)
            if exact < clip * (1 - 1e-5):
                assert np.array_equal(flat, np.asarray(x, np.float64))


@pytest.mark.parametrize("size", [1, 3])
def test_the_clip_holds_under_jit_too(size):
    # 0.1 lies below the nearest float32, which a traced 0.1 becomes.
    spec = jax.ShapeDtypeStruct((size,), jnp.float32)
    for query in (
        tfp.GaussianSumQuery(0.1, 1.0),
        tfp.TreeResidualSumQuery.build_l2_gaussian_query(0.1, 1.0, spec),
    ):
        params = query.derive_sample_params(query.initial_global_state())
        clipped = jax.jit(query.preprocess_record)(params, jnp.ones(size))
        assert np.linalg.norm(np.asarray(clipped, np.float64)) <= 0.1


def test_squares_neither_overflow_nor_vanish():
    for size in (1e30, 1e-30):
        clipped, norm = _records.clip_by_global_norm(jnp.full(4, size), 1e-32)
        assert float(norm) == pytest.approx(2 * size)
        assert np.linalg.norm(np.asarray(clipped, np.float64)) == pytest.approx(1e-32, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_record_that_is_not_finite_contributes_nothing(run_query, bad):
    good = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    record = {"w": jnp.array([1.0, bad]), "b": jnp.array(3.0)}
    query = tfp.GaussianSumQuery(l2_norm_clip=100.0, stddev=0.0)
    result, _ = run_query(query, [good, record])
    assert close(result, good)


def test_an_empty_sample_is_an_ordinary_one(repeatable):
    query = tfp.GaussianSumQuery(l2_norm_clip=1.0, stddev=2.0)
    state = query.initial_global_state()
    for template in (np.zeros(20000, np.float32), np.zeros(20000, np.int32)):
        result, _, _ = query.get_noised_result(query.initial_sample_state(template), state)
        assert result.dtype == jnp.float32
        assert float(np.std(result)) == pytest.approx(2.0, rel=5 * math.sqrt(1 / 40000))


def test_whole_numbers_get_their_noise():
    query = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=1.0)
    result, _, _ = query.get_noised_result(np.arange(100), query.initial_global_state())
    assert np.all(np.asarray(result) != np.arange(100))


@pytest.mark.parametrize("stddev", [0.3, 2.71828])
def test_the_noise_is_normal_with_its_deviation(run_query, repeatable, stddev):
    size = 20000
    query = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=stddev)
    result, _ = run_query(query, [{"a": jnp.zeros(size), "b": jnp.zeros((size // 4, 4))}])
    noise = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result)]) / stddev
    # Each of the two fails for a correct implementation with a chance below 5e-7.
    spread = stats.chi2(len(noise))
    assert spread.ppf(2e-7) < np.sum(noise.astype(float) ** 2) < spread.isf(2e-7)
    assert stats.kstest(noise, "norm").pvalue > 5e-7
    a, b = noise[:size], noise[size:]
    assert abs(np.corrcoef(a, b)[0, 1]) < 5.1 / math.sqrt(size)


def test_every_result_has_its_own_noise():
    # From one state, twice: the difference must not be that of the sums.
    query = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=1.0)
    state, total = query.initial_global_state(), jnp.zeros(1000)
    results = [np.asarray(query.get_noised_result(total, state)[0]) for _ in range(3)]
    results.append(
        np.asarray(
            tfp.GaussianSumQuery(5.0, 1.0).get_noised_result(total, state)[0],
        )
    )
    for i, a in enumerate(results):
        for b in results[:i]:
            assert np.all(a != b)


def test_seeds_of_frameworks_do_not_touch_the_noise():
    query = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=1.0)
    found = []
    for _ in range(2):
        np.random.seed(0)
        found.append(query.get_noised_result(jnp.zeros(10), query.initial_global_state())[0])
    assert np.all(found[0] != found[1])


def queries():
    gaussian = tfp.GaussianSumQuery(1.0, 1.0)
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    tree = tfp.TreeResidualSumQuery.build_l2_gaussian_query(1.0, 1.0, spec)
    return {
        "gaussian": gaussian,
        "normalized": tfp.NormalizedQuery(gaussian, 2.0),
        "nested": tfp.NestedSumQuery(gaussian),
        "adaptive": tfp.QuantileAdaptiveClipSumQuery(1.0, 1.0, 0.5, 0.2, 1.0, 2),
        "residual": tree,
        "cumulative": tfp.TreeCumulativeSumQuery.build_l2_gaussian_query(1.0, 1.0, spec),
        "restart": tfp.RestartQuery(
            tree, tfp.restart_query.PeriodicRoundRestartIndicator(period=2)
        ),
        "adaptive tree": tfp.QAdaClipTreeResSumQuery(1.0, 1.0, spec, 0.5, 0.2, 1.0, 2),
    }


@pytest.mark.parametrize("name", queries())
def test_noise_is_not_drawn_under_jit(name):
    # A key drawn while tracing would serve every call of the compiled function.
    query = queries()[name]
    state = query.initial_global_state()
    total = query.initial_sample_state(jnp.zeros(2))

    def result(total):
        return jax.tree.leaves(query.get_noised_result(total, state)[0])

    with pytest.raises(InputError, match="outside jit"):
        jax.jit(result)(total)
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda: result(total))()
    with pytest.raises(InputError, match="outside jit"):
        jax.vmap(result)(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), total))
    assert result(total)


def test_records_are_clipped_and_summed_under_jit():
    query = tfp.QuantileAdaptiveClipSumQuery(1.0, 1.0, 0.5, 0.2, 1.0, 2)
    params = query.derive_sample_params(query.initial_global_state())

    @jax.jit
    def total(params, records):
        each = jax.vmap(lambda record: query.preprocess_record(params, record))(records)
        return jax.tree.map(lambda leaf: leaf.sum(0), each)

    found = total(params, jnp.array([[3.0, 4.0], [0.3, 0.4], [math.nan, 0.0]]))
    assert np.allclose(found.sum_state, [0.9, 1.2], atol=CLOSE)
    assert float(found.quantile_estimator_state) == 0  # one below, one above, one that is neither


def test_the_event_of_a_gaussian_sum():
    query = tfp.GaussianSumQuery(l2_norm_clip=2.0, stddev=2.2)
    _, _, event = query.get_noised_result(jnp.zeros(2), query.initial_global_state())
    assert event == dp_accounting.GaussianDpEvent(1.1)
    bare = tfp.GaussianSumQuery(l2_norm_clip=2.0, stddev=0.0)
    _, _, event = bare.get_noised_result(jnp.zeros(2), bare.initial_global_state())
    assert accounting.epsilon(event, 1e-5) == math.inf
    closed = tfp.GaussianSumQuery(l2_norm_clip=0.0, stddev=0.0)
    _, _, event = closed.get_noised_result(jnp.zeros(2), closed.initial_global_state())
    assert event == dp_accounting.NoOpDpEvent()


def test_sums_and_averages_without_privacy(run_query):
    records = [jnp.array([5.0, 0.0]), jnp.array([-1.0, 2.0])]
    assert np.allclose(run_query(tfp.NoPrivacySumQuery(), records)[0], [4.0, 2.0])
    average = tfp.NoPrivacyAverageQuery()
    assert np.allclose(run_query(average, records)[0], [2.0, 1.0])
    records = [jnp.array([4.0, 0.0]), jnp.array([-1.0, 1.0])]
    assert np.allclose(run_query(average, records, weights=[1, 3])[0], [0.25, 0.75])
    result, _, event = average.get_noised_result(average.initial_sample_state(records[0]), ())
    assert not np.any(result)
    assert accounting.epsilon(event, 1e-5) == math.inf


def test_a_normalized_sum(run_query):
    total = tfp.GaussianSumQuery(l2_norm_clip=5.0, stddev=0.0)
    query = tfp.NormalizedQuery(numerator_query=total, denominator=2.0)
    result, _ = run_query(query, [jnp.array([-6.0, 8.0]), jnp.array([4.0, -3.0])])
    assert np.allclose(result, [0.5, 0.5], atol=CLOSE)
    query = tfp.NormalizedQuery(tfp.GaussianSumQuery(0.5, 1.0), denominator=3.0)
    _, _, event = query.get_noised_result(jnp.zeros(()), query.initial_global_state())
    assert event == dp_accounting.GaussianDpEvent(2.0)


def normalized(clip, denominator, stddev=0.0):
    return tfp.NormalizedQuery(tfp.GaussianSumQuery(clip, stddev), denominator)


def test_nested_sums(run_query):
    plain = tfp.GaussianSumQuery(l2_norm_clip=10.0, stddev=0.0)
    query = tfp.NestedSumQuery([plain, plain])
    assert close(run_query(query, [[1.0, [2.0, 3.0]], [4.0, [3.0, 2.0]]])[0], [5.0, [5.0, 5.0]])
    query = tfp.NestedSumQuery([normalized(4.0, 5.0), normalized(5.0, 5.0)])
    records = [[1.0, [12.0, 9.0]], [5.0, [1.0, 2.0]]]
    assert close(run_query(query, records)[0], [1.0, [1.0, 1.0]])
    query = tfp.NestedSumQuery(
        [tfp.GaussianSumQuery(1.0, 0.0), {"c": normalized(10.0, 2.0), "d": [plain]}]
    )
    records = [
        [{"a": 0.0, "b": 2.71828}, {"c": (-4.0, 6.0), "d": [-4.0]}],
        [{"a": 3.14159, "b": 0.0}, {"c": (6.0, -4.0), "d": [5.0]}],
    ]
    result, _ = run_query(query, records)
    assert close(result, [{"a": 1.0, "b": 1.0}, {"c": (1.0, 1.0), "d": [1.0]}])


def test_nested_noise_and_its_cost(repeatable):
    stddev, denominator, size = 2.71828, 3.14159, 20000
    query = tfp.NestedSumQuery(
        (tfp.GaussianSumQuery(1.5, stddev), normalized(0.5, denominator, stddev))
    )
    state = query.initial_global_state()
    total = query.initial_sample_state((jnp.zeros(size), jnp.zeros(size)))
    (a, b), _, event = query.get_noised_result(total, state)
    for found, expected in ((a, stddev), (b, stddev / denominator)):
        # 5.1 standard errors of a deviation.
        assert float(np.std(found)) == pytest.approx(expected, rel=5.1 / math.sqrt(2 * size))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5.1 / math.sqrt(size)
    both = [dp_accounting.GaussianDpEvent(stddev / clip) for clip in (1.5, 0.5)]
    assert event == dp_accounting.ComposedDpEvent(both)


@pytest.mark.parametrize(
    ("queries", "record", "kind"),
    [
        ([tfp.GaussianSumQuery(1.0, 0.0)] * 2, [1.0], ValueError),
        ([tfp.GaussianSumQuery(1.0, 0.0), [tfp.GaussianSumQuery(1.0, 0.0)]], [1.0, 1.0], TypeError),
    ],
)
def test_records_that_queries_do_not_fit_are_refused(run_query, queries, record, kind):
    with pytest.raises(kind, match="queries"):
        run_query(tfp.NestedSumQuery(queries), [record])


class _Counts(tfp.DPQuery):
    """A query that is no sum."""

    def __init__(self, metric=0):
        self._metric = metric

    def initial_sample_state(self, template=None):
        return 0

    def accumulate_preprocessed_record(self, sample_state, preprocessed_record):
        return sample_state + 1

    def merge_sample_states(self, sample_state_1, sample_state_2):
        return sample_state_1 + sample_state_2

    def get_noised_result(self, sample_state, global_state):
        return sample_state, global_state, dp_accounting.NonPrivateDpEvent()

    def derive_metrics(self, global_state):
        return collections.OrderedDict(metric=self._metric)


def test_queries_of_ones_own(run_query):
    query = tfp.NestedQuery(_Counts())
    assert run_query(query, [3.0, 4.0])[0] == 2
    with pytest.raises(TypeError, match="SumAggregationDPQuery"):
        tfp.NestedSumQuery(_Counts())
    with pytest.raises(TypeError, match="DPQuery"):
        tfp.NestedQuery([3.0])


def test_nested_metrics():
    query = tfp.NestedQuery(_Counts(1))
    assert query.derive_metrics(query.initial_global_state()) == {"metric": 1}
    query = tfp.NestedQuery({"key1": _Counts(1), "key2": [_Counts(2), _Counts(3)]})
    found = query.derive_metrics(query.initial_global_state())
    assert found == {"key1/metric": 1, "key2/0/metric": 2, "key2/1/metric": 3}
