"""Ways around the account: weights that come back, data that are not what they seem."""

import warnings

import keras
import numpy as np
import pytest

import hushgrad as hg
from hushgrad.errors import BudgetError, DataError, InputError, LedgerError


def same(*models) -> bool:
    return len({m.epsilon() for m in models}) == 1


# Weights that come back.


def test_files_of_weights_tell_what_they_cost(private, data, tmp_path):
    made, file = private(), str(tmp_path / "w.weights.h5")
    made.fit(*data, batch_size=50, epochs=2, verbose=0)
    made.save_weights(file)
    fresh = private()
    fresh.load_weights(file)
    assert same(made, fresh)
    np.testing.assert_array_equal(fresh.get_weights()[0], made.get_weights()[0])
    # One that goes on from the file, and gives it back: what both have in common counts once.
    fresh.fit(*data, batch_size=50, verbose=0)
    later = str(tmp_path / "later.weights.h5")
    fresh.save_weights(later)
    made.load_weights(later)
    assert same(made, fresh)
    assert made.account.steps == 12
    # Going back to an earlier state of its own costs nothing, and gives nothing back.
    spent = made.epsilon()
    made.load_weights(file)
    assert made.epsilon() == spent
    # Weights of another training cost what both have cost.
    other = private()
    other.fit(*data, batch_size=50, verbose=0)
    other.load_weights(file)
    assert other.account.steps == 4 + 8
    assert other.epsilon() == pytest.approx(spent)


def test_weights_of_the_middle_of_a_training_count_as_far_as_it_was(private, data, tmp_path):
    """Two files of one training that goes on: the later one costs more."""
    files = [str(tmp_path / f"{epoch}.weights.h5") for epoch in range(2)]
    other, made = private(), private()

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save_weights(files[epoch])

    made.fit(*data, batch_size=50, epochs=2, callbacks=[Save()], verbose=0)
    for steps, file in zip((4, 8), files, strict=True):
        other.load_weights(file)
        assert other.account.steps >= steps  # what is common may count twice, and never less
    # One that began from the middle does not know of what came after it.
    begun = private()
    begun.load_weights(files[0])
    begun.fit(*data, batch_size=50, verbose=0)
    begun.save_weights(files[1])
    made.load_weights(files[1])
    assert made.account.steps == 8 + 8


def test_a_limit_counts_weights_that_were_loaded(private, data, tmp_path):
    made, file = private(), str(tmp_path / "w.weights.h5")
    made.fit(*data, batch_size=50, epochs=2, verbose=0)
    made.save_weights(file)
    limited = private(epsilon=1.01 * made.epsilon())
    limited.load_weights(file)
    with pytest.raises(BudgetError, match="holds 0 of the 4 steps"):
        limited.fit(*data, batch_size=50, verbose=0)


