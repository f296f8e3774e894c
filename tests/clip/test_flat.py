"""Flat clipping: the bound holds for the rounded numbers, and costs no more than it must."""

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad import clip
from hushgrad.errors import InputError

DTYPES = ["float32", "float64"]
FLOATS = st.floats(-1, 1, allow_subnormal=False)
DIRECTIONS = st.lists(FLOATS, min_size=1, max_size=24)
CLIPS = st.floats(-5, 6).map(lambda power: 10.0**power)
# Those that are compiled into the engine.
FEW_CLIPS = st.sampled_from([1e-5, 0.1, 1.0, 3.7, 1e4])


def coefficient(norm: float, squared: np.floating, slack: float = 0.0) -> np.floating:
    """The coefficient of one example, in the squared norm's dtype."""
    with jax.enable_x64(squared.dtype == np.float64):
        out = clip.Flat(norm).coefficients(
            jnp.asarray([[squared]]), jnp.asarray([[slack]], squared.dtype)
        )
        assert out.shape == (1, 1)
        assert out.dtype == squared.dtype
        return np.asarray(out)[0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200, deadline=None)
@given(direction=DIRECTIONS, power=st.floats(-15, 15), norm=FEW_CLIPS)
def test_the_scaled_norm_never_exceeds_the_clip(
    contribution, exact_squared_norm, dtype, direction, power, norm
):
    scaled = contribution(clip.Flat(norm), (np.array(direction) * 10.0**power).astype(dtype))
    assert exact_squared_norm(scaled) <= Fraction(norm) ** 2


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200, deadline=None)
@given(direction=DIRECTIONS, ulps=st.integers(-200, 200), norm=FEW_CLIPS)
def test_nor_where_the_norm_is_the_clip_but_for_rounding(
    contribution, exact_squared_norm, dtype, direction, ulps, norm
):
    length = math.hypot(*direction)
    if length < 1e-3:
        direction, length = [1.0], 1.0
    wanted = norm * (1 + ulps * float(np.finfo(dtype).eps))
    scaled = contribution(clip.Flat(norm), (np.array(direction) / length * wanted).astype(dtype))
    assert exact_squared_norm(scaled) <= Fraction(norm) ** 2
    # Nor is more taken off than the head room.
    assert exact_squared_norm(scaled) >= (norm * (1 - 500 * float(np.finfo(dtype).eps))) ** 2


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100, deadline=None)
@given(ratio=st.floats(1e-6, 1e6), norm=CLIPS)
def test_no_more_is_cut_than_rounding_takes(dtype, ratio, norm):
    eps = float(np.finfo(dtype).eps)
    c = float(coefficient(norm, np.dtype(dtype).type((norm * ratio) ** 2)))
    assert min(1, 1 / ratio) * (1 - 40 * eps) <= c <= min(1, (1 + 4 * eps) / ratio)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=50, deadline=None)
@given(share=st.floats(0, 0.9999), norm=CLIPS)
def test_shorter_gradients_are_untouched(dtype, share, norm):
    assert coefficient(norm, np.dtype(dtype).type((norm * share) ** 2)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_gradient_is_no_division_by_zero(dtype):
    assert coefficient(1.0, np.dtype(dtype).type(0)) == 1


def test_a_norm_beyond_the_largest_number_leaves_nothing():
    assert coefficient(1.0, np.float32(np.inf)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100, deadline=None)
@given(power=st.floats(-4, 4), error=st.floats(0, 100), norm=CLIPS)
def test_slack_is_counted_as_if_it_were_norm(dtype, power, error, norm):
    """Whatever the true squared norm is between `squared` and `squared + slack`."""
    squared = np.dtype(dtype).type((norm * 10.0**power) ** 2)
    slack = np.dtype(dtype).type(squared * error)
    c = coefficient(norm, squared, slack)
    largest = Fraction(float(squared)) + Fraction(float(slack))
    rounding = 1 + 8 * Fraction(float(np.finfo(dtype).eps))
    assert Fraction(float(c)) ** 2 * largest <= Fraction(norm) ** 2 * rounding


def test_slack_alone_clips():
    c = coefficient(1.0, np.float32(1), slack=3.0)
    assert c == pytest.approx(0.5, rel=1e-5)


def test_examples_do_not_see_each_other():
    squared = jnp.array([0.0, 0.25, 4.0, jnp.inf, 100.0, 1e-12])[:, None]
    slack = jnp.array([0.0, 0.0, 0.0, 0.0, 300.0, 0.0])[:, None]
    together = jax.jit(clip.Flat(1.0).coefficients)(squared, slack)
    np.testing.assert_allclose(together[:, 0], [1, 1, 0.5, 0, 0.05, 1], rtol=1e-5)
    for order in (np.arange(6)[::-1], np.array([3, 1, 5, 0, 2, 4])):
        again = jax.jit(clip.Flat(1.0).coefficients)(squared[order], slack[order])
        np.testing.assert_array_equal(again, together[order])


@pytest.mark.parametrize("norm", [1e-3, 0.5, 1, 7.25, np.float32(2), np.int64(3)])
def test_the_sensitivity_is_the_norm(norm):
    rule = clip.Flat(norm)
    assert rule.sensitivity == rule.norm == float(norm)
    assert type(rule.norm) is float


def test_a_rule_is_immutable_plain_data():
    rule = clip.Flat(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.norm = 2.0  # pyright: ignore
    assert rule == clip.Flat(1.0)
    assert hash(rule) == hash(clip.Flat(1.0))
    assert rule != clip.Flat(2.0)


@pytest.mark.parametrize("norm", [0, -1.0, math.nan, math.inf, -math.inf, True, "1", None, [1.0]])
def test_no_rule_without_a_positive_norm(norm):
    with pytest.raises(InputError, match="clip must be a positive finite number") as caught:
        clip.Flat(norm)
    assert repr(norm) in str(caught.value)


@pytest.mark.parametrize("norm", [1e-300, 9.9e-7, 1.1e15, 1e300])
def test_no_rule_where_float32_cannot_hold_the_bound(norm):
    with pytest.raises(InputError, match="clip must lie between 1e-06 and 1e\\+15") as caught:
        clip.Flat(norm)
    assert repr(norm) in str(caught.value)


@pytest.mark.parametrize("norm", [1e-6, 1e15])
def test_the_ends_of_what_it_can(contribution, exact_squared_norm, norm):
    assert clip.Flat(norm).norm == norm
    largest = contribution(clip.Flat(norm), np.array([1e18, -1e18], np.float32))
    assert exact_squared_norm(largest) <= Fraction(norm) ** 2
    assert np.abs(largest).min() > 0.5 * norm
