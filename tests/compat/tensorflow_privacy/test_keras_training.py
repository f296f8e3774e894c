"""Scripts of TensorFlow Privacy that train: only their imports change."""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # before anything imports Keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("keras.layers", reason="needs Keras: pip install keras")

import keras

if keras.backend.backend() != "jax":
    pytest.skip("needs Keras on JAX: set KERAS_BACKEND=jax", allow_module_level=True)

import hushgrad as hg
import hushgrad.compat.tensorflow_privacy as tensorflow_privacy
from hushgrad.errors import InputError

EACH = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def classifier(width=8):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((6,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(2)]
    return keras.Sequential(stack)


@pytest.mark.parametrize(
    "name",
    [
        "DPKerasSGDOptimizer",
        pytest.param("DPKerasAdamOptimizer", marks=pytest.mark.slow),
        pytest.param("DPKerasAdagradOptimizer", marks=pytest.mark.slow),
    ],
)
def test_an_optimizer_makes_its_model_private(data, name, tmp_path):
    optimizer = getattr(tensorflow_privacy, name)(
        l2_norm_clip=1.0, noise_multiplier=0.1, num_microbatches=40, learning_rate=0.05
    )
    model = classifier()
    model.compile(optimizer=optimizer, loss=EACH, metrics=["accuracy"])
    before = model.evaluate(*data, verbose=0)[0]
    history = model.fit(*data, epochs=4, batch_size=40, validation_data=data, verbose=0)
    assert history.history["val_loss"][-1] < before
    m = hg.dp_sgd(examples=120, batch_size=40, steps=12, delta=1e-5, noise_multiplier=0.1)
    assert model.epsilon(1e-5) == m.epsilon()
    assert isinstance(model, keras.Sequential)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)
    # What is saved is an ordinary model, which knows what it spent where hushgrad is there.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.epsilon(1e-5) == m.epsilon()
    loaded.fit(*data, batch_size=40, verbose=0)
    assert loaded.account.steps == 15
    plain = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert type(plain) is keras.Sequential


@pytest.mark.parametrize(("batch", "microbatches"), [(60, None), (60, 60), (120, 60), (120, 4)])
def test_the_noise_is_what_was_asked_for(data, batch, microbatches):
    """Standard deviation of the update: C z over the number of microbatches.

    Of n normal numbers the deviation is within 4 / sqrt(2 n) of the true one, but for one in
    15,000 tries; what the gradients add is less than 1e-3 of it.
    """
    z = 5000.0
    optimizer = tensorflow_privacy.DPKerasSGDOptimizer(
        l2_norm_clip=0.1, noise_multiplier=z, num_microbatches=microbatches, learning_rate=1.0
    )
    model = classifier(64)
    model.compile(optimizer=optimizer, loss=EACH)
    before = np.concatenate([w.ravel() for w in model.get_weights()])
    model.fit(*data, batch_size=batch, steps_per_epoch=1, verbose=0)
    moved = np.concatenate([w.ravel() for w in model.get_weights()]) - before
    wanted = 0.1 * z / (microbatches or batch)
    assert np.std(moved) == pytest.approx(wanted, rel=4 / np.sqrt(2 * len(moved)))


def test_microbatches_are_averaged_and_clipped(data):
    """All 120 examples in one batch, in 30 microbatches of four neighbours."""
    x, y = data
    optimizer = tensorflow_privacy.DPKerasSGDOptimizer(
        l2_norm_clip=0.3, noise_multiplier=1e-3, num_microbatches=30, learning_rate=1.0
    )
    model = classifier()
    model.compile(optimizer=optimizer, loss=EACH)
    values = [v.value for v in model.trainable_variables]

    def loss(values, rows):
        logits, _ = model.stateless_call(values, [], x[rows])
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[rows][:, None], 1)
        return jnp.mean(each)

    total = [np.zeros(v.shape) for v in values]
    for start in range(0, 120, 4):
        grads = jax.grad(loss)(values, np.arange(start, start + 4))
        norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in grads)))
        total = [t + np.asarray(g) * min(1, 0.3 / norm) for t, g in zip(total, grads, strict=True)]
    expected = [np.asarray(v) - t / 30 for v, t in zip(values, total, strict=True)]
    model.fit(x, y, batch_size=120, verbose=0)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    # An example that is replaced moves a sum by two clips: the noise counts half.
    m = model.account.spent[0].mechanism
    assert (m.noise_multiplier, m.clip.sensitivity, m.sampling.kind) == (5e-4, 0.6, "shuffle")