def test_weights_loaded_on_the_way_count_against_the_limit(private, data, tmp_path):
    made, file = private(), str(tmp_path / "w.weights.h5")
    made.fit(*data, batch_size=50, epochs=2, verbose=0)
    made.save_weights(file)

    class Load(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.load_weights(file)

    limit = 1.001 * made.epsilon()  # of eight steps
    limited = private(epsilon=limit)
    with pytest.raises(BudgetError, match="0 steps were planned"):
        limited.fit(*data, batch_size=50, callbacks=[Load()], verbose=0)
    assert limited.epsilon() == made.epsilon()


def test_noise_that_cancels_counts_as_a_whole_with_weights_loaded_on_the_way(
    private, data, tmp_path
):
    """Two passes under one tree cost more than two trees: 10 squares, and not twice 3."""
    made, file = private(strategy=hg.noise.Tree()), str(tmp_path / "w.weights.h5")
    made.fit(*data, batch_size=50, verbose=0)
    made.save_weights(file)

    class Load(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.load_weights(file)

    whole = private(strategy=hg.noise.Tree())
    whole.fit(*data, batch_size=50, epochs=2, verbose=0)
    limited = private(strategy=hg.noise.Tree(), epsilon=1.001 * whole.epsilon())
    with pytest.raises(BudgetError, match="steps were planned"):
        limited.fit(*data, batch_size=50, epochs=2, callbacks=[Load()], verbose=0)
    assert made.epsilon() < limited.epsilon() <= limited.account.limit


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise ZeroDivisionError


def test_a_backup_goes_on_with_what_it_cost(private, data, tmp_path):
    def fit(model, *more):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model.fit(*data, batch_size=50, epochs=5, callbacks=[backup, *more], verbose=0)

    whole = private()
    whole.fit(*data, batch_size=50, epochs=5, verbose=0)
    with pytest.raises(ZeroDivisionError):
        fit(private(), Crash())
    again = private(epsilon=1.001 * whole.epsilon())
    fit(again)
    assert again.optimizer.iterations == again.account.steps == 20
    assert same(again, whole)


def test_no_more_steps_than_were_planned(private, data):
    class Longer(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 1

    made = private()
    with pytest.raises(BudgetError, match="4 steps were planned"):
        made.fit(*data, batch_size=50, initial_epoch=3, epochs=4, callbacks=[Longer()], verbose=0)
    assert made.account.steps == 4


def test_two_private_models_of_one_have_one_account(private, classifier, data):
    model = classifier()
    first = private(model)
    first.fit(*data, batch_size=50, verbose=0)
    second = private(model)
    assert same(first, second)
    second.fit(*data, batch_size=50, verbose=0)
    assert same(first, second)
    assert first.account.steps == 8


def test_a_saved_model_does_not_forget_its_budget(private, data, tmp_path):
    budget = hg.Budget("people", 50.0, 1e-3, url=f"sqlite:///{tmp_path / 'b.sqlite'}")
    made = private(budget=budget, ledger=tmp_path / "own.sqlite")
    made.fit(*data, batch_size=50, verbose=0)
    made.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.account.ledger == tmp_path / "own.sqlite"
    with pytest.raises(BudgetError, match=r"saved under the budget 'people': set private\.account"):
        loaded.fit(*data, batch_size=50, verbose=0)
    assert same(made, loaded)
    loaded.account.budget = budget
    loaded.fit(*data, batch_size=50, verbose=0)
    assert len(budget.runs) == 2


# Numbers without noise must not steer.


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.ReduceLROnPlateau("accuracy"),
        keras.callbacks.ModelCheckpoint("m.keras", monitor="loss", save_best_only=True),
    ],
)
def test_training_scores_do_not_steer(private, data, callback):
    made = private()
    with pytest.raises(InputError, match="acts on training data without noise"):
        made.fit(*data, batch_size=50, callbacks=callback, verbose=0)
    assert made.epsilon() == 0


def test_scores_of_people_held_out_are_told(private, data):
    made = private()
    made.fit(*data, batch_size=40, validation_split=0.2, verbose=0)
    assert "Validation:" not in made.privacy_statement()
    stop = keras.callbacks.EarlyStopping("val_loss")
    made.fit(*data, batch_size=40, validation_split=0.2, callbacks=[stop], verbose=0)
    assert "without noise on a private set" in " ".join(made.privacy_statement().split())


def test_evaluation_moves_nothing(private, classifier, data):
    class Seen(keras.layers.Layer):
        def build(self, shape):
            self.total = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x, training=False):
            if not training:
                self.total.assign_add(keras.ops.sum(keras.ops.abs(x)))
            return x

    layer = Seen()
    made = private(classifier(0, layer))
    made.fit(*data, batch_size=40, validation_split=0.2, verbose=0)
    made.evaluate(*data, verbose=0)
    made.predict(data[0], verbose=0)
    assert float(layer.total) == 0


# Data that are not what they seem.


class SourceMapDataset:
    """As Grain's."""

    __module__ = "grain.python"
    parents = ()

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        return self.x[number], self.y[number]


class RepeatMapDataset(SourceMapDataset):
    __module__ = "grain.python"

    def __init__(self, parent):
        self.parents = [parent]
        self.x, self.y = (np.concatenate([a] * 10) for a in (parent.x, parent.y))


def test_items_that_repeat_are_refused(private, data):
    private().fit(SourceMapDataset(*data), batch_size=50, verbose=0)
    with pytest.raises(InputError, match="RepeatMapDataset in it, after which an item is not one"):
        private().fit(RepeatMapDataset(SourceMapDataset(*data)), batch_size=50, verbose=0)

    class Endless(SourceMapDataset):
        def __len__(self):
            return 2**62

    with pytest.raises(InputError, match="leave out what repeats it"):
        private().fit(Endless(*data), batch_size=50, verbose=0)


def test_batches_that_draw_are_refused(private, data):
    class Drawing(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, number):
            rows = np.random.default_rng().integers(0, 200, 50)
            return data[0][rows], data[1][rows]

    with pytest.raises(DataError, match="gave other targets"):
        private().fit(Drawing(), verbose=0)


def test_a_model_that_looks_at_others_is_refused_by_name(private, classifier, data):
    layer = keras.layers.Lambda(lambda x: x - keras.ops.mean(x, axis=0), name="centred")
    made = private(classifier(0, layer))
    with pytest.raises(InputError, match="depends on others in its batch, first in layer centred"):
        made.fit(*data, batch_size=50, verbose=0)
    assert made.epsilon() == 0


