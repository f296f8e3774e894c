"""The models whose steps are measured: a loss of one example, parameters, a batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from hushgrad.recipes import mnist

__all__ = ["MODELS", "Model"]


@dataclasses.dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
      name: as the table shows it.
      loss: `loss(params, x, y)` of one example.
      params: where the gradient is taken.
      batch: arrays with a leading axis.
    """

    name: str
    loss: Callable[..., Any]
    params: Any
    batch: tuple[Any, ...]


def cnn() -> Model:
    """The tutorial's CNN as anybody would write it: `conv_general_dilated`, `reduce_window`."""
    layout = ("NHWC", "HWIO", "NHWC")

    def pool(x: Any) -> Any:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

    def loss(p: Any, image: Any, label: Any) -> Any:
        x = image[None, :, :, None]
        x = lax.conv_general_dilated(x, p["conv1"], (2, 2), "SAME", dimension_numbers=layout)
        x = pool(jax.nn.relu(x + p["bias1"]))
        x = lax.conv_general_dilated(x, p["conv2"], (2, 2), "VALID", dimension_numbers=layout)
        x = pool(jax.nn.relu(x + p["bias2"]))
        x = jax.nn.relu(x.reshape(-1) @ p["dense3"] + p["bias3"])
        return _cross_entropy(x @ p["dense4"] + p["bias4"], label)

    return Model("CNN, batch 256", loss, mnist.init(0), _images(256))


def cnn_recipe() -> Model:
    """The same function as `hushgrad train mnist` computes it."""
    return Model("CNN as in the recipe, batch 256", mnist.loss, mnist.init(0), _images(256))


def mlp() -> Model:
    """784-2048-2048-10."""
    rng = np.random.default_rng(0)
    sizes = (784, 2048, 2048, 10)
    params = [(_normal(rng, m, n) / np.sqrt(m), jnp.zeros(n)) for m, n in itertools.pairwise(sizes)]

    def loss(p: Any, image: Any, label: Any) -> Any:
        x = image.reshape(-1)
        for weight, bias in p[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        return _cross_entropy(x @ p[-1][0] + p[-1][1], label)

    return Model("MLP 784-2048-2048-10, batch 256", loss, params, _images(256))


def _images(size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.uniform(size=(size, 28, 28)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 10, size))


def _normal(rng: np.random.Generator, *shape: int) -> Any:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _cross_entropy(logits: Any, label: Any) -> Any:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)


MODELS = {"cnn": cnn, "cnn_recipe": cnn_recipe, "mlp": mlp}
