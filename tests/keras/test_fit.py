"""Keras's own interface: data of every kind, metrics, callbacks, epochs."""

import math

import keras
import numpy as np
import pytest

import hushgrad as hg
from hushgrad.errors import DataError, InputError
from hushgrad.training.secret import RunSecret

SEED = 3


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays, size):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, number):
        rows = slice(number * self.size, (number + 1) * self.size)
        return tuple(a[rows] for a in self.arrays)


class Items:
    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, number):
        return tuple(a[number] for a in self.arrays)


@pytest.fixture
def run(private, classifier, weights):
    """The weights after a short seeded training, and the model."""

    def run(*data, **fit):
        made = private(classifier(), seed=SEED)
        history = made.fit(*data, **{"epochs": 2, "verbose": 0} | fit).history
        return weights(made), made, history

    return run


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_data_of_every_kind_give_the_same(run, data):
    x, y = data
    x, y = x[:150], y[:150]
    wanted, made, _ = run(x, y, batch_size=40)
    m = hg.dp_sgd(examples=150, batch_size=40, steps=8, delta=1e-3, noise_multiplier=1.0)
    assert made.epsilon() == m.epsilon()
    for given in (
        (keras.ops.array(x), keras.ops.array(y)),  # on the device
        (x.astype(np.float64), y),  # as wide as NumPy makes them
        (Items(x, y),),
        (Batches(x, y, size=40),),
    ):
        found, made, _ = run(*given, batch_size=40)
        assert same(found, wanted), given
        assert made.epsilon() == m.epsilon()
    found, _, _ = run(Batches(x, y, size=40))  # its own size of a batch
    assert same(found, wanted)


def test_a_seed_does_not_depend_on_what_layers_are_called(private, data):
    """Keras numbers layers; "dense_10" comes before "dense_9" in the alphabet."""
    after = []
    for number in (8, 9):
        keras.utils.set_random_seed(0)
        names = [f"dense_{number}", f"dense_{number + 1}"]
        stack = [keras.layers.Dense(3, name=names[0]), keras.layers.Dense(2, name=names[1])]
        made = private(keras.Sequential([keras.Input((6,)), *stack]), seed=SEED)
        made.fit(*data, batch_size=50, verbose=0)
        after.append(made.get_weights())
    assert same(*after)


def test_weights_of_classes_and_of_examples(run, data):
    x, y = data
    plain, _, _ = run(x, y, batch_size=40)
    weight = np.where(y == 1, 3.0, 0.5)
    wanted, _, _ = run(x, y, batch_size=40, sample_weight=weight)
    assert not same(plain, wanted)
    found, _, _ = run(x, y, batch_size=40, class_weight={1: 3.0, 0: 0.5})
    assert same(found, wanted)
    found, _, _ = run(Batches(x, y, weight, size=40))
    assert same(found, wanted)
    found, _, _ = run(Batches(x, y, size=40), class_weight={0: 0.5, 1: 3.0})
    assert same(found, wanted)
    with pytest.raises(InputError, match="give one of sample_weight and class_weight"):
        run(x, y, sample_weight=weight, class_weight={0: 1.0})


def test_a_batch_too_short_inside_a_dataset(run, data):
    class Ragged(Batches):
        def __getitem__(self, number):
            batch = super().__getitem__(number)
            return tuple(a[:30] for a in batch) if number == 1 else batch

    with pytest.raises(DataError, match="batch 1 of x has 30 examples and batch 0 has 40"):
        run(Ragged(*data, size=40), epochs=5)


def test_epochs_and_steps(private, data):
    made = private(seed=SEED)
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(made.account.steps)
    )
    history = made.fit(
        *data, batch_size=60, epochs=5, initial_epoch=3, callbacks=[count], verbose=0
    )
    assert history.epoch == [3, 4]
    assert seen == [*range(1, 9)]  # four batches of 60 cover 200
    made.fit(*data, batch_size=60, epochs=2, steps_per_epoch=3, callbacks=[count], verbose=0)
    assert seen[8:] == [*range(9, 15)]
    # Callbacks are told after so many steps; each is charged all the same.
    several = private(seed=SEED)
    several.compile(several.optimizer, several.loss, steps_per_execution=3)
    few = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: few.append(batch))
    several.fit(*data, batch_size=50, epochs=2, callbacks=[count], verbose=0)
    assert several.account.steps == 8
    assert few == [2, 5, 2, 5]