def test_adapted_layers_are_told(classifier, data):
    layer = keras.layers.Normalization(name="scaled")
    layer.adapt(data[0])
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(2)])
    private = hg.keras.privatize(model, clip=1.0, noise_multiplier=1.0)
    with pytest.warns(UserWarning, match=r"layers scaled were adapted: what adapt\(\) saw"):
        private.compile("sgd", "sparse_categorical_crossentropy")
    public = keras.layers.Normalization(mean=0.0, variance=1.0)
    model = keras.Sequential([keras.Input((6,)), public, keras.layers.Dense(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hg.keras.privatize(model, clip=1.0, noise_multiplier=1.0).compile("sgd", "mse")


# Nothing stays reserved, and what is asked for is done or refused.


def test_data_that_cannot_be_read_reserve_nothing(private, data, tmp_path):
    budget = hg.Budget("p", 50.0, 1e-3, url=f"sqlite:///{tmp_path / 'b.sqlite'}")
    made = private(budget=budget)
    with pytest.raises(InputError, match="class_weight needs targets in one array"):
        made.fit(data[0], {"a": data[1]}, batch_size=50, class_weight={0: 2.0}, verbose=0)
    (tmp_path / "no ledger").write_text("no ledger")
    other = private(budget=budget, ledger=tmp_path / "no ledger")
    with pytest.raises(LedgerError, match=r"cannot be charged to.*privatize\(ledger="):
        other.fit(*data, batch_size=50, verbose=0)
    assert not budget.runs


def test_no_epoch_is_no_step(private, data):
    made = private()
    assert made.fit(*data, epochs=2, initial_epoch=2, verbose=0).history == {}
    assert made.account.steps == 0


def test_a_loss_that_takes_weights_away_is_refused(private):
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    with pytest.raises(InputError, match="would take each example's weight away"):
        private().compile("sgd", loss)


def test_a_scale_of_the_optimizer_changes_nothing(classifier, data):
    made = []
    for scale in (None, 1024.0):
        private = hg.keras.privatize(classifier(), clip=1.0, noise_multiplier=1.0, seed=1)
        optimizer = keras.optimizers.SGD(0.1, loss_scale_factor=scale)
        private.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        private.fit(*data, batch_size=50, verbose=0)
        made.append(private.get_weights())
    for one, other in zip(*made, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_records_without_a_number_are_counted(private, data):
    x, y = data
    x = np.where(np.arange(200)[:, None] < 100, np.nan, x)
    with pytest.warns(UserWarning, match="gradients were not finite and counted as zero"):
        private().fit(x, y, batch_size=50, verbose=0)


def test_weights_beside_a_stream_are_refused(private, data):
    with pytest.raises(InputError, match="sample_weight must come with x"):
        private().fit(iter([data]), sample_weight=np.ones(200), steps_per_epoch=1, verbose=0)


def test_a_sampler_is_saved(private, data, tmp_path):
    made = private(sampling=hg.sampling.Poisson(0.25))
    made.fit(*data, batch_size=50, verbose=0)
    made.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(*data, batch_size=50, verbose=0)
    assert loaded.account.spent[0].mechanism.sampling == hg.sampling.Poisson(0.25)


def test_no_training_inside_of_another(private, data):
    class Inside(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.train_on_batch(*data)

    with pytest.raises(InputError, match="cannot be called while another training goes on"):
        private().fit(*data, batch_size=50, callbacks=[Inside()], verbose=0)


def test_a_model_that_was_made_before_its_distribution_is_refused(private, data, monkeypatch):
    made = private()
    devices = keras.distribution.DataParallel(devices=["cpu:0"])
    monkeypatch.setattr(keras.distribution, "distribution", lambda: devices)
    with pytest.raises(InputError, match=r"kernel is not on the devices of keras.distribution"):
        made.fit(*data, batch_size=50, verbose=0)


def test_a_stream_stops_where_the_limit_is(private, data):
    def batches():
        while True:
            yield data[0][:50], data[1][:50]

    made = private(noise_multiplier=20.0)
    twenty = hg.dp_sgd(
        examples=1000,
        batch_size=50,
        steps=20,
        delta=1e-3,
        noise_multiplier=20.0,
        sampling=hg.sampling.Stream,
    )
    stop = hg.keras.callbacks.StopAtEpsilon(1.0001 * twenty.epsilon())
    with pytest.warns(UserWarning, match="as a stream"):
        made.fit(batches(), steps_per_epoch=8, epochs=10, callbacks=[stop], verbose=0)
    assert made.account.steps == 20
