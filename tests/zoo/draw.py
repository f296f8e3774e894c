"""Numbers for models and examples, without a compiler's help."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def rand(seed: int, *shape: int) -> jax.Array:
    """Normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ids(seed: int, top: int, *shape: int) -> jax.Array:
    """Whole numbers below `top`."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, top, shape), jnp.int32)


def filled(shapes: Any, seed: int = 0) -> Any:
    """Arrays for a tree of shapes: matrices scaled by their inputs, vectors (scales, biases,
    variances) around 0.8, no whole number but zero."""
    rng = np.random.default_rng(seed)

    def fill(aval: Any) -> jax.Array:
        if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(seed), aval.shape)
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            return jnp.zeros(aval.shape, aval.dtype)
        x = rng.normal(size=aval.shape)
        wide = np.sqrt(np.prod(aval.shape[:-1]))
        return jnp.asarray(x / wide if len(aval.shape) > 1 else 0.8 + 0.2 * x, aval.dtype)

    return jax.tree.map(fill, shapes)
