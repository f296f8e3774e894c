"""The model of `gpt.py` from layers of keras_hub, for `hg.keras.privatize`.

Not a script: `language_model.py` imports it where keras_hub can be imported. keras_hub declares
TensorFlow as a dependency; its layers run on JAX without it (docs/results/language_model.md).
"""

from __future__ import annotations

from typing import Any

import hushgrad.keras  # noqa: F401  before keras, so that it runs on JAX

# isort: split
import keras
import keras_hub  # pyright: ignore[reportMissingImports]
from jaxtyping import Array, Float, Int


def build(
    letters: int, *, context: int = 64, width: int = 64, heads: int = 4, blocks: int = 2
) -> keras.Model:
    """Tokens [batch, context] -> logits [batch, context, letters]; pre-norm, no dropout."""
    tokens = keras.Input((context,), dtype="int32")
    x = keras_hub.layers.TokenAndPositionEmbedding(letters, context, width)(tokens)
    for _ in range(blocks):
        x = keras_hub.layers.TransformerDecoder(
            4 * width, heads, activation="gelu", normalize_first=True
        )(x)
    x = keras.layers.LayerNormalization()(x)
    return keras.Model(tokens, keras.layers.Dense(letters)(x))


def weights(model: keras.Model) -> list[Array]:
    """What `logits` takes for parameters."""
    return [variable.value for variable in model.trainable_variables]


def logits(model: Any, params: list[Array], tokens: Int[Array, " T"]) -> Float[Array, "T letters"]:
    """Of the letter after each token of ONE sequence, as `gpt.logits`."""
    rest = [variable.value for variable in model.non_trainable_variables]
    return model.stateless_call(params, rest, tokens[None])[0][0]
