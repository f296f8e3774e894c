"""Adaptive clipping: which way the norm moves and where it stays, and what the count costs."""

import dataclasses
import json
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad.clip import Adaptive, Flat
from hushgrad.errors import InputError

RULE = Adaptive(0.5, initial_norm=1.0, count_stddev=5.0)


def moved(rule=RULE, norm=1.0, *, below=0, above=0, normal=0.0, batch_size=100) -> float:
    """The next norm after a batch with so many norms below and above this one."""
    bits = np.float32((below - above) / 2)
    out = rule.update(jnp.float32(norm), jnp.asarray(bits), jnp.float32(normal), batch_size)
    assert out.dtype == jnp.float32
    assert out.shape == ()
    return float(out)


def test_all_norms_above_make_it_grow_and_all_below_make_it_shrink():
    assert moved(above=100) == pytest.approx(math.exp(0.1), rel=1e-6)
    assert moved(below=100) == pytest.approx(math.exp(-0.1), rel=1e-6)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
def test_at_the_quantile_it_stays(quantile):
    rule = dataclasses.replace(RULE, quantile=quantile)
    below = round(100 * quantile)
    assert moved(rule, 3.0, below=below, above=100 - below) == pytest.approx(3.0, rel=1e-6)
    assert moved(rule, 3.0, below=below + 9, above=91 - below) < 3.0
    assert moved(rule, 3.0, below=below - 9, above=109 - below) > 3.0


@settings(max_examples=200, deadline=None)
@given(
    quantile=st.floats(0.01, 0.99),
    learning_rate=st.floats(1e-3, 2),
    norm=st.floats(1e-4, 1e4),
    below=st.integers(0, 300),
    above=st.integers(0, 300),
    normal=st.floats(-6, 6),
    batch_size=st.integers(50, 500),
)
def test_the_update_is_andrew_et_al(
    quantile, learning_rate, norm, below, above, normal, batch_size
):
    """Their noised share of uncentred bits, where the batch has its expected size."""
    rule = Adaptive(quantile, learning_rate=learning_rate, count_stddev=batch_size / 20)
    got = moved(rule, norm, below=below, above=above, normal=normal, batch_size=batch_size)
    # Centring takes off half of the drawn batch and puts half of the expected one back.
    share = (below - (below + above) / 2 + normal * batch_size / 20) / batch_size + 0.5
    want = norm * math.exp(-learning_rate * (share - quantile))
    assert got == pytest.approx(want, rel=1e-4)


def test_noise_on_the_count_moves_it_by_its_deviation():
    """One deviation of 5 in a batch of 100 is 0.05 of the share."""
    assert moved(below=50, above=50, normal=1.0) == pytest.approx(math.exp(-0.2 * 0.05), rel=1e-6)
    assert moved(below=50, above=50, normal=-2.0) == pytest.approx(math.exp(0.2 * 0.1), rel=1e-6)


def test_an_empty_batch_is_half_below_and_half_above():
    assert moved() == pytest.approx(1.0)


def test_it_stays_where_float32_can_hold_it():
    low, high = np.float32(1e-6), np.float32(1e15)
    assert moved(norm=low, below=100) == low
    assert moved(norm=high, above=100) == high
    assert moved(norm=1.0, normal=1e30) == low
    assert moved(norm=1.0, normal=-1e30) == high


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("start", [1e-3, 50.0])
def test_it_finds_the_quantile(quantile, start):
    """Poisson batches of about 100 from norms whose logarithm is normal(0, 1)."""
    rng = np.random.default_rng(11)
    rule = Adaptive(quantile, initial_norm=start, count_stddev=5.0)
    update = jax.jit(lambda norm, bits, normal: rule.update(norm, bits, normal, 100))
    norm, logs = rule.init(), []
    for _ in range(600):
        norms = np.exp(rng.normal(size=rng.poisson(100)))
        bits = np.where(norms <= float(norm), 0.5, -0.5).sum()
        norm = update(norm, jnp.float32(bits), jnp.float32(rng.normal()))
        logs.append(math.log(float(norm)))
    # The noised share has deviation sqrt(100/4 + 25) / 100 = 0.07. Log norms are then close to an
    # autoregression with coefficient 1 - 0.2 f, f >= 0.28 the normal density at the quantile:
    # stationary deviation at most 0.2 * 0.07 / sqrt(2 * 0.2 * 0.28) = 0.042, and the mean
    # of 400 steps, worth 400 * 0.2 * 0.28 / 2 = 11 independent ones, 0.013. Five of these.
    exact = {0.3: -0.5244, 0.5: 0.0, 0.8: 0.8416}[quantile]
    assert abs(np.mean(logs[200:]) - exact) < 0.065


@settings(max_examples=300, deadline=None)
@given(z=st.floats(1e-6, 1e6), ratio=st.floats(1.0000001, 1e9))
def test_the_two_noises_cost_together_what_one_of_z_does(z, ratio):
    rule = dataclasses.replace(RULE, count_stddev=z * ratio / 2)
    twice = 2 * Fraction(rule.count_stddev)
    split = rule.sum_noise_multiplier(z)
    # In exact numbers, and not a hair more noise than that.
    assert Fraction(split) ** -2 + twice**-2 <= Fraction(z) ** -2
    exact = Fraction(z) ** -2 - twice**-2
    assert Fraction(split) ** -2 >= exact * (1 - Fraction(2**-50))


def test_the_split_at_the_papers_numbers():
    """Twice the count's deviation is 25.6: the sum's noise grows by less than a thousandth."""
    rule = Adaptive().for_batch(256)
    assert rule.count_stddev == 12.8
    assert rule.sum_noise_multiplier(1.0) == pytest.approx((1 - 25.6**-2) ** -0.5, rel=1e-12)


