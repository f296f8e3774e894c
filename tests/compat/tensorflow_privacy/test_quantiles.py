"""Quantiles that are followed, and clips that follow them."""

import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hushgrad.compat import tensorflow_privacy as tfp

ROOT = 2 * math.sqrt(2)
CLOSE = {"rel": 1e-5, "abs": 1e-5}
KINDS = ("exact", "fixed", "tree")
# Start, target, learning rate, records, geometric, and the estimates after each sample.
PATHS = [
    (10.0, 0.0, 1.0, (8.5, 7.25), False, (9.0, 8.0, 7.5, 7.0, 7.0)),
    (16.0, 0.0, math.log(2), (5.0, 2.5), True, (8.0, 4.0, ROOT, 2.0, 2.0)),
    (0.0, 1.0, 1.0, (1.5, 2.75), False, (1.0, 2.0, 2.5, 3.0, 3.0)),
    (0.5, 1.0, math.log(2), (1.5, 3.0), True, (1.0, 2.0, ROOT, 4.0, 4.0)),
]


def estimator(kind, start, target, rate, stddev, expected, geometric):
    if kind == "exact":
        return tfp.NoPrivacyQuantileEstimatorQuery(start, target, rate, geometric)
    made = tfp.QuantileEstimatorQuery if kind == "fixed" else tfp.TreeQuantileEstimatorQuery
    return made(start, target, rate, stddev, expected, geometric)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "target", "rate", "records", "geometric", "path"), PATHS)
def test_an_estimate_moves_as_in_the_paper(
    run_query, kind, start, target, rate, records, geometric, path
):
    query = estimator(kind, start, target, rate, 0.0, 2.0, geometric)
    state = query.initial_global_state()
    assert state.current_estimate == start
    for expected in path:
        found, state = run_query(query, [jnp.array(each) for each in records], state)
        assert found == pytest.approx(expected, **CLOSE)
        assert query.derive_metrics(state)["estimate"] == found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1.0, 10.0])
@pytest.mark.parametrize("geometric", [False, True])
def test_an_estimate_finds_the_median(run_query, repeatable, kind, start, geometric):
    records = [np.float32(x) for x in np.linspace(0.0, 10.0, 21)]
    query = estimator(kind, start, 0.5, 1.0 if geometric else 3.0, 1e-2, 21, geometric)
    state = query.initial_global_state()
    for step in range(18):
        _, state = run_query(query, records, state)
        if step > 14:
            assert state.current_estimate == pytest.approx(5.0, abs=0.25)


def test_a_quantile_of_vectors_is_refused():
    query = tfp.NoPrivacyQuantileEstimatorQuery(1.0, 0.5, 1.0)
    params = query.derive_sample_params(query.initial_global_state())
    for record in ([1.0, 2.0], jnp.ones(2)):
        with pytest.raises(ValueError, match="scalar"):
            query.preprocess_record(params, record)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.0, -0.1, 1.0, 1.0, 2.0), "target_quantile"),
        ((1.0, 1.1, 1.0, 1.0, 2.0), "target_quantile"),
        ((1.0, 0.5, -1.0, 1.0, 2.0), "learning_rate"),
        ((1.0, 0.5, 1.0, -1.0, 2.0), "stddev"),
        ((1.0, 0.5, 1.0, 1.0, 0.0), "denominator"),
        ((math.nan, 0.5, 1.0, 1.0, 2.0), "initial_estimate"),
    ],
)
def test_estimators_check_their_numbers(arguments, name):
    with pytest.raises(ValueError, match=name):
        tfp.QuantileEstimatorQuery(*arguments)


def test_a_count_costs_twice_its_noise():
    query = tfp.QuantileEstimatorQuery(1.0, 0.5, 1.0, 3.0, 20)
    _, _, event = query.get_noised_result(0.0, query.initial_global_state())
    assert event == dp_accounting.GaussianDpEvent(6.0)


@pytest.mark.parametrize("record", [1.0, 9.0, math.nan, math.inf, -math.inf])
def test_no_record_weighs_more_than_half(record):
    query = tfp.QuantileEstimatorQuery(5.0, 0.5, 1.0, 3.0, 20)
    params = query.derive_sample_params(query.initial_global_state())
    weight = float(query.preprocess_record(params, record))
    assert weight == {1.0: 0.5, 9.0: -0.5}.get(record, 0.0)


@pytest.mark.parametrize("kind", ["fixed", "tree"])
def test_the_noise_of_the_estimate(run_query, repeatable, kind):
    # The share is right, so that all there is is noise: 0.1 on a count of 2.
    query = estimator(kind, 5.0, 0.5, 1.0, 0.1, 2.0, False)
    state, found = query.initial_global_state(), []
    for _ in range(400):
        estimate, after = run_query(query, [1.0, 10.0], state)
        found.append(estimate - 5.0)
        state = query.reset_state(estimate, after) if kind == "tree" else after
        state = state._replace(current_estimate=5.0)
    # 5.1 standard errors of a deviation.
    assert np.std(found) == pytest.approx(0.05, rel=5.1 / math.sqrt(800))


def adaptive(start, target, rate, geometric, noise=0.0, count=0.0, expected=2.0):
    return tfp.QuantileAdaptiveClipSumQuery(
        initial_l2_norm_clip=start,
        noise_multiplier=noise,
        target_unclipped_quantile=target,
        learning_rate=rate,
        clipped_count_stddev=count,
        expected_num_records=expected,
        geometric_update=geometric,
    )


