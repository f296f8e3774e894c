"""Noise over binary trees, and the queries that use it."""

import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hushgrad.compat import tensorflow_privacy as tfp
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import (
    restart_query,
    tree_aggregation,
    tree_range_query,
)

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
STRUCTURE = [jax.ShapeDtypeStruct((2, 2), jnp.float32), {"a": SCALAR}]
SEEDED = "ignore:.*not private against whoever knows the seed"


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def prefixes(aggregator, steps):
    state, found = aggregator.init_state(), []
    for step in range(steps):
        assert tree_aggregation.get_step_idx(state) == step
        value, state = aggregator.get_cumsum_and_update(state)
        found.append(value)
    return found


@pytest.mark.parametrize("node", [1, 2, 0.5])
def test_how_many_nodes_cover_a_prefix(node):
    found = prefixes(tfp.TreeAggregator(lambda: node), 8)
    assert found == [node * count for count in (1, 1, 2, 1, 2, 2, 3, 1)]


def test_a_long_prefix():
    found = prefixes(tfp.TreeAggregator(lambda: 1.0), 1030)
    assert found == [float(bin(step + 1).count("1")) for step in range(1030)]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 1),
        (2, 4 / 3),
        (3, 4 / 3 + 1),
        (4, 12 / 7),
        (5, 12 / 7 + 1),
        (6, 12 / 7 + 4 / 3),
        (7, 12 / 7 + 4 / 3 + 1),
        (8, 32 / 15),
        (1024, 11 / (2 - 0.5**10)),
        (1027, 11 / (2 - 0.5**10) + 4 / 3 + 1),
    ],
)
def test_the_weights_of_the_efficient_tree(step, expected):
    found = prefixes(tfp.EfficientTreeAggregator(lambda: 1.0), step)[-1]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [tfp.TreeAggregator, tfp.EfficientTreeAggregator])
def test_nodes_of_any_structure(kind):
    values = prefixes(kind(lambda: [jnp.ones((2, 2)), jnp.array([2.0])]), 15)
    for value, one in zip(values, prefixes(kind(lambda: 1.0), 15), strict=True):
        assert np.allclose(value[0], one)
        assert np.allclose(value[1], 2 * one)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "variances"),
    [
        (tfp.TreeAggregator, dict(enumerate([1, 1, 2, 1, 2, 2, 3, 1], start=1))),
        (tfp.EfficientTreeAggregator, {4: 4 / 7, 7: 4 / 7 + 2 / 3 + 1, 8: 8 / 15}),
    ],
)
def test_the_variance_of_tree_noise(repeatable, sigma, kind, variances):
    size = 20000
    found = prefixes(kind(tfp.GaussianNoiseGenerator(sigma, spec(size))), 8)
    for step, variance in variances.items():
        # 5.6 standard errors of a variance: below 1e-6 in all of them together.
        expected = pytest.approx(variance * sigma**2, rel=5.6 * math.sqrt(2 / size))
        assert float(np.var(found[step - 1])) == expected


@pytest.mark.parametrize("kind", [tfp.TreeAggregator, tfp.EfficientTreeAggregator])
@pytest.mark.parametrize("step", range(8))
def test_two_noises_from_one_state_differ_in_fresh_nodes(repeatable, kind, step):
    # Whoever asks twice must not learn the difference of two sums. The new nodes of this
    # step have weights whose squares add up to the difference's variance over 2.
    size = 20000
    tree = kind(tfp.GaussianNoiseGenerator(1.0, spec(size)))
    state = tree.init_state()
    for _ in range(step):
        _, state = tree.get_cumsum_and_update(state)
    (a, _), (b, _) = tree.get_cumsum_and_update(state), tree.get_cumsum_and_update(state)
    height = (~step & step + 1).bit_length() - 1
    fresh = 1.0
    if kind is tfp.EfficientTreeAggregator:
        fresh = sum(0.25**below for below in range(height + 1)) / (2 - 0.5**height) ** 2
    expected = pytest.approx(2 * fresh, rel=5.6 * math.sqrt(2 / size))
    assert float(np.var(np.asarray(a) - np.asarray(b))) == expected


def test_generators_share_no_noise():
    a, b = (tfp.GaussianNoiseGenerator(0.1, spec(100)) for _ in range(2))
    state, other = a.initialize(), b.initialize()
    found = []
    for _ in range(4):
        (value, after), (again, _), (third, other) = a.next(state), a.next(state), b.next(other)
        found += [value, again, third]
        state = after
    for i, value in enumerate(found):
        assert all(np.all(value != before) for before in found[:i])


