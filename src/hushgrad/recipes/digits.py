"""A small network for scikit-learn's 8x8 digits: few parameters need little noise."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hushgrad.recipes.recipe import Recipe, glorot_uniform

__all__ = ["digits"]

_HIDDEN = 32


def _init(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "dense1": glorot_uniform(rng, (64, _HIDDEN), 64, _HIDDEN),
        "bias1": jnp.zeros(_HIDDEN),
        "dense2": glorot_uniform(rng, (_HIDDEN, 10), _HIDDEN, 10),
        "bias2": jnp.zeros(10),
    }


def _logits(params: dict[str, Array], image: Float[Array, "8 8"]) -> Float[Array, "10"]:
    # tanh bounds the activations, which suits clipping (Papernot et al. 2021, 2007.14191).
    hidden = jnp.tanh((image.reshape(-1) - 0.5) @ params["dense1"] + params["bias1"])
    return hidden @ params["dense2"] + params["bias2"]


digits = Recipe("digits", _init, _logits)
