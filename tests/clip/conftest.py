"""What one example adds to the sum, through the whole engine."""

import functools
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hushgrad as hg
from hushgrad.clip import Rule


@functools.cache
def engine(rule: Rule) -> Callable:
    """The clipped gradient of a loss whose gradient is the example itself."""
    clipped = hg.clipped_grad(jnp.vdot, clip=rule)
    return jax.jit(lambda params, examples: clipped(params, examples).grads)


@pytest.fixture(scope="session")
def contribution() -> Callable[[Rule, np.ndarray], np.ndarray]:
    """What an example with this gradient (at most 24 numbers) adds under a rule."""

    def add(rule: Rule, gradient: np.ndarray) -> np.ndarray:
        padded = np.zeros(24, gradient.dtype)
        padded[: len(gradient)] = gradient
        with jax.enable_x64(gradient.dtype == np.float64):
            out = np.asarray(engine(rule)(np.zeros_like(padded), padded[None]))
        assert out.dtype == gradient.dtype
        return out[: len(gradient)]

    return add


@pytest.fixture(scope="session")
def exact_squared_norm() -> Callable[[np.ndarray], Fraction]:
    """Without any rounding."""
    return lambda numbers: sum((Fraction(float(x)) ** 2 for x in numbers), Fraction(0))
