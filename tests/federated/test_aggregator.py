"""Clip, sum, noise and divisor of clients' updates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.federated.clipping import bounded

KEY = np.arange(8, dtype=np.uint32)


def key(number: int) -> np.ndarray:
    return np.array([number, 1, 2, 3, 4, 5, 6, 7], np.uint32)


def test_the_defaults_of_tensorflow_federated():
    aggregator = hg.federated.dp_aggregator(noise_multiplier=1.0, clients_per_round=50)
    clip = aggregator.clip
    assert isinstance(clip, hg.clip.Adaptive)
    assert (clip.initial_norm, clip.quantile, clip.learning_rate) == (0.1, 0.5, 0.2)
    assert clip.count_stddev == 2.5
    # (1 - 1/25)^(-1/2), as its own state shows.
    assert aggregator.sum_noise_multiplier == pytest.approx(1.0206207, rel=1e-7)


@pytest.mark.parametrize("noise_multiplier", [5.0, 7.5])
def test_a_count_that_would_cost_all_is_refused(noise_multiplier):
    with pytest.raises(InputError, match="count_stddev must be above half the noise multiplier"):
        hg.federated.dp_aggregator(noise_multiplier, 50)  # 2 * 2.5 is not above it
    assert hg.federated.dp_aggregator(4.99, 50).sum_noise_multiplier > 4.99


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0.0, 50), "noise_multiplier"),
        ((1.0, 0), "clients_per_round"),
        ((1.0, 2.5), "clients_per_round"),
        ((float("nan"), 5), "noise_multiplier"),
    ],
)
def test_bad_settings(arguments, named):
    with pytest.raises(InputError, match=named):
        hg.federated.dp_aggregator(*arguments)


def test_noise_that_cancels_needs_a_clip_that_stays():
    with pytest.raises(InputError, match="take a clip that stays"):
        hg.federated.dp_aggregator(1.0, 50, strategy=hg.noise.Tree())
    assert hg.federated.dp_aggregator(1.0, 50, clip=0.3, strategy=hg.noise.Tree()).clip.sensitivity


def test_its_mechanism_hides_users():
    m = hg.federated.dp_aggregator(1.2, 120).mechanism(clients=3383, rounds=100, delta=1e-5)
    assert (m.unit, m.examples, m.batch_size, m.steps) == ("user", 3383, 120, 100)
    assert m.epsilon(accountant="rdp") == pytest.approx(1.986, abs=5e-4)
    assert m.epsilon() == pytest.approx(1.707, abs=1e-3)
    trees = hg.federated.dp_aggregator(2.0, 10, clip=1.0, strategy=hg.noise.Tree(5))
    m = trees.mechanism(clients=100, rounds=20, delta=1e-3)
    assert (m.unit, m.strategy) == ("user", hg.noise.Tree(5))
    blt = hg.noise.BLT.of(20, pattern=hg.noise.Spaced(2, 8))
    buffered = hg.federated.dp_aggregator(2.0, 10, clip=1.0, strategy=blt)
    coming = hg.sampling.CheckIn(10, min_separation=8, max_participations=2)
    m = buffered.mechanism(clients=100, rounds=20, delta=1e-3, sampling=coming)
    event = hg.accounting.poisson_gaussian(1.0, 2.0 / blt.sensitivity(20, hg.noise.Spaced(2, 8)), 1)
    wanted = hg.accounting.epsilon(event, 1e-3, relation="replace-special")
    assert (m.unit, m.strategy, m.epsilon()) == ("user", blt, pytest.approx(wanted))


UPDATES = st.lists(
    st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=12, max_size=12
)


@settings(max_examples=200, deadline=None)
@given(UPDATES, st.sampled_from([1e-3, 0.5, 1.0, 100.0]))
def test_nobody_adds_more_than_the_clip(values, norm):
    update = {"a": jnp.asarray(values[:8], jnp.float32).reshape(2, 4), "b": jnp.asarray(values[8:])}
    one = _bounded(update, hg.clip.Flat(norm))
    exact = np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in one.update.values()])
    assert np.isfinite(exact).all()
    assert math.fsum(exact**2) <= norm**2
    if not np.isfinite(np.asarray(values, np.float32)).all():
        assert not exact.any()
        assert not one.finite
        assert one.centred_bit == -0.5


_bounded = jax.jit(bounded, static_argnums=1)


def test_an_update_within_the_clip_is_left_whole():
    update = {"w": jnp.array([0.3, 0.4]), "n": jnp.array([3, 4])}
    one = bounded(update, hg.clip.Flat(1.0))
    np.testing.assert_array_equal(one.update["w"], update["w"])
    np.testing.assert_array_equal(one.update["n"], 0)  # no noise could hide it
    assert (float(one.norm), float(one.centred_bit)) == (pytest.approx(0.5), 0.5)


def test_the_parts_of_a_clip_by_layer():
    rule = hg.clip.PerLayer(total=1.0)
    update = {"a": jnp.array([30.0, 40.0]), "b": jnp.array([0.01])}
    made = bounded(update, rule).update
    total = math.sqrt(sum(float(jnp.sum(v**2)) for v in made.values()))
    assert total <= rule.sensitivity
    assert float(made["b"][0]) == pytest.approx(0.01)


def test_noise_is_for_the_clip_of_its_own_round_and_the_divisor_is_public():
    """Flower's adaptive clipping scales it with the next round's."""
    aggregator = hg.federated.dp_aggregator(1.0, 40)
    zeros = {"w": jnp.zeros(40_000)}
    state = aggregator.init(zeros)._replace(norm=jnp.float32(2.0))
    # Nobody came: the mean is noise alone, over the expected number of clients.
    mean, after = aggregator.release(aggregator.empty(zeros), state, key=KEY)
    wanted = aggregator.sum_noise_multiplier * 2.0 / 40
    # Of 40,000 squares the mean has relative deviation 0.0071; five of them.
    assert float(jnp.mean(mean["w"] ** 2)) == pytest.approx(wanted**2, rel=0.036)
    assert after.norm is not None
    assert float(after.norm) != 2.0


def test_noise_over_many_rounds_is_what_is_accounted():
    """Sum and count, standardised by what each moves: together one Gaussian of multiplier z."""
    z, clients, rounds = 0.6, 8, 4000
    aggregator = hg.federated.dp_aggregator(z, clients)
    zeros = {"w": jnp.zeros(3)}
    state = aggregator.init(zeros)
    clip = aggregator.clip
    assert isinstance(clip, hg.clip.Adaptive)
    assert clip.count_stddev is not None

    def one(words):
        sums = aggregator.empty(zeros)
        mean, after = aggregator.release(sums, state, key=words)
        share = clip.quantile - jnp.log(after.norm / clip.initial_norm) / clip.learning_rate
        return mean["w"] * clients / clip.initial_norm, (share - 0.5) * clients

    keys = np.random.default_rng(0).integers(0, 2**32, (rounds, 8), dtype=np.uint32)
    sums, counts = jax.vmap(one)(keys)
    # A chi-square of n has its 1e-6 tails at these quantiles: one false alarm in 250,000.
    for found, stddev in ((sums, aggregator.sum_noise_multiplier), (counts, clip.count_stddev)):
        squares = float(jnp.sum((found / stddev) ** 2))
        low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], found.size)
        assert low < squares < high
    # One client moves the sum by 1 and the centred count by 1/2.
    assert aggregator.sum_noise_multiplier**-2 + (2 * clip.count_stddev) ** -2 == pytest.approx(
        z**-2
    )
    # And the two are independent: the correlation of 4,000 pairs deviates by 0.016.
    assert abs(np.corrcoef(sums[:, 0], counts)[0, 1]) < 5 / math.sqrt(rounds)


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_clip_converges_to_the_quantile_from_both_sides(start):
    """Flower's runs away from it."""
    rng = np.random.default_rng(0)
    clients = 400
    clip = hg.clip.Adaptive(0.5, initial_norm=start)
    aggregator = hg.federated.dp_aggregator(0.5, clients, clip=clip)
    norms = jnp.asarray(rng.lognormal(0.0, 0.7, clients), jnp.float32)  # median 1
    state = aggregator.init({"w": jnp.zeros(1)})

    @jax.jit
    def step(state, words):
        def add(sums, norm):
            return aggregator.add(sums, {"w": norm[None]}, state), None

        sums, _ = jax.lax.scan(add, aggregator.empty({"w": jnp.zeros(1)}), norms)
        return aggregator.release(sums, state, key=words)[1]

    seen = []
    for number in range(120):
        state = step(state, key(number))
        seen.append(float(state.norm))
    # At the end it wanders with the count's noise, a twentieth of the cohort.
    assert np.median(seen[-30:]) == pytest.approx(float(np.median(norms)), rel=0.1)


