"""What a user can get wrong, and that the message says how to mend it."""

import jax
import jax.numpy as jnp
import pytest

import hushgrad as hg
from hushgrad.errors import InputError

X = jnp.ones((4, 3))


def good(w, x):
    return jnp.sum(w * x)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda w, x: w * x, r"scalar for one example, got shape \(3,\)"),
        (lambda w, x: jnp.sum(w * x)[None], r"scalar for one example, got shape \(1,\)"),
        (lambda w, x: (jnp.sum(w * x), 1.0), "one scalar"),
        (lambda w, x: jnp.sum(w * x) + 1j, "real floating-point"),
        (lambda w, x: jnp.sum(x > 0), "real floating-point"),
        (lambda w, x: None, "one scalar"),
    ],
)
def test_a_loss_that_is_not_a_real_scalar(loss, message):
    with pytest.raises(InputError, match=message):
        hg.clipped_grad(loss, 1.0)(jnp.ones(3), X)


def test_a_loss_that_is_not_a_function():
    with pytest.raises(InputError, match="loss must be a function"):
        hg.clipped_grad("mse", 1.0)


@pytest.mark.parametrize("clip", [0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_a_clip_that_is_not_positive(clip):
    with pytest.raises(InputError, match="clip must be a positive finite number"):
        hg.clipped_grad(good, clip)


@pytest.mark.parametrize("clip", [1e-9, 1e20])
def test_a_clip_that_float32_cannot_bound(clip):
    with pytest.raises(InputError, match="clip must lie between 1e-06 and 1e"):
        hg.clipped_grad(good, clip)


def test_complex_parameters():
    with pytest.raises(InputError, match=r"params\['w'\] is complex"):
        hg.clipped_grad(lambda p, x: jnp.sum(x), 1.0)({"w": jnp.ones(3, complex)}, X)


def test_no_parameters():
    with pytest.raises(InputError, match="at least one array"):
        hg.clipped_grad(lambda p, x: jnp.sum(x), 1.0)({}, X)


def test_arrays_of_unequal_length():
    def loss(w, x, y):
        return jnp.sum(w * x) * y

    with pytest.raises(InputError, match=r"same length, got batch\[0\]: 4, batch\[1\]: 5"):
        hg.clipped_grad(loss, 1.0)(jnp.ones(3), X, jnp.ones(5))


def test_a_batch_without_a_batch_axis():
    with pytest.raises(InputError, match="leading batch axis"):
        hg.clipped_grad(good, 1.0)(jnp.ones(3), 1.0)


def test_no_batch_at_all():
    with pytest.raises(InputError, match="batch is empty"):
        hg.clipped_grad(good, 1.0)(jnp.ones(3))


@pytest.mark.parametrize("mask", [jnp.ones(3, bool), jnp.ones(4), jnp.ones((4, 1), bool)])
def test_a_mask_that_does_not_fit(mask):
    with pytest.raises(InputError, match="mask must be boolean of shape"):
        hg.clipped_grad(good, 1.0)(jnp.ones(3), X, mask=mask)


def test_errors_come_while_tracing_too():
    with pytest.raises(InputError, match="scalar"):
        jax.jit(hg.clipped_grad(lambda w, x: w * x, 1.0))(jnp.ones(3), X)
