"""A small model, its loss and its optimizers, for clients of unequal size."""

from typing import Any

import jax.numpy as jnp
import optax

SIZES = [1, 3, 4, 5, 8, 9, 2, 16, 7, 4, 6, 12]
FEATURES, CLASSES = 5, 3
CLIENT, SERVER = optax.sgd(0.1), optax.sgd(1.0, momentum=0.9)


def loss(params: Any, x: Any, y: Any) -> Any:
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ params["out"], y)