def test_microbatches_must_divide_the_batch(data):
    optimizer = tensorflow_privacy.DPKerasSGDOptimizer(1.0, 1.0, num_microbatches=7)
    model = classifier()
    model.compile(optimizer=optimizer, loss=EACH)
    told = r"num_microbatches must divide the batch, got num_microbatches=7 for a batch of 40"
    with pytest.raises(InputError, match=told):
        model.fit(*data, batch_size=40, verbose=0)
    assert model.account.steps == 0


def test_other_names_of_the_same():
    for name in ("SGD", "Adam", "Adagrad"):
        plain = getattr(tensorflow_privacy, f"DPKeras{name}Optimizer")
        assert getattr(tensorflow_privacy, f"VectorizedDPKeras{name}Optimizer") is plain
    assert tensorflow_privacy.DPAdamOptimizer is tensorflow_privacy.DPKerasAdamOptimizer
    sgd = tensorflow_privacy.DPKerasSGDOptimizer
    assert tensorflow_privacy.DPGradientDescentGaussianOptimizer is sgd
    assert issubclass(tensorflow_privacy.DPRMSPropGaussianOptimizer, keras.optimizers.RMSprop)
    with pytest.raises(AttributeError, match="has no attribute 'DPSparseKerasSGDOptimizer'"):
        _ = tensorflow_privacy.DPSparseKerasSGDOptimizer


def test_an_optimizer_alone_is_refused(data):
    """Applied to the gradient of a batch it would clip nobody."""
    optimizer = tensorflow_privacy.DPKerasSGDOptimizer(1.0, 1.0, learning_rate=0.1)
    variable = keras.Variable(np.ones(3))
    for apply in (
        lambda: optimizer.apply([np.ones(3)], [variable]),
        lambda: optimizer.apply_gradients([(np.ones(3), variable)]),
    ):
        with pytest.raises(InputError, match=r"works through model\.compile"):
            apply()
    for wrong in ({"l2_norm_clip": 0}, {"noise_multiplier": 0}, {"num_microbatches": 0.5}):
        settings = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0} | wrong
        with pytest.raises(InputError, match=next(iter(wrong))):
            tensorflow_privacy.DPKerasSGDOptimizer(**settings)


def test_ordinary_models_stay_ordinary(data, tmp_path):
    model = classifier()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data, verbose=0)
    assert type(model) is keras.Sequential
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").compiled


class Subclassed(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = keras.layers.Dense(width), keras.layers.Dense(2)

    def call(self, x):
        return self.last(self.first(x))


class OwnStep(keras.Model):
    def train_step(self, state, data):
        return super().train_step(state, data)


def test_models_of_dp_classes(data, tmp_path):
    private = {"l2_norm_clip": 1.0, "noise_multiplier": 0.7}
    ends = keras.Input((6,))
    made = [
        tensorflow_privacy.DPSequential(
            **private, num_microbatches=40, layers=[keras.layers.Dense(2)]
        ),
        tensorflow_privacy.DPModel(
            **private, inputs=ends, outputs=keras.layers.Dense(2)(ends), name="graph"
        ),
        tensorflow_privacy.make_dp_model_class(Subclassed)(**private, width=3),
    ]
    m = hg.dp_sgd(examples=120, batch_size=40, steps=3, delta=1e-5, noise_multiplier=0.7)
    for model in made:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        model.fit(*data, batch_size=40, verbose=0)
        assert model.epsilon(1e-5) == m.epsilon()
    for model in made[:2]:
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            loaded.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
        )
        assert loaded.epsilon(1e-5) == m.epsilon()
        assert loaded.noise_multiplier == 0.7
    with pytest.raises(InputError, match="OwnStep has a train_step of its own"):
        tensorflow_privacy.make_dp_model_class(OwnStep)


@pytest.mark.slow
def test_the_tutorials_script():
    """On made-up images: the same code, the same costs."""
    file = Path(__file__).parents[3] / "examples" / "tensorflow_privacy.py"
    spec = importlib.util.spec_from_file_location("tutorial", file)
    assert spec is not None
    assert spec.loader is not None
    tutorial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tutorial)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(320, 28, 28, 1)).astype(np.float32)
    labels = keras.utils.to_categorical(rng.integers(0, 10, 320), 10)
    model = tutorial.train(tutorial.TUTORIAL, images, labels, (images, labels))
    m = hg.dp_sgd(examples=320, batch_size=32, steps=10, delta=1e-5, noise_multiplier=0.5)
    assert model.epsilon(1e-5) == m.epsilon()
    told = tutorial.statement(tutorial.TUTORIAL, 60_000)
    assert "10.726" in told
    assert "3.800" in told