@pytest.mark.parametrize("stddev", [0.01, 0.5499, 0.55])
def test_a_count_that_costs_all_of_the_step_is_refused(stddev):
    with pytest.raises(InputError) as caught:
        Adaptive(count_stddev=stddev).sum_noise_multiplier(1.1)
    message = str(caught.value)
    assert "count_stddev must be above half the noise multiplier, 0.55" in message
    assert f"got {stddev:g}" in message
    assert "Adaptive(count_stddev=...)" in message


def test_without_the_counts_noise_nothing_is_released():
    rule = Adaptive()
    for use in (lambda: rule.sum_noise_multiplier(1.0), lambda: moved(rule)):
        with pytest.raises(InputError, match=r"count_stddev is not known.*hg\.dp_sgd"):
            use()


def test_the_batch_size_fills_in_the_counts_noise_and_nothing_else():
    assert Adaptive(0.3).for_batch(200) == Adaptive(0.3, count_stddev=10.0)
    assert RULE.for_batch(10**6) == RULE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=100, deadline=None)
@given(norm=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_within_a_step_it_is_flat_clipping_at_the_current_norm(dtype, norm, seed):
    rng = np.random.default_rng(seed)
    norm = float(np.float32(norm))
    squared = (10.0 ** rng.uniform(-8, 8, (5, 1))).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        squared, slack = jnp.asarray(squared), jnp.asarray(squared / 7)
        want = Flat(norm).coefficients(squared, slack)
        for given_norm in (norm, jnp.float32(norm), np.float32(norm)):
            got = RULE.coefficients(squared, slack, given_norm)
            assert got.dtype == squared.dtype
            np.testing.assert_array_equal(got, want)


def test_the_first_norm_is_the_initial_one():
    rule = Adaptive(initial_norm=0.25)
    squared = jnp.array([[1.0], [0.01]])
    want = Flat(0.25).coefficients(squared, squared)
    np.testing.assert_array_equal(rule.coefficients(squared, squared), want)
    np.testing.assert_array_equal(rule.coefficients(squared, squared, rule.init()), want)
    assert rule.sensitivity == rule.sensitivity_at(None) == float(rule.init()) == 0.25
    assert rule.sensitivity_at(jnp.float32(8)) == 8


def test_the_ends_of_what_float32_holds_are_norms_too():
    for end in (1e-6, 1e15):
        rule = Adaptive(initial_norm=end)
        assert np.all(rule.coefficients(jnp.full((1, 1), 4 * end**2), jnp.zeros((1, 1))) > 0.4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0, 1e-7, 1e16])
def test_a_norm_that_cannot_be_used(bad):
    squared = jnp.array([[1e-3], [1.0], [1e6]])
    with pytest.raises(InputError, match=r"^norm must "):
        RULE.coefficients(squared, squared, jnp.float32(bad))
    # Where it is known too late to refuse, nothing at all is added.
    np.testing.assert_array_equal(jax.jit(RULE.coefficients)(squared, squared, jnp.float32(bad)), 0)


@pytest.mark.parametrize("norm", [0.5, np.float32(0.5), jnp.float32(0.5), jnp.bfloat16(0.5), None])
def test_a_norm_that_is_known_while_the_caller_is_traced(norm):
    rule, squared = Adaptive(initial_norm=0.5), jnp.array([[4.0], [0.01]])
    got = jax.jit(lambda s: rule.coefficients(s, 0 * s, rule.current(norm)))(squared)
    np.testing.assert_allclose(got, [[0.25], [1.0]])
    with pytest.raises(InputError, match="norm must be a positive finite number"):
        jax.jit(lambda s: rule.coefficients(s, s, -1.0))(squared)


@pytest.mark.parametrize("bad", [jnp.ones(3), jnp.int32(1), 1, True, "1", 1j])
def test_a_norm_that_is_no_number(bad):
    with pytest.raises((InputError, TypeError)):
        RULE.current(bad)


def test_a_rule_is_immutable_plain_data():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RULE.quantile = 0.6  # pyright: ignore
    same = Adaptive(quantile=0.5, initial_norm=1, learning_rate=0.2, count_stddev=5)
    assert same == RULE
    assert hash(same) == hash(RULE)
    for change in ("quantile", "initial_norm", "learning_rate", "count_stddev"):
        assert dataclasses.replace(RULE, **{change: 0.7}) != RULE
    data = RULE.to_dict()
    assert data == {
        "kind": "adaptive",
        "quantile": 0.5,
        "initial_norm": 1.0,
        "learning_rate": 0.2,
        "count_stddev": 5.0,
    }
    assert json.loads(json.dumps(data)) == data
    assert "starts at 1 and follows the 0.5 quantile" in RULE.describe()
    assert "deviation 5" in RULE.describe()


@pytest.mark.parametrize("bad", [0, -0.1, math.nan, math.inf, True, "1"])
@pytest.mark.parametrize("name", ["quantile", "initial_norm", "learning_rate", "count_stddev"])
def test_arguments_out_of_range(name, bad):
    with pytest.raises(InputError, match=f"^{name} must ") as caught:
        Adaptive(**{name: bad})
    assert repr(bad) in str(caught.value)


def test_a_quantile_of_one_is_none_and_norms_have_ends():
    with pytest.raises(InputError, match="quantile must lie strictly between 0 and 1, got 1"):
        Adaptive(1)
    with pytest.raises(InputError, match="initial_norm must lie between"):
        Adaptive(initial_norm=1e-9)
