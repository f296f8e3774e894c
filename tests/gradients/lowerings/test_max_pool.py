"""Max-pooling by shifted maxima against `reduce_window` and `select_and_scatter`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

few = settings(max_examples=8, deadline=None, derandomize=True)
dimension = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(0, 1), st.integers(3, 7)
)


def pool(window, strides, padding):
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


@few
@given(dims=st.lists(dimension, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_same_value_and_same_choice_among_ties(check, dims, seed):
    window, strides, low, high, shape = zip(*dims, strict=True)
    if max(window) == 1:
        window = (2, *window[1:])
    x = np.random.default_rng(seed).integers(0, 3, (2, *shape))  # small integers: many ties
    check(pool(window, strides, list(zip(low, high, strict=True))), jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 1)])
def test_dtypes(check, dtype, strides):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 6, 8, 3)), dtype)
    check(pool((2, 2, 1), strides, "VALID"), x)


def test_float64(check):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 7, 7)), jnp.float64)
        check(pool((3, 3), (2, 2), "SAME"), x)


def test_nothing_but_lowest_values(check):
    check(pool((2, 2), (2, 2), "VALID"), jnp.full((2, 4, 4), -jnp.inf))


def test_a_maximum_that_is_nan_is_passed_on_with_its_gradient(lowered):
    x = jnp.asarray([1.0, jnp.nan, 2.0, 3.0])
    run = lowered(pool((2,), (1,), "VALID"), x)
    out, back = jax.vjp(run, x)
    np.testing.assert_array_equal(out, [jnp.nan, jnp.nan, 3])
    assert float(jnp.sum(back(jnp.ones(3))[0])) == 3


def test_in_scan_and_checkpoint(lowered):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (3, 6, 6)), jnp.float32)
    plain = pool((2, 2), (2, 2), "VALID")
    run = lowered(plain, x[0])

    def loss(way, xs):
        body = jax.checkpoint(lambda total, x: (total + jnp.sum(way(x) ** 2), None))
        return lax.scan(body, 0.0, xs)[0]

    np.testing.assert_array_equal(
        jax.grad(lambda x: loss(run, x))(x), jax.grad(lambda x: loss(plain, x))(x)
    )


@pytest.mark.parametrize(
    ("window", "dilation", "dtype"),
    [((9,), (1,), "float32"), ((2,), (2,), "float32"), ((2,), (1,), "int32")],
)
def test_what_is_left_to_xla(lowered, window, dilation, dtype):
    def plain(x):
        return lax.reduce_window_max_p.bind(
            x,
            window_dimensions=window,
            window_strides=(1,),
            padding=((0, 0),),
            base_dilation=(1,),
            window_dilation=dilation,
        )

    assert lowered(plain, jnp.zeros(12, dtype)) is None
