"""Keras models as what clients train."""

import os

import jax
import numpy as np
import optax
import pytest
from clients import CLASSES, FEATURES, SIZES

import hushgrad as hg
from hushgrad.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports Keras
keras = pytest.importorskip("keras", reason="keras is an extra")
if keras.backend.backend() != "jax":
    pytest.skip("needs Keras on JAX: set KERAS_BACKEND=jax", allow_module_level=True)


def model(*more, **compiled):
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [
            keras.layers.Input((FEATURES,)),
            keras.layers.Dense(4, "tanh"),
            *more,
            keras.layers.Dense(CLASSES),
        ]
    )
    settings = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)} | compiled
    made.compile(**settings)
    return made


@pytest.fixture
def quiet(mechanism):
    return mechanism(
        sampling=hg.sampling.Poisson(1.0), batch_size=len(SIZES), clip=1e3, noise_multiplier=1e-9
    )


def test_a_keras_model_is_its_function(quiet, users):
    made = model()
    weights = [np.asarray(v.value) for v in made.trainable_variables]

    def loss(params, x, y):
        w, b, out, c = params
        logits = jax.numpy.tanh(x @ w + b) @ out + c
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    settings = {"batch_size": 4, "epochs": 2}
    client, server = optax.adam(0.01), optax.sgd(1.0)
    one = hg.federated.fed_avg(made, client, server, quiet, **settings).run(users, seed=0)
    other = hg.federated.fed_avg(loss, client, server, quiet, **settings)
    wanted = other.run(users, weights, seed=0).params
    for found, expected in zip(one.params.values(), wanted, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    # The model itself is where it was: what was learned is in the run.
    for v, before in zip(made.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(v.value, before)


def test_dropout_draws_on_every_client(quiet, users):
    made = model(keras.layers.Dropout(0.5))
    client = optax.sgd(0.1)
    process = hg.federated.fed_avg(made, client, optax.sgd(1.0), quiet, batch_size=4)
    state = process.initialize(seed=0)
    cohort = process.cohort(state, users)
    first = process._sums(state, cohort)
    again = process._sums(state, cohort)
    other = process._sums(state._replace(round=1), cohort)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = [next(iter(sums.grads.values())) for sums in (first, other)]
    assert not np.allclose(*kernels)


def test_models_that_will_not_do(quiet):
    client = optax.sgd(0.1)
    with pytest.raises(InputError, match="batch_normalization"):
        hg.federated.fed_avg(
            model(keras.layers.BatchNormalization()), client, optax.sgd(1.0), quiet
        )
    bare = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(InputError, match="built and compiled"):
        hg.federated.fed_avg(bare, client, optax.sgd(1.0), quiet)