def ftrl(**changes):
    given = {"l2_norm_clip": 0.5, "noise_multiplier": 2.0, "learning_rate": 0.1, **changes}
    return tensorflow_privacy.DPFTRLTreeAggregationOptimizer(**given)


@pytest.mark.filterwarnings("ignore:delta")
def test_ftrl_trains_and_is_charged_for_its_tree(data, tmp_path):
    model = classifier()
    optimizer = ftrl(var_list_or_model=model, restart_period=3, restart_warmup=2)
    model.compile(optimizer=optimizer, loss=EACH)
    model.fit(*data, epochs=2, batch_size=40, verbose=0)
    first = hg.Mechanism(
        examples=120,
        batch_size=40,
        sampling=hg.sampling.Shuffle(40),
        clip=hg.clip.Flat(0.5),
        noise_multiplier=2.0,
        steps=6,
        delta=1e-5,
        strategy=hg.noise.Tree(3, 2),
    )
    assert model.account.spent[0].made == first
    assert model.epsilon(1e-5) == first.epsilon()
    # Another call begins another tree: two runs one after the other.
    model.fit(*data, batch_size=40, verbose=0)
    both = hg.schedule(first, first.after(3))
    assert model.epsilon(1e-5) == both.epsilon()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.epsilon(1e-5) == both.epsilon()
    assert loaded.optimizer.settings == optimizer.settings


def test_ftrls_noise_is_a_trees(data):
    """Updates of a large noise: their sum over 4 steps has variance 4/7, over 3 steps 5/3.

    The deviation of n normal numbers is within 4 / sqrt(2 n) of the true one but for one in
    15,000 tries; what the gradients add is less than 1e-3 of it.
    """
    model = classifier(400)
    model.compile(optimizer=ftrl(noise_multiplier=5000.0, learning_rate=1.0), loss=EACH)
    weights = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(np.concatenate([w.ravel() for w in self.model.get_weights()]))

    weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    model.fit(*data, batch_size=30, epochs=1, callbacks=[Look()], verbose=0)
    assert len(weights) == 5
    for steps, variance in ((1, 1), (2, 2 / 3), (3, 5 / 3), (4, 4 / 7)):
        wanted = np.sqrt(variance) * 0.5 * 5000.0 / 30
        moved = weights[steps] - weights[0]
        assert np.std(moved) == pytest.approx(wanted, rel=4 / np.sqrt(2 * len(moved)))


def test_each_call_is_a_tree_of_its_own(data):
    model = classifier()
    model.compile(optimizer=ftrl(), loss=EACH)
    for _ in range(3):
        with pytest.warns(UserWarning, match="as a stream"):
            model.train_on_batch(*data)
    one = model.account.spent[0].made
    assert one.steps == 1
    assert model.epsilon(1e-5) == hg.schedule(one, one, one).epsilon()


@pytest.mark.slow
def test_ftrls_seed_is_told(data):
    made = []
    for _ in range(2):
        model = classifier()
        model.compile(optimizer=ftrl(noise_seed=3), loss=EACH)
        model.fit(*data, batch_size=40, verbose=0)
        made.append(model.get_weights())
        assert "SEEDED" in model.privacy_statement()
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_generic_optimizer_takes_a_query(data, tmp_path):
    query = tensorflow_privacy.GaussianSumQuery(2.0, 3.0)
    optimizer = tensorflow_privacy.GenericDPSGDOptimizer(query, learning_rate=0.1)
    assert optimizer.settings.clip == hg.clip.Flat(2.0)
    assert optimizer.settings.noise_multiplier == 1.5
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.settings == optimizer.settings
    model = classifier()
    model.compile(optimizer=optimizer, loss=EACH)
    model.fit(*data, batch_size=40, verbose=0)
    m = hg.dp_sgd(examples=120, batch_size=40, steps=3, clip=2.0, delta=1e-5, noise_multiplier=1.5)
    assert model.epsilon(1e-5) == m.epsilon()
    made = tensorflow_privacy.make_gaussian_query_optimizer_class(
        tensorflow_privacy.GenericDPAdamOptimizer
    )
    assert issubclass(made, keras.optimizers.Adam)
    assert made(1.0, 0.5).settings.noise_multiplier == 0.5


def test_a_generic_optimizer_refuses_other_queries():
    query = tensorflow_privacy.NoPrivacySumQuery()
    with pytest.raises(InputError, match="take DPFTRLTreeAggregationOptimizer"):
        tensorflow_privacy.GenericDPAdamOptimizer(query)
