"""Noise that is fresh for every result.

Queries have no argument for a key, and their states can be copied: two results from one
state must not share noise, or their difference would be that of the sums alone. So no state
holds a key; each call draws 256 bits from the operating system's entropy.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree, UInt32

from hushgrad.errors import InputError
from hushgrad.noise import gaussian
from hushgrad.training.secret import RunSecret

__all__ = ["add_gaussian", "on_host", "scale", "seeded_key"]


def on_host(name: str, *trees: PyTree) -> None:
    """An error under `jit`, `vmap` and the like.

    There a key would be drawn once, when the function is traced, and serve every call.
    """
    traced = isinstance(jnp.zeros(()), Tracer)
    if traced or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees)):
        raise InputError(
            f"{name} draws fresh noise on the host and must be called outside jit, vmap and "
            "grad, got a traced value; clip and sum records under jit, and call it on the sum"
        )


def add_gaussian(
    total: PyTree, stddev: float, key: UInt32[np.ndarray, "8"] | None = None
) -> PyTree[Float[Array, "..."]]:
    """The tree with independent normal noise on every coordinate.

    Args:
      total: what to hide, on the host.
      stddev: standard deviation; 0 adds nothing.
      key: for tests; by default the operating system's entropy.

    Returns:
      The same tree in float32 or wider: whole numbers get their noise too.

    Raises:
      InputError: under a transformation of JAX, or if a leaf is complex.
    """
    on_host("get_noised_result", total)
    wide = jax.tree.map(_widened, total)
    if stddev == 0:
        return wide
    key = RunSecret.fresh().noise_key(0) if key is None else key
    return _noisy(wide, key, float(stddev))


def seeded_key(seed: int, number: int) -> UInt32[np.ndarray, "8"]:
    """A key that whoever knows the seed knows: for tests."""
    return RunSecret.from_seed(seed).noise_key(number)


def scale(name: str, value: Any) -> float:
    """`value` as a float, or an error if it is negative or not finite."""
    if isinstance(value, Tracer) or not 0 <= float(value) < float("inf"):
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def _widened(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@jax.jit
def _noisy(total: PyTree, key: Any, stddev: Any) -> PyTree:
    return gaussian(stddev).update(total, optax.EmptyState(), key=key)[0]
