"""Small Keras models, private; what they spend is written to a folder of the test's own."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports Keras

import numpy as np
import pytest

pytest.importorskip("keras.layers", reason="needs Keras: pip install keras")

import keras

if keras.backend.backend() != "jax":
    pytest.skip("needs Keras on JAX: set KERAS_BACKEND=jax", allow_module_level=True)

import hushgrad as hg


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def data():
    """Two classes of 200 points, and their labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int32)


def classifier(seed: int = 0, *extra):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((6,)), keras.layers.Dense(8, "relu"), *extra]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def private(model=None, *, lr: float = 0.5, metrics=(), **options):
    """A compiled private model."""
    settings = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-3, "block_size": 16} | options
    made = hg.keras.privatize(classifier() if model is None else model, **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(lr), loss, metrics=list(metrics))
    return made


def weights(model):
    return [np.array(v.value) for v in model.weights]


@pytest.fixture(name="private")
def _private():
    return private


@pytest.fixture(name="classifier")
def _classifier():
    return classifier


@pytest.fixture(name="weights")
def _weights():
    return weights