@pytest.mark.filterwarnings(SEEDED)
def test_seeded_noise_repeats():
    states, values = [], []
    for _ in range(2):
        generator = tfp.GaussianNoiseGenerator(0.1, STRUCTURE, seed=3)
        state = generator.initialize()
        for _ in range(3):
            value, state = generator.next(state)
            values.append(value)
            states.append(state)
    for first, second in zip(values[:3], values[3:], strict=True):
        assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
    assert states[:3] == states[3:]
    assert not np.array_equal(values[0][0], values[1][0])
    assert np.all(
        tfp.GaussianNoiseGenerator(0.1, STRUCTURE, 4).next(states[0])[0][0] != values[1][0]
    )
    with pytest.raises(ValueError, match="from this generator"):
        tfp.GaussianNoiseGenerator(0.1, STRUCTURE).next(states[0])


def test_a_seed_is_warned_of():
    with pytest.warns(UserWarning, match="seed=3: not private"):
        tfp.GaussianNoiseGenerator(0.1, SCALAR, seed=3)
    with pytest.warns(UserWarning, match="seed=3: not private"):
        tfp.TreeResidualSumQuery.build_l2_gaussian_query(1.0, 1.0, SCALAR, noise_seed=3)


def test_the_deviation_may_change(repeatable):
    size = 20000
    generator = tfp.GaussianNoiseGenerator(1.0, spec(size))
    state = generator.initialize()
    for stddev in (0.001, 3.0, 10.0, 0.0):
        state = generator.make_state(state.seeds, stddev)
        value, state = generator.next(state)
        # 5.1 standard errors of a deviation.
        assert float(np.std(value)) == pytest.approx(stddev, rel=5.1 / math.sqrt(2 * size))


QUERIES = (tfp.TreeCumulativeSumQuery, tfp.TreeResidualSumQuery)


def l2(leaves, clip):
    norm = math.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in leaves))
    return [leaf * min(1.0, clip / norm) if norm else leaf for leaf in leaves]


def largest(leaves, clip):
    return [jnp.clip(leaf, -clip, clip) for leaf in leaves]


def scalar_query(kind, clip, node, **more):
    return kind(
        clip_fn=l2, clip_value=clip, noise_generator=lambda: node, record_specs=SCALAR, **more
    )


def results(query, scalars, reset_every=None):
    state, found = query.initial_global_state(), []
    params = query.derive_sample_params(state)
    for step, scalar in enumerate(scalars):
        total = query.initial_sample_state(scalar)
        total = query.accumulate_record(params, total, scalar)
        result, state, event = query.get_noised_result(total, state)
        assert isinstance(event, dp_accounting.UnsupportedDpEvent)
        found.append(float(result))
        if reset_every and step % reset_every == reset_every - 1:
            state = query.reset_state(result, state)
    return found


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (10.0, np.cumsum(np.arange(7))),
        (0.5, np.arange(7) * 0.5),
        (5.0, [0, 1, 3, 6, 10, 15, 20]),
    ],
)
def test_prefix_sums_without_noise(clip, expected):
    scalars = np.arange(7, dtype=np.float32)
    assert results(scalar_query(tfp.TreeCumulativeSumQuery, clip, 0.0), scalars) == list(expected)
    single = tfp.TreeCumulativeSumQuery.build_l2_gaussian_query(clip, 0.0, SCALAR)
    assert results(single, scalars) == pytest.approx(list(expected))
    residual = tfp.TreeResidualSumQuery.build_l2_gaussian_query(clip, 0.0, SCALAR)
    assert np.cumsum(results(residual, scalars)) == pytest.approx(list(expected))


@pytest.mark.parametrize(("scalar", "node"), [(0.0, 1.0), (1.0, 1.0), (1.0, 2.0)])
def test_prefix_sums_with_a_trees_noise(scalar, node):
    query = scalar_query(tfp.TreeCumulativeSumQuery, scalar + 1, node, use_efficient=False)
    expected = [scalar * i + node * bin(i).count("1") for i in range(1, 9)]
    assert results(query, [scalar] * 8) == expected


@pytest.mark.parametrize(
    ("scalar", "node", "period"),
    [(0.0, 1.0, 1), (0.0, 1.0, 2), (0.0, 1.0, 5), (1.0, 1.0, 5), (1.0, 2.0, 2), (1.0, 5.0, 6)],
)
def test_trees_that_start_anew(scalar, node, period):
    def bits(number):
        return bin(number).count("1")

    cumulative = [
        scalar * (i + 1) + i // period * node * bits(period) + node * bits(i % period + 1)
        for i in range(20)
    ]
    residual = [scalar + node * (bits(i % period + 1) - bits(i % period)) for i in range(20)]
    for kind, expected in zip(QUERIES, (cumulative, residual), strict=True):
        query = scalar_query(kind, scalar + 1, node, use_efficient=False)
        assert results(query, [scalar] * 20, reset_every=period) == expected
        indicator = restart_query.PeriodicRoundRestartIndicator(period)
        assert results(tfp.RestartQuery(query, indicator), [scalar] * 20) == expected


