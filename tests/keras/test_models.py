"""Which models can be trained privately, which are refused, and what becomes of them."""

import io
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import hushgrad as hg
from hushgrad.errors import InputError

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(model, x, y, loss=CROSSENTROPY, **fit):
    """The model after a short private training, and its history."""
    made = hg.keras.privatize(model, clip=1.0, noise_multiplier=0.5, delta=1e-3, block_size=8)
    made.compile(keras.optimizers.SGD(0.1), loss)
    history = made.fit(x, y, **{"batch_size": 16, "steps_per_epoch": 2, "verbose": 0} | fit)
    assert all(np.isfinite(w).all() for w in made.get_weights())
    return made, history.history


def test_the_wrapped_model_is_shared_and_not_changed(private, classifier, data, tmp_path):
    model = classifier()
    before = [v.value for v in model.weights]
    made = private(model, metrics=["accuracy"])
    made.fit(*data, batch_size=50, verbose=0)
    assert made.model is model
    assert not model.compiled
    assert [id(v) for v in made.weights] == [id(v) for v in model.weights]
    assert not any(np.array_equal(v.value, b) for v, b in zip(model.weights, before, strict=True))
    # Compiled and not, some processors round otherwise.
    np.testing.assert_allclose(
        made.predict(data[0], verbose=0), model(data[0]), rtol=1e-4, atol=1e-6
    )
    _loss, accuracy = made.evaluate(*data, verbose=0)
    right = np.argmax(np.asarray(model(data[0])), -1) == data[1]
    assert accuracy == pytest.approx(np.mean(right), abs=1e-6)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert b"hushgrad" not in file.read("config.json")
    # As whoever has no hushgrad would load it.
    code = (
        "import sys, keras; m = keras.models.load_model(sys.argv[1]);"
        "assert 'hushgrad' not in sys.modules; print(len(m.layers))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2\n"


def test_a_private_model_is_saved_with_what_it_spent(private, data, tmp_path, classifier, capsys):
    made = private(
        classifier(), clip=hg.clip.Adaptive(), epsilon=20.0, delta=1e-4, metrics=["accuracy"]
    )
    made.fit(*data, batch_size=50, epochs=2, verbose=0)
    made.save(tmp_path / "private.keras")
    loaded = keras.models.load_model(tmp_path / "private.keras")
    assert isinstance(loaded, hg.keras.PrivateModel)
    assert loaded.epsilon() == made.epsilon() > 0
    assert loaded.privacy_statement() == made.privacy_statement()
    np.testing.assert_array_equal(
        loaded.predict(data[0], verbose=0), made.predict(data[0], verbose=0)
    )
    loaded.fit(*data, batch_size=50, verbose=0)  # compiled as it was
    assert loaded.account.steps == made.account.steps + 4
    assert loaded.epsilon() > made.epsilon()
    made.summary()
    assert "dense" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "private.keras") as file:
        config, stored = file.read("config.json"), file.read("model.weights.h5")
    assert b"secret" not in config
    # Weights and the optimizer's state, but no metric: those count who was drawn.
    with h5py.File(io.BytesIO(stored)) as file:
        found = []
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    assert len(found) == 7  # with what they cost
    assert all(name.startswith(("layers/", "optimizer/", "vars/hushgrad")) for name in found)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(4, "tanh"), layers.Dense(2)

    def call(self, x):
        return self.last(self.first(x))


def test_an_unbuilt_subclass(data):
    made, _ = trained(Subclassed(), *data)
    assert made.account.steps == 2
    assert len(made.trainable_variables) == 4


class Penalised(layers.Dense):
    def call(self, x):
        y = super().call(x)
        self.add_loss(keras.ops.mean(y**2))
        return y


def test_losses_of_layers_and_of_weights(data, private):
    """Of layers they are of each example, of weights they are not: both are in the loss shown."""
    weight = np.ones((6, 2), np.float32)
    bare = keras.Sequential([keras.Input((6,)), Penalised(2, kernel_regularizer="l2")])
    bare.set_weights([weight, np.zeros(2)])
    made = private(bare, lr=0.0, noise_multiplier=1.0)
    shown = made.fit(*data, batch_size=200, verbose=0).history["loss"][0]
    x, y = data
    logits = x @ weight
    crossentropy = np.mean(np.log(np.sum(np.exp(logits), -1)) - logits[np.arange(200), y])
    assert shown == pytest.approx(crossentropy + np.mean(logits**2) + 0.01 * 12, rel=1e-4)
    # What Keras itself makes of it, but for the mean of the layer's loss over the batch.
    assert made.evaluate(*data, batch_size=200, verbose=0) == pytest.approx(shown, rel=1e-4)


