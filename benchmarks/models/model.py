"""What a model of the benchmark is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["Model", "cross_entropy", "dense", "normal"]


@dataclasses.dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
      name: as the table shows it.
      loss: `loss(params, *example)` of one example.
      params: where the gradient is taken.
      batch: arrays with a leading axis.
      architecture: under which name the peers know the same network, if they do.
    """

    name: str
    loss: Callable[..., Any]
    params: Any
    batch: tuple[Any, ...]
    architecture: str | None = None


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def dense(rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, Any]:
    """A matrix at the scale that keeps variances, and a bias."""
    return {"w": normal(rng, inputs, outputs) / np.sqrt(inputs), "b": jnp.zeros(outputs)}


def cross_entropy(logits: Any, label: Any) -> Any:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
