"""An LSTM for the next letter of ONE sequence, as plain arrays. Not a script: recipes import it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def init(letters: int, seed: int, *, embedded: int = 16, hidden: int = 128) -> dict[str, Array]:
    """An embedding, a cell and a readout."""
    rng = np.random.default_rng(seed)

    def matrix(a: int, b: int) -> Array:
        return jnp.asarray(rng.normal(size=(a, b)) / a**0.5, jnp.float32)

    return {
        "letters": matrix(letters, embedded) * letters**0.5,
        "cell": matrix(embedded + hidden, 4 * hidden),
        "bias": jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(1.0),
        "out": matrix(hidden, letters),
    }


def logits(params: Any, tokens: Int[Array, " T"]) -> Float[Array, "T letters"]:
    """Of the letter after each token of ONE sequence."""

    def one(carry: Any, x: Array) -> Any:
        h, c = carry
        gates = jnp.concatenate([x, h]) @ params["cell"] + params["bias"]
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros(len(params["out"]))
    _, hidden = jax.lax.scan(one, (zero, zero), params["letters"][tokens])
    return hidden @ params["out"]