class OwnLoss(Subclassed):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y_pred[:, 0] - keras.ops.cast(y, "float32")) ** 2)


def test_a_loss_of_the_models_own(data):
    _, history = trained(OwnLoss(), *data, loss=None)
    assert history["loss"][0] > 0
    with pytest.raises(InputError, match="loss must be left out: OwnLoss has a compute_loss"):
        hg.keras.privatize(OwnLoss(), clip=1.0, noise_multiplier=1.0).compile("sgd", "mse")


@pytest.mark.parametrize("names", [True, False])
def test_many_inputs_and_outputs(data, names):
    x, y = data
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    hidden = layers.Concatenate()([layers.Dense(3)(a), layers.Dense(3)(b)])
    outputs = [layers.Dense(2, name="kind")(hidden), layers.Dense(1, name="size")(hidden)]
    if names:
        model = keras.Model({"a": a, "b": b}, {"kind": outputs[0], "size": outputs[1]})
        inputs, targets = {"a": x, "b": -x}, {"kind": y, "size": x[:, :1]}
        losses = {"kind": CROSSENTROPY, "size": "mse"}
    else:
        model = keras.Model([a, b], outputs)
        inputs, targets, losses = [x, -x], [y, x[:, :1]], [CROSSENTROPY, "mse"]
    _, history = trained(model, inputs, targets, losses, epochs=2)
    assert {"loss", "kind_loss", "size_loss", "epsilon"} <= history.keys()
    parts = np.array(history["kind_loss"]) + np.array(history["size_loss"])
    np.testing.assert_allclose(history["loss"], parts, rtol=1e-5)


def test_frozen_layers_stay(classifier, data, weights):
    model = classifier()
    model.layers[0].trainable = False
    before = weights(model)
    trained(model, *data)
    after = weights(model)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[2], after[2])


@pytest.mark.parametrize("quantised", [pytest.param(False, marks=pytest.mark.slow), True])
def test_low_rank_adapters(classifier, data, weights, quantised):
    model = classifier()
    if quantised:
        model.layers[0].quantize("int8")
    for layer in model.layers:
        layer.enable_lora(2)
    before = {v.path: np.array(v.value) for v in model.weights}
    made, _ = trained(model, *data)
    changed = {v.path for v in model.weights if not np.array_equal(v.value, before[v.path])}
    assert changed == {v.path for v in model.trainable_variables}
    assert sum("lora" in path for path in changed) == 4
    assert len(made.trainable_variables) == 6  # and the biases


def test_batch_statistics_are_refused_by_name(data):
    inside = keras.Sequential([layers.Dense(4), layers.BatchNormalization(name="mixer")])
    model = keras.Sequential([keras.Input((6,)), inside, layers.Dense(2)])
    with pytest.raises(InputError, match=r"layers mixer normalise.*replace_batchnorm"):
        hg.keras.privatize(model, clip=1.0, noise_multiplier=1.0)
    inside.layers[1].trainable = False  # its statistics are as fixed as any weight
    trained(model, *data)


def test_batch_statistics_are_replaced():
    inside = keras.Sequential([layers.Conv2D(6, 3), layers.BatchNormalization()], name="inside")
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(scale=False, epsilon=1e-2)(inside(image))
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    model.set_weights([w + 0.5 for w in model.get_weights()])
    copy = hg.keras.replace_batchnorm(model, groups=4)
    found = [x for x in copy._flatten_layers() if isinstance(x, layers.GroupNormalization)]
    assert {(x.groups, x.epsilon, x.scale) for x in found} == {(2, 1e-2, False), (2, 1e-3, True)}
    assert len(copy.weights) == len(model.weights) - 4
    for v in copy.weights:
        there = next(w for w in model.weights if w.path == v.path)
        np.testing.assert_array_equal(v.value, there.value)
    kind = keras.random.randint((32,), 0, 2)
    trained(copy, np.ones((32, 8, 8, 3), np.float32), np.array(kind))

    # A sequential one, with others in it.
    image = keras.Input((6, 6, 4))
    graph = keras.Model(image, layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()]),
            graph,
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    copy = hg.keras.replace_batchnorm(model)
    kinds = [type(x).__name__ for x in copy._flatten_layers()]
    assert kinds.count("GroupNormalization") == 3
    assert "BatchNormalization" not in kinds
    trained(copy, np.ones((32, 8, 8, 3), np.float32), np.array(kind))

    class Own(Subclassed):
        def __init__(self):
            super().__init__()
            self.first = layers.BatchNormalization(name="mixer")

    with pytest.raises(InputError, match=r"Own is a subclass .* replace mixer"):
        hg.keras.replace_batchnorm(Own())


