"""A classifier with a way to start, a forward pass, and settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

__all__ = ["Recipe", "accuracy", "glorot_uniform"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model for one data set.

    Attributes:
      name: of the data set.
      init: number -> parameters; the starting point is public.
      logits: (parameters, one image) -> one score per class.
    """

    name: str
    init: Callable[[int], PyTree[Array]]
    logits: Callable[[PyTree[Array], Float[Array, "height width"]], Float[Array, " classes"]]

    def loss(
        self, params: PyTree[Array], image: Float[Array, "height width"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        """Cross-entropy of one example."""
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            self.logits(params, image), label
        )


def accuracy(
    recipe: Recipe,
    params: PyTree[Array],
    images: Float[np.ndarray, "n height width"],
    labels: Int[np.ndarray, " n"],
    batch_size: int = 1000,
) -> float:
    """Share of images whose highest score is at their label, in [0, 1]."""
    predict, right = _predictor(recipe), 0
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        right += int(np.sum(np.asarray(predict(params, images[part])) == labels[part]))
    return right / len(images)


@functools.cache
def _predictor(recipe: Recipe) -> Callable[..., Int[Array, " n"]]:
    """Compiled once, however often a run is scored."""
    return jax.jit(lambda p, x: jnp.argmax(jax.vmap(recipe.logits, (None, 0))(p, x), axis=-1))


def glorot_uniform(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Float[Array, "..."]:
    """Keras's default start for weights (Glorot & Bengio 2010)."""
    limit = np.sqrt(6 / (fan_in + fan_out))
    return jnp.asarray(rng.uniform(-limit, limit, shape), jnp.float32)
