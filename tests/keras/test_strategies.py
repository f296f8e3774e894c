"""Noise that cancels between steps, in Keras: what is charged is the mechanism that ran."""

import keras
import numpy as np
import pytest

import hushgrad as hg
from hushgrad.errors import InputError

PLAN = {"examples": 200, "batch_size": 40, "steps": 10, "delta": 1e-3, "clip": 1.0}
KINDS = {
    "blt": (hg.noise.BLT, hg.sampling.Shuffle),
    "toeplitz": (hg.noise.Toeplitz, hg.sampling.InOrder),
    "banded": (hg.noise.Banded, hg.sampling.CyclicPoisson(0.8, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fit_charges_the_mechanism_of_its_length(private, data, kind):
    strategy, sampling = KINDS[kind]
    made = private(strategy=kind, sampling=None if kind == "blt" else sampling)
    made.fit(*data, batch_size=40, epochs=2, verbose=0)
    wanted = hg.dp_ftrl(**PLAN, noise_multiplier=1.0, strategy=strategy, sampling=sampling)
    assert made.epsilon() == wanted.epsilon()
    assert "DP-FTRL over 200 examples" in made.privacy_statement()


def test_bands_are_found_for_an_epsilon(private, data):
    options = {"strategy": hg.noise.Banded, "sampling": "cyclic-poisson"}
    made = private(noise_multiplier=None, epsilon=3.0, **options)
    made.fit(*data, batch_size=10, epochs=1, verbose=0)
    plan = {**PLAN, "batch_size": 10, "steps": 20}
    m = hg.dp_banded(**plan, epsilon=3.0)
    assert m.strategy.bands > 1
    assert made.epsilon() == m.epsilon()
    assert f"one of {m.strategy.bands} parts" in " ".join(made.privacy_statement().split())
    with pytest.raises(InputError, match="sampling must say its cycle"):
        private(**options)


def test_noise_cancels_between_the_steps_of_fit(weights, data):
    """All gradients are 0: the weights are the noise's sums, which grow far less than walks."""
    x, y = np.zeros((200, 6), np.float32), data[1]
    moved = {}
    for strategy in (hg.noise.Independent, hg.noise.Toeplitz):
        inputs = keras.Input((6,))
        output = keras.layers.Dense(300, kernel_initializer="zeros", use_bias=False)(inputs)
        model = keras.Model(inputs, output)
        made = hg.keras.privatize(
            model,
            clip=1.0,
            noise_multiplier=1.0,
            delta=1e-3,
            sampling=hg.sampling.InOrder,
            strategy=strategy,
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile(keras.optimizers.SGD(40.0), loss)
        made.fit(x, y, batch_size=4, verbose=0)
        moved[strategy] = np.std(weights(model)[0])
    strategy = hg.noise.Toeplitz.of(50, 32)
    expected = np.sqrt(strategy.variances(50)[-1])
    # Of 1,800 weights the deviation is within 6 of its standard errors, 1 / sqrt(3600).
    assert moved[hg.noise.Independent] == pytest.approx(40 / 4 * np.sqrt(50), rel=0.1)
    assert moved[hg.noise.Toeplitz] == pytest.approx(40 / 4 * expected, rel=0.1)
    assert expected < 0.5 * np.sqrt(50)


def test_a_saved_model_goes_on_with_its_strategy(private, data, tmp_path):
    for strategy in ("blt", hg.noise.Tree(5)):
        made = private(strategy=strategy)
        made.fit(*data, batch_size=40, verbose=0)
        made.save(tmp_path / "private.keras")
        again = keras.models.load_model(tmp_path / "private.keras")
        again.fit(*data, batch_size=40, verbose=0)
        made.fit(*data, batch_size=40, verbose=0)
        assert again.epsilon() == made.epsilon()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "braid"}, "strategy must be of hushgrad.noise, or one of 'gaussian'"),
        ({"strategy": 3}, "strategy must be of hushgrad.noise"),
        ({"strategy": "sparse"}, "goes with hg.train alone"),
        ({"strategy": hg.noise.Sparse("dense/kernel")}, "goes with hg.train alone"),
        ({"strategy": "tree", "sampling": "poisson"}, "to know when an example takes part"),
    ],
)
def test_bad_input_is_refused(private, data, changed, message):
    with pytest.raises(InputError, match=message):
        private(**changed).fit(*data, batch_size=40, verbose=0)
