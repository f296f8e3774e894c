"""The CNN of TensorFlow Privacy's MNIST tutorial.

Conv 16 8x8 stride 2 same, relu, max-pool 2 stride 1, conv 32 4x4 stride 2 valid,
relu, max-pool 2 stride 1, dense 32 relu, dense 10: 26,010 parameters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from hushgrad.recipes.recipe import Recipe, glorot_uniform

__all__ = ["mnist"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _init(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "conv1": glorot_uniform(rng, (8, 8, 1, 16), 64, 8 * 8 * 16),
        "bias1": jnp.zeros(16),
        "conv2": glorot_uniform(rng, (4, 4, 16, 32), 4 * 4 * 16, 4 * 4 * 32),
        "bias2": jnp.zeros(32),
        "dense3": glorot_uniform(rng, (512, 32), 512, 32),
        "bias3": jnp.zeros(32),
        "dense4": glorot_uniform(rng, (32, 10), 32, 10),
        "bias4": jnp.zeros(10),
    }


def _logits(params: dict[str, Array], image: Float[Array, "28 28"]) -> Float[Array, "10"]:
    x = image[None, :, :, None]
    x = lax.conv_general_dilated(x, params["conv1"], (2, 2), "SAME", dimension_numbers=_LAYOUT)
    x = _max_pool(jax.nn.relu(x + params["bias1"]))
    x = lax.conv_general_dilated(x, params["conv2"], (2, 2), "VALID", dimension_numbers=_LAYOUT)
    x = _max_pool(jax.nn.relu(x + params["bias2"]))
    x = jax.nn.relu(x.reshape(-1) @ params["dense3"] + params["bias3"])
    return x @ params["dense4"] + params["bias4"]


def _max_pool(x: Float[Array, "1 h w c"]) -> Float[Array, "1 h-1 w-1 c"]:
    """2x2 stride 1."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


mnist = Recipe("mnist", _init, _logits)