@pytest.mark.parametrize(
    ("path", "records", "sums"),
    [
        (PATHS[0], (8.5, -7.25), (1.25, 1.25, 0.75, 0.25, 0.0)),
        (PATHS[1], (5.0, -2.5), (2.5, 2.5, 1.5, ROOT - 2.5, 0.0)),
        (PATHS[2], (-1.5, 2.75), (0.0, 0.0, 0.5, 1.0, 1.25)),
        (PATHS[3], (-1.5, 3.0), (0.0, 0.0, 0.5, ROOT - 1.5, 1.5)),
    ],
)
def test_a_clip_moves_as_in_the_paper(run_query, path, records, sums):
    start, target, rate, _, geometric, clips = path
    query = adaptive(start, target, rate, geometric)
    state = query.initial_global_state()
    for total, clip in zip(sums, clips, strict=True):
        found, state = run_query(query, [jnp.array([each]) for each in records], state)
        assert float(found[0]) == pytest.approx(total, **CLOSE)
        assert state.sum_state.l2_norm_clip == pytest.approx(clip, **CLOSE)
        assert query.derive_metrics(state)["clip"] == state.sum_state.l2_norm_clip


def test_a_clip_that_stays(run_query):
    records = [jnp.array([-6.0, 8.0]), jnp.array([4.0, -3.0])]
    found, _ = run_query(adaptive(5.0, 1.0, 0.0, True), records)
    assert np.allclose(found, [1.0, 1.0], atol=1e-4)


def test_the_noise_is_that_of_the_clip_in_force(repeatable):
    # The clip that comes out of a sample is the next one's, noise and all.
    size, z = 20000, 0.7
    query = adaptive(10.0, 0.0, 1.0, False, noise=z, count=1e-6)
    state, clip = query.initial_global_state(), 10.0
    record = jnp.zeros(size)
    for _ in range(3):
        params = query.derive_sample_params(state)
        assert params.sum_params == pytest.approx(clip)
        total = query.accumulate_record(params, query.initial_sample_state(record), record)
        total = query.accumulate_record(params, total, record)
        found, state, event = query.get_noised_result(total, state)
        # 5.1 standard errors of a deviation.
        assert float(np.std(found)) == pytest.approx(z * clip, rel=5.1 / math.sqrt(2 * size))
        gaussian, count = event.events
        assert gaussian.noise_multiplier == pytest.approx(z)
        assert count.noise_multiplier == pytest.approx(2e-6)
        clip -= 1  # both records are below


def test_a_clip_never_turns_negative(run_query):
    query = adaptive(0.5, 0.0, 1.0, False)
    found, state = run_query(query, [jnp.zeros(1), jnp.zeros(1)])
    assert state.sum_state == (0.0, 0.0)
    found, state = run_query(query, [jnp.ones(1), jnp.ones(1)], state)
    assert float(found[0]) == 0.0


def test_a_record_that_is_not_finite_moves_nothing(run_query):
    query = adaptive(5.0, 0.5, 1.0, False)
    good = [jnp.array([1.0]), jnp.array([9.0])]
    found, state = run_query(query, good)
    again, same = run_query(query, [*good, jnp.array([math.nan])])
    assert float(found[0]) == float(again[0])
    assert state == same


def test_a_trees_clip_moves_when_it_starts_anew(repeatable):
    size, z = 20000, 0.5
    inner = tfp.QAdaClipTreeResSumQuery(
        initial_l2_norm_clip=10.0,
        noise_multiplier=z,
        record_specs=jax.ShapeDtypeStruct((size,), jnp.float32),
        target_unclipped_quantile=0.0,
        learning_rate=1.0,
        clipped_count_stddev=1e-6,
        expected_num_records=2.0,
        geometric_update=False,
    )
    query = tfp.RestartQuery(inner, tfp.restart_query.PeriodicRoundRestartIndicator(period=2))
    state = query.initial_global_state()
    record = jnp.zeros(size)
    metrics = []
    for expected in (10.0, None, 8.0, None, 6.0):
        params = query.derive_sample_params(state)
        total = query.accumulate_record(params, query.initial_sample_state(record), record)
        total = query.accumulate_record(params, total, record)
        found, state, event = query.get_noised_result(total, state)
        if expected:  # a tree's first node
            deviation = z * expected
            assert float(np.std(found)) == pytest.approx(deviation, rel=5.1 / math.sqrt(2 * size))
        metrics.append(tuple(query.derive_metrics(state).values()))
        assert all(isinstance(e, dp_accounting.UnsupportedDpEvent) for e in event.events)
    expected = [(10, 9), (8, 8), (8, 7), (6, 6), (6, 5)]
    assert np.allclose(metrics, expected, atol=1e-4)
    assert list(query.derive_metrics(state)) == ["current_clip", "estimate_clip"]


def test_a_trees_clip_bounds_its_records():
    query = tfp.QAdaClipTreeResSumQuery(
        1.0, 1.0, jax.ShapeDtypeStruct((2,), jnp.float32), 0.5, 0.2, 1.0, 2
    )
    params = query.derive_sample_params(query.initial_global_state())
    found = query.preprocess_record(params, jnp.array([3.0, 4.0]))
    assert np.allclose(found.sum_state, [0.6, 0.8], atol=1e-5)
    assert float(found.quantile_estimator_state) == -0.5
    found = query.preprocess_record(params, jnp.array([3.0, math.nan]))
    assert not np.any(found.sum_state)
    assert float(found.quantile_estimator_state) == 0
