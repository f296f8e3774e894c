"""Data is checked before anything is spent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import mechanism

from hushgrad.errors import DataError, InputError

X, Y = np.ones((60, 4), np.float32), np.ones(60, np.float32)


def test_labels_that_are_nan_are_named_by_row(train, tmp_path):
    y = Y.copy()
    y[[3, 17]] = np.nan
    with pytest.raises(DataError, match=r"data\[1\] \(the labels\) has NaN in 2 of 60 rows.*3, 17"):
        train(data=(X, y))
    assert not (tmp_path / "run").exists()


def test_labels_in_a_dictionary(train):
    y = Y.copy()
    y[5] = np.nan
    with pytest.raises(DataError, match=r"data\[0\]\['y'\] has NaN"):
        train(data={"x": X, "y": y}, loss=lambda p, e: jnp.sum(e["x"]) * p["b"])


def test_arrays_of_unequal_length(train):
    with pytest.raises(DataError, match=r"same number of rows, got data\[0\]: 60, data\[1\]: 59"):
        train(data=(X, Y[:-1]))


def test_another_number_of_rows_than_is_accounted_for(train):
    with pytest.raises(InputError, match="59 rows, but the mechanism accounts for 60 examples"):
        train(data=(X[:-1], Y[:-1]))


@pytest.mark.parametrize("bad", [np.array(["a"] * 60), np.array([None] * 60), np.float32(1)])
def test_what_is_not_rows_of_numbers(train, bad):
    with pytest.raises(DataError, match="must be an array of numbers with one row per example"):
        train(data=(bad, Y))


def test_no_data(train):
    with pytest.raises(InputError, match="data is empty"):
        train(data=())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mechanism": "dp"}, "mechanism must come from"),
        ({"optimizer": 0.1}, "optimizer must be an optax optimizer"),
        ({"callback": 3}, "callback must be a function"),
        ({"directory": None}, "directory must be a path"),
        ({"params": {"w": "weights"}}, r"params\['w'\] must be an array of numbers"),
        ({"block_size": 0}, "block_size must be a whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"loss": lambda p, x, y: x @ p["w"] * jnp.ones(2)}, "loss must return a scalar"),
        ({"loss": "mse"}, "loss must be a function"),
    ],
)
def test_mistakes_are_found_before_anything_is_spent(train, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(**changes)
    assert not (tmp_path / "run" / "ledger.sqlite").exists()


def test_parameters_that_are_no_longer_finite_stop_the_run(train):
    with pytest.raises(InputError, match="params are no longer finite after step"):
        train(optimizer=optax.sgd(1e39))


@pytest.mark.parametrize("extra", [np.ones((60, 0), np.float32), jnp.ones(60, jnp.bfloat16)])
def test_empty_and_narrow_arrays_are_data_too(train, extra):
    loss = lambda p, x, extra, y: (x @ p["w"] - y + jnp.sum(extra)) ** 2 + p["b"]  # noqa: E731
    assert train(data=(X, extra, Y), loss=loss, mechanism=mechanism(steps=2)).steps == 2


def test_random_keys_are_explained(train):
    with pytest.raises(DataError, match=r"jax\.random\.key_data"):
        train(data=(jax.random.split(jax.random.key(0), 60), Y))


def test_and_the_directory_can_still_be_used(train):
    with pytest.raises(InputError):
        train(loss=lambda p, x, y: x)
    assert train(optimizer=optax.sgd(0.1), mechanism=mechanism(steps=2)).steps == 2