def test_epsilon_beside_the_loss(run, data, capsys):
    _, made, history = run(*data, batch_size=20, epochs=3, verbose=1)
    m = hg.dp_sgd(examples=200, batch_size=20, steps=30, delta=1e-3, noise_multiplier=1.0)
    assert history["epsilon"] == [m.epsilon(steps=s) for s in (10, 20, 30)]
    assert made.epsilon() == history["epsilon"][-1]
    shown = capsys.readouterr().out
    assert f"epsilon: {m.epsilon():.4f}" in shown
    assert shown.startswith("Training loss and metrics carry no noise")


def test_epsilon_is_never_behind_what_was_released(private, data):
    made, pairs = private(), []
    tell = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: pairs.append((logs["epsilon"], made.epsilon()))
    )
    made.fit(*data, batch_size=10, callbacks=[tell], verbose=0)
    assert len(pairs) == 20
    assert all(shown >= spent for shown, spent in pairs)
    assert pairs[-1][0] == pairs[-1][1]


def test_metrics_see_each_drawn_example_once(private, classifier, data):
    """With a learning rate of zero all metrics are known from who was drawn."""
    x, y = data
    names = ["accuracy", keras.metrics.FalseNegatives(name="missed")]
    model = classifier()
    made = hg.keras.privatize(
        model, clip=1.0, noise_multiplier=1.0, delta=1e-3, block_size=24, seed=SEED
    )
    made.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=names,
        weighted_metrics=[keras.metrics.MeanSquaredError(name="error")],
    )
    targets = np.stack([1 - y, y], 1).astype(np.float32)
    weight = np.linspace(0, 1, 200).astype(np.float32)
    history = made.fit(x, targets, sample_weight=weight, batch_size=50, verbose=0).history
    secret = RunSecret(RunSecret.from_seed(SEED).derive("fit", 1))
    sampler = hg.sampling.Poisson(0.25)
    rows = np.concatenate([sampler.batch(s, 200, secret.sampling_generator) for s in range(4)])
    predicted = np.asarray(model(x[rows]))
    assert history["missed"][0] == np.sum((predicted <= 0.5) & (targets[rows] == 1))
    right = np.mean(np.argmax(predicted, 1) == y[rows])
    assert history["accuracy"][0] == pytest.approx(right, rel=1e-5)
    squares = np.mean((predicted - targets[rows]) ** 2, 1)
    assert history["error"][0] == pytest.approx(
        np.sum(weight[rows] * squares) / np.sum(weight[rows]), rel=1e-5
    )


def test_validation(run, data, private):
    x, y = data
    wanted, _, history = run(x[:160], y[:160], batch_size=40, validation_data=(x[160:], y[160:]))
    found, made, split = run(x, y, batch_size=40, validation_split=0.2)
    assert same(found, wanted)
    assert split["val_loss"] == history["val_loss"]
    assert made.account.spent[0].mechanism.examples == 160
    with pytest.raises(InputError, match="leaves nothing to train or to validate"):
        run(x, y, validation_split=0.999)
    with pytest.raises(InputError, match=r"validation_split=0\.2 is for arrays"):
        run(Items(x, y), validation_split=0.2)


def test_keras_own_callbacks(private, data, tmp_path):
    made = private(metrics=["accuracy"])
    file = tmp_path / "best.keras"
    used = [
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100.0),
        keras.callbacks.ModelCheckpoint(file, monitor="val_accuracy"),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = made.fit(
        *data, batch_size=50, epochs=10, validation_data=data, callbacks=used, verbose=0
    )
    assert history.epoch == [0, 1]
    assert made.account.steps == 8
    assert float(made.optimizer.learning_rate) == pytest.approx(0.125)
    assert keras.models.load_model(file).epsilon() == made.epsilon()
    assert "epsilon" in (tmp_path / "log.csv").read_text()


