"""Automatic clipping: as Bu et al. define it, and never longer than its sensitivity."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hushgrad as hg
from hushgrad.clip import Automatic, Flat
from hushgrad.errors import InputError

DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200, deadline=None)
@given(
    direction=st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=24),
    power=st.floats(-24, 15),
    gamma=st.sampled_from([1e-6, 0.01, 3.0]),
)
def test_no_contribution_is_longer_than_the_sensitivity(
    contribution, exact_squared_norm, dtype, direction, power, gamma
):
    gradient = (np.array(direction) * 10.0**power).astype(dtype)
    assert (
        exact_squared_norm(contribution(Automatic(gamma), gradient))
        <= Automatic(gamma).sensitivity ** 2
    )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.floats(5, 15))
def test_nor_where_gamma_is_lost_in_rounding(contribution, exact_squared_norm, dtype, seed, power):
    """Beside norms of 1e8 and more, gamma is less than a rounding error."""
    gradient = (np.random.default_rng(seed).normal(size=24) * 10.0**power).astype(dtype)
    squared = exact_squared_norm(contribution(Automatic(0.01), gradient))
    assert (1 - 300 * float(np.finfo(dtype).eps)) ** 2 - 2e-7 <= squared <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 4)),
    seed=st.integers(0, 2**32 - 1),
    gamma=st.floats(1e-4, 10),
)
def test_coefficients_are_one_over_norm_plus_gamma(dtype, shape, seed, gamma):
    rng = np.random.default_rng(seed)
    squared, slack = 10.0 ** rng.uniform(-6, 6, (2, *shape)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        got = Automatic(gamma).coefficients(jnp.asarray(squared), jnp.asarray(slack))
    assert got.dtype == squared.dtype
    want = 1 / (np.sqrt(np.float64(squared) + slack) + gamma)
    np.testing.assert_allclose(got, want, rtol=20 * float(np.finfo(dtype).eps))


def test_a_zero_gradient_stays_zero(contribution):
    np.testing.assert_array_equal(contribution(Automatic(0.01), np.zeros(3, np.float32)), 0)


def test_directions_are_kept_and_short_gradients_stay_shorter(contribution):
    gradient = np.array([3.0, -4.0], np.float32)
    np.testing.assert_allclose(contribution(Automatic(0.01), gradient), gradient / 5.01, rtol=1e-5)
    np.testing.assert_allclose(
        contribution(Automatic(0.01), gradient / 500), gradient / 500 / 0.02, rtol=1e-5
    )


def test_the_sensitivity_is_one_whatever_gamma_is():
    assert Automatic().sensitivity == Automatic(5.0).sensitivity == 1.0
    assert Automatic().sensitivity_at(None) == 1.0
    assert hg.clipped_grad(jnp.vdot, Automatic(0.1)).sensitivity == 1.0


def test_a_rule_is_immutable_plain_data():
    rule = Automatic(1)
    assert type(rule.gamma) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.gamma = 2.0  # pyright: ignore
    assert rule == Automatic(1.0) != Automatic()
    assert hash(rule) == hash(Automatic(1.0))
    assert rule != Flat(1.0)
    assert json.loads(json.dumps(rule.to_dict())) == {"kind": "automatic", "gamma": 1.0}
    assert "divided by their norm plus 1 " in rule.describe()


def test_its_bound_does_not_move():
    rule = Automatic()
    assert rule.init() is None
    assert rule.for_batch(100) == rule
    assert rule.sum_noise_multiplier(1.1) == 1.1
    assert rule.update(None, jnp.float32(3), jnp.float32(1), 10) is None
    with pytest.raises(InputError, match=r"norm is the current bound of clip=Adaptive.*got norm=2"):
        rule.coefficients(jnp.ones((1, 1)), jnp.zeros((1, 1)), 2.0)


@pytest.mark.parametrize("gamma", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_no_rule_without_a_positive_gamma(gamma):
    with pytest.raises(InputError, match="gamma must be a positive finite number") as caught:
        Automatic(gamma)
    assert repr(gamma) in str(caught.value)


@pytest.mark.parametrize("gamma", [1e-300, 9.9e-7, 1.1e15])
def test_no_rule_where_squares_of_gradients_that_matter_vanish(gamma):
    with pytest.raises(InputError, match="gamma must lie between 1e-06 and 1e\\+15"):
        Automatic(gamma)