class Counting(layers.Layer):
    def build(self, shape):
        self.total = self.add_weight(shape=(), initializer="zeros", trainable=False, name="total")

    def call(self, x):
        self.total.assign_add(keras.ops.sum(x))
        return x


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (Counting(name="teller"), "teller"),
        (layers.SpectralNormalization(layers.Dense(3), name="spectral"), "spectral"),
    ],
)
def test_state_that_moves_is_refused_by_name(classifier, data, extra, named, weights):
    made = hg.keras.privatize(classifier(0, extra), clip=1.0, noise_multiplier=1.0)
    made.compile("sgd", CROSSENTROPY)
    before = weights(made)
    with pytest.raises(InputError, match=f"layers {named} keep state that moves"):
        made.fit(*data, verbose=0)
    assert made.account.steps == 0
    for a, b in zip(before, weights(made), strict=True):
        np.testing.assert_array_equal(a, b)


class OwnStep(Subclassed):
    def train_step(self, state, data):
        return super().train_step(state, data)


def test_a_train_step_of_its_own_is_refused():
    with pytest.raises(InputError, match="OwnStep has a train_step of its own"):
        hg.keras.privatize(OwnStep(), clip=1.0, noise_multiplier=1.0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_narrow_types_train_as_well(policy):
    """Losses in float16 are scaled; without, gradients below 6e-8 are zero."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        small = keras.initializers.RandomNormal(stddev=2e-4, seed=1)
        model = keras.Sequential([keras.Input((8,)), layers.Dense(16, kernel_initializer=small)])
        model.add(layers.Dense(2, kernel_initializer=small, dtype="float32"))
    finally:
        keras.config.set_dtype_policy(before)
    made = hg.keras.privatize(model, clip=1e-4, noise_multiplier=0.3, delta=1e-3, seed=5)
    made.compile(keras.optimizers.SGD(1e4), CROSSENTROPY, metrics=["accuracy"])
    made.fit(x, y, batch_size=100, epochs=6, verbose=0)
    assert made.evaluate(x, y, verbose=0)[1] > 0.9


def test_a_scale_of_the_users_own_stays_as_it_is(classifier, data):
    made = hg.keras.privatize(classifier(), clip=1.0, noise_multiplier=1.0, delta=1e-3, seed=1)
    inner = keras.optimizers.SGD(0.1)
    made.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0), CROSSENTROPY)
    assert made.optimizer is inner
    assert made._loss_scale == 8.0
    made.fit(*data, verbose=0)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"noise_multiplier": None}, "give noise_multiplier, or epsilon to find it"),
        ({"clip": -1.0}, "clip must be"),
        ({"noise_multiplier": 0.0}, "noise_multiplier must be a positive"),
        ({"epsilon": 0}, "epsilon must be a positive"),
        ({"delta": 2.0}, "delta must lie strictly between"),
        ({"sampling": "bernoulli"}, "sampling must be a sampler, or one of 'poisson'"),
        ({"budget": "patients"}, "budget must be a hg.Budget"),
        ({"block_size": 0}, "block_size must be a whole number"),
    ],
)
def test_wrong_arguments(classifier, changed, told):
    with pytest.raises(InputError, match=told):
        hg.keras.privatize(classifier(), **{"clip": 1.0, "noise_multiplier": 1.0} | changed)


def test_wrong_calls(private, classifier, data):
    bare = hg.keras.privatize(classifier(), clip=1.0, noise_multiplier=1.0)
    with pytest.raises(InputError, match="fit comes after compile"):
        bare.fit(*data)
    with pytest.raises(InputError, match=r"model must be a keras\.Model"):
        hg.keras.privatize(layers.Dense(2), clip=1.0, noise_multiplier=1.0)
    made = private()
    with pytest.raises(InputError, match="train_step is for drawn batches alone"):
        made.train_step(None, None)
    made.make_train_function()
    with pytest.raises(InputError, match="train_function charges what fit"):
        made.train_function(None, iter([data]))