@pytest.mark.parametrize("kind", QUERIES)
@pytest.mark.parametrize("clip", [10.0, 1.0])
def test_records_are_clipped_before_the_tree(kind, clip):
    record = [jnp.array([[1.0, 2.0], [0.0, 2.0]]), {"a": jnp.array(4.0)}]  # of norm 5
    scale = min(1.0, clip / 5)
    for query, expected in (
        (kind(STRUCTURE, lambda: 0.0, l2, clip), scale * record[0]),
        (kind.build_l2_gaussian_query(clip, 1.0, STRUCTURE), scale * record[0]),
        (kind(STRUCTURE, lambda: 0.0, largest, clip), np.minimum(record[0], clip)),
    ):
        found = query.preprocess_record(query.initial_global_state().clip_value, record)
        assert np.allclose(found[0], expected, rtol=1e-5)
        bad = [record[0], {"a": jnp.array(math.nan)}]
        found = query.preprocess_record(clip, bad)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.filterwarnings(SEEDED)
@pytest.mark.parametrize("efficient", [True, False])
def test_residuals_add_up_to_prefix_sums(run_query, efficient):
    rng = np.random.default_rng(0)
    made = [kind.build_l2_gaussian_query(1.0, 2.0, spec(3), 5, efficient) for kind in QUERIES]
    cumulative, residual = made
    states, total = [query.initial_global_state() for query in made], np.zeros(3)
    for _ in range(12):
        records = [jnp.asarray(rng.uniform(size=3), jnp.float32) for _ in range(4)]
        prefix, states[0] = run_query(cumulative, records, states[0])
        part, states[1] = run_query(residual, records, states[1])
        total = total + part
        assert np.allclose(total, prefix, atol=1e-4)


@pytest.mark.parametrize("kind", QUERIES)
def test_the_first_result_has_a_nodes_noise(repeatable, kind):
    size = 20000
    query = kind.build_l2_gaussian_query(0.5, 3.0, spec(size))
    total = query.initial_sample_state(np.zeros(size))
    state = query.initial_global_state()
    a, _, _ = query.get_noised_result(total, state)
    b, _, _ = query.get_noised_result(total, state)
    for found in (a, b):
        # 5.1 standard errors of a deviation.
        assert float(np.std(found)) == pytest.approx(1.5, rel=5.1 / math.sqrt(2 * size))
    assert np.all(np.asarray(a) != np.asarray(b))


@pytest.mark.parametrize("kind", QUERIES)
def test_noise_is_not_broadcast(kind):
    # One number's noise for four places would cancel between them.
    query = kind.build_l2_gaussian_query(1.0, 1.0, SCALAR)
    with pytest.raises(ValueError, match="shapes"):
        query.get_noised_result(jnp.zeros(4), query.initial_global_state())
    query = kind(spec(4), lambda: 1.0, l2, 1.0)
    with pytest.raises(ValueError, match="shapes"):
        query.get_noised_result(jnp.zeros(4), query.initial_global_state())


def test_another_clip_is_another_tree(run_query):
    # A node's noise must fit the records below it, those under the old clip too.
    query = tfp.TreeResidualSumQuery.build_l2_gaussian_query(2.0, 1.0, SCALAR)
    _, state = run_query(query, [1.0])
    assert tree_aggregation.get_step_idx(state.tree_state) == 1
    state = query.reset_l2_clip_gaussian_noise(state, clip_norm=0.5, stddev=0.25)
    assert tree_aggregation.get_step_idx(state.tree_state) == 0
    assert float(state.previous_tree_noise) == 0
    assert state.tree_state.value_generator_state.stddev == 0.25
    assert query.derive_sample_params(state) == 0.5
    assert query.derive_metrics(state) == {"tree_agg_dpftrl_clip": 0.5}
    fixed = scalar_query(tfp.TreeResidualSumQuery, 1.0, 0.0)
    with pytest.raises(ValueError, match="GaussianNoiseGenerator"):
        fixed.reset_l2_clip_gaussian_noise(fixed.initial_global_state(), 1.0, 1.0)


@pytest.mark.parametrize("kind", QUERIES)
def test_trees_check_their_numbers(kind):
    with pytest.raises(ValueError, match="clip_norm"):
        kind.build_l2_gaussian_query(-1.0, 1.0, SCALAR)
    with pytest.raises(ValueError, match="noise_multiplier"):
        kind.build_l2_gaussian_query(1.0, -1.0, SCALAR)