def test_sums_and_metrics_of_bad_updates():
    aggregator = hg.federated.dp_aggregator(1.0, 50, clip=1.0)
    zeros = {"w": jnp.zeros(2), "n": jnp.zeros(2, jnp.int32)}
    state, sums = aggregator.init(zeros), aggregator.empty(zeros)
    whole = {"w": jnp.array([0.1, 0.0]), "n": jnp.zeros(2, jnp.int32)}
    for values in ([0.1, 0.0], [3.0, 4.0], [jnp.nan, 0.0], [jnp.inf, 1.0], [1e30, 0.0]):
        sums = aggregator.add(sums, whole | {"w": jnp.array(values)}, state)
    np.testing.assert_allclose(sums.grads["w"], [0.7, 0.8], rtol=1e-4)
    np.testing.assert_array_equal(sums.grads["n"], 0)
    assert (int(sums.clipped), int(sums.nonfinite)) == (1, 3)
    assert float(sums.centred_bits) == 0.5 - 4 * 0.5


def test_noise_that_cancels_between_rounds_needs_to_know_how_many():
    aggregator = hg.federated.dp_aggregator(1.0, 10, clip=1.0, strategy=hg.noise.Tree())
    zeros = jnp.zeros(8)
    with pytest.raises(InputError, match=r"rounds must be given .* init\(params, rounds=\.\.\.\)"):
        aggregator.init(zeros)
    state, sums = aggregator.init(zeros, rounds=9), aggregator.empty(zeros)
    tree = hg.noise.tree(1.0, steps=9)
    kept = tree.init(zeros)
    for number in range(9):
        mean, state = aggregator.release(sums, state, key=key(number))
        made, kept = tree.update(zeros, kept, key=key(number))
        np.testing.assert_allclose(mean * 10, made, rtol=1e-5, atol=1e-6)
