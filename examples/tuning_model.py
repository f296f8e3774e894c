"""What examples/tuning.py trains: MNIST in three parts, and a perceptron."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg
from hushgrad import recipes
from hushgrad.recipes.recipe import glorot_uniform

Arrays = tuple[np.ndarray, ...]
HIDDEN = 32


@dataclasses.dataclass(frozen=True)
class Data:
    """MNIST in three parts.

    Attributes:
      private: what epsilon is about.
      public: a tenth of the training images, of people whom nobody protects here.
      test: for the tables alone; nothing is chosen by it.
    """

    private: Arrays
    public: Arrays
    test: Arrays

    @classmethod
    def of(cls, data: hg.datasets.Dataset) -> Data:
        """Splits at random, the same way every time."""
        order = np.random.default_rng(0).permutation(len(data.train[0]))
        private, public = np.split(order, [-(len(order) // 10)])

        def rows(part: np.ndarray) -> Arrays:
            return data.train[0][part], data.train[1][part]

        return cls(rows(private), rows(public), data.test)


def _init(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        "dense1": glorot_uniform(rng, (784, HIDDEN), 784, HIDDEN),
        "bias1": jnp.zeros(HIDDEN),
        "dense2": glorot_uniform(rng, (HIDDEN, 10), HIDDEN, 10),
        "bias2": jnp.zeros(10),
    }


def _logits(params: dict[str, jax.Array], image: Any) -> Any:
    hidden = jnp.tanh(image.reshape(-1) @ params["dense1"] + params["bias1"])
    return hidden @ params["dense2"] + params["bias2"]


MODEL = recipes.Recipe("mnist, one hidden layer", _init, _logits)


def trained(
    data: Arrays,
    m: hg.Mechanism,
    rate: float,
    start: int = 0,
    directory: Path | None = None,
    seed: int | None = None,
) -> hg.Run:
    """One run with plain SGD; `start` seeds the first parameters, which are public."""
    with tempfile.TemporaryDirectory() as folder:
        return hg.train(
            MODEL.loss,
            MODEL.init(start),
            data,
            m,
            optimizer=optax.sgd(rate),
            directory=directory or folder,
            seed=seed,
        )


def accuracy(run: hg.Run, part: Arrays) -> float:
    """Share of images that are recognised."""
    return recipes.accuracy(MODEL, run.params, part[0], part[1])