@pytest.mark.parametrize(("period", "warmup"), [(1, None), (5, None), (2, 1), (4, 3), (5, 2)])
def test_restarts_every_so_many_results(period, warmup):
    indicator = restart_query.PeriodicRoundRestartIndicator(period, warmup)
    state, found = indicator.initialize(), []
    for step in range(20):
        flag, state = indicator.next(state)
        found.append(step % period == (warmup or period) - 1)
        assert flag == found[-1]
    assert any(found)


def test_restarts_every_so_many_seconds(monkeypatch):
    now = 1627018868.0
    monkeypatch.setattr("time.time", lambda: now)
    indicator = restart_query.PeriodicTimeRestartIndicator(period_seconds=3600 * 23.5)
    state = indicator.initialize()
    for hours, expected in ((1, False), (24, True), (26, False), (47.4, False), (47.51, True)):
        now = 1627018868.0 + 3600 * hours
        flag, state = indicator.next(state)
        assert flag == expected


def test_restarts_check_their_arguments():
    for period in (0, -1):
        with pytest.raises(ValueError, match="period"):
            restart_query.PeriodicRoundRestartIndicator(period)
        with pytest.raises(ValueError, match="period_seconds"):
            restart_query.PeriodicTimeRestartIndicator(period)
    for warmup in (0, -1, 2, 3):
        with pytest.raises(ValueError, match="warmup"):
            restart_query.PeriodicRoundRestartIndicator(2, warmup)
    with pytest.raises(ValueError, match="reset_state"):
        tfp.RestartQuery(
            tfp.GaussianSumQuery(1.0, 1.0), restart_query.PeriodicRoundRestartIndicator(2)
        )


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("arity", [2, 3])
def test_a_tree_over_bins(bins, arity):
    leaves = np.arange(1, bins + 1)
    query = tfp.TreeRangeSumQuery(tfp.NoPrivacySumQuery(), arity)
    state = query.initial_global_state()
    total = query.accumulate_record(
        query.derive_sample_params(state), query.initial_sample_state(leaves), leaves
    )
    tree, _, _ = query.get_noised_result(total, state)
    for layer, nodes in enumerate(tree):
        span = arity ** (len(tree) - 1 - layer)
        assert len(nodes) == arity**layer
        assert [int(node) for node in nodes] == [
            int(leaves[i * span : (i + 1) * span].sum()) for i in range(len(nodes))
        ]
    assert arity ** (len(tree) - 1) >= bins > arity ** (len(tree) - 2)


def test_ranges_with_central_noise(repeatable):
    query = tfp.TreeRangeSumQuery.build_central_gaussian_query(0.5, 2.0)
    state = query.initial_global_state()
    params = query.derive_sample_params(state)
    record = jnp.zeros(2**12).at[3].set(1.0)
    clipped = query.preprocess_record(params, record)
    assert float(jnp.linalg.norm(clipped)) == pytest.approx(0.5, rel=1e-5)  # of all layers
    tree, _, event = query.get_noised_result(query.initial_sample_state(record), state)
    assert [len(layer) for layer in tree] == [2**layer for layer in range(13)]
    noise = np.concatenate(tree)
    # 5.1 standard errors of a deviation.
    assert float(np.std(noise)) == pytest.approx(2.0, rel=5.1 / math.sqrt(2 * len(noise)))
    assert event == dp_accounting.GaussianDpEvent(4.0)


@pytest.mark.parametrize(
    ("norm", "stddev", "arity", "name"),
    [(0.0, 1.0, 2, "l2_norm"), (1.0, -1.0, 2, "stddev"), (1.0, 1.0, 1, "arity")],
)
def test_ranges_check_their_numbers(norm, stddev, arity, name):
    kind = tree_range_query.TreeRangeSumQuery
    for made in (kind.build_central_gaussian_query, kind.build_distributed_discrete_gaussian_query):
        with pytest.raises(ValueError, match=name):
            made(norm, stddev, arity)
    with pytest.raises(ValueError, match="row of bins"):
        kind.build_central_gaussian_query(1.0, 1.0).initial_sample_state(jnp.zeros((2, 2)))


def test_ranges_with_noise_on_every_record():
    query = tfp.TreeRangeSumQuery.build_distributed_discrete_gaussian_query(10.0, 3.0)
    state = query.initial_global_state()
    # A sample without records has no noise; each record brings its own.
    empty = query.initial_sample_state(jax.ShapeDtypeStruct((4,), jnp.int32))
    tree, _, event = query.get_noised_result(empty, state)
    assert [list(map(int, layer)) for layer in tree] == [[0], [0] * 2, [0] * 4]
    assert isinstance(event, dp_accounting.UnsupportedDpEvent)
    record, params = np.zeros(64, np.int32), query.derive_sample_params(state)
    a, b = (np.asarray(query.preprocess_record(params, record)) for _ in range(2))
    assert np.any(a)
    assert np.any(a != b)