def test_stop_at_epsilon(private, data):
    m = hg.dp_sgd(examples=200, batch_size=20, steps=13, delta=1e-3, noise_multiplier=1.0)
    made = private()
    stop = hg.keras.callbacks.StopAtEpsilon(m.epsilon() + 1e-9)
    made.fit(*data, batch_size=20, epochs=5, callbacks=[stop], verbose=0)
    assert made.account.steps == 13
    with pytest.raises(InputError, match="holds no further step"):
        made.fit(*data, batch_size=20, callbacks=[stop], verbose=0)
    # The second training counts the first, and an execution of several steps is not begun.
    several = private()
    several.compile(several.optimizer, several.loss, steps_per_execution=2)
    several.fit(*data, batch_size=20, steps_per_epoch=4, verbose=0)
    several.fit(*data, batch_size=20, epochs=5, callbacks=[stop], verbose=0)
    assert several.account.steps == 12
    with pytest.raises(InputError, match="is for the fit of a private model"):
        stop.set_model(keras.Sequential())


def test_the_report_is_written(private, data, tmp_path):
    made = private()
    report = hg.keras.callbacks.PrivacyReport(tmp_path / "a" / "report.txt")
    made.fit(*data, batch_size=50, callbacks=[report], verbose=0)
    assert (tmp_path / "a" / "report.txt").read_text() == made.privacy_statement() + "\n"
    assert "Nothing was trained yet" in private().privacy_statement()


def test_gradient_accumulation_charges_every_step(private, classifier, data, weights):
    made = private(classifier())
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=3)
    made.compile(optimizer, made.loss)
    before, changed = weights(made), []

    def compare(batch, logs):
        made.jax_state_sync()
        changed.append(not same(weights(made), before))

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=compare)
    made.fit(*data, batch_size=50, steps_per_epoch=3, callbacks=[watch], verbose=0)
    assert changed == [False, False, True]
    m = hg.dp_sgd(examples=200, batch_size=50, steps=3, delta=1e-3, noise_multiplier=1.0)
    assert made.epsilon() == m.epsilon()


@pytest.mark.filterwarnings("ignore:data come as a stream")
def test_streams(private, data):
    x, y = data

    def batches():
        for start in range(0, 200, 50):
            yield x[start : start + 50], y[start : start + 50]

    made = private(noise_multiplier=None, epsilon=5.0)
    with pytest.raises(InputError, match="stream of unknown length"):
        made.fit(batches(), verbose=0)
    made.fit(batches(), steps_per_epoch=4, verbose=0)
    assert made.account.steps == 4
    assert 4.95 <= made.epsilon() <= 5.0
    assert "as they came" in made.privacy_statement()
    # A last batch that is smaller is one like others, padded.
    ends = private(noise_multiplier=2.0)
    ends.fit(((x[i : i + 70], y[i : i + 70]) for i in range(0, 200, 70)), verbose=0)
    assert ends.account.steps == 3
    assert all(np.isfinite(w).all() for w in ends.get_weights())


@pytest.mark.parametrize("sampling", ["fixed_size", hg.sampling.Shuffle])
def test_other_samplers(private, classifier, data, sampling):
    made = private(classifier(), sampling=sampling)
    made.fit(*data, batch_size=50, epochs=2, verbose=0)
    kind = made.account.spent[0].mechanism.sampling
    m = hg.dp_sgd(
        examples=200,
        batch_size=50,
        steps=8,
        delta=1e-3,
        noise_multiplier=1.0,
        sampling=type(kind),
    )
    assert made.epsilon() == m.epsilon()


@pytest.mark.slow
def test_run_eagerly(private, classifier, data, weights):
    made = private(classifier(), seed=SEED)
    made.fit(*data, batch_size=50, steps_per_epoch=1, verbose=0)
    eager = private(classifier(), seed=SEED)
    eager.compile(keras.optimizers.SGD(0.5), eager.loss, run_eagerly=True)
    eager.fit(*data, batch_size=50, steps_per_epoch=1, verbose=0)
    for a, b in zip(weights(made), weights(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
