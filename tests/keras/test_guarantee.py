"""What a private Keras model releases, and what it is charged for it."""

import sqlite3

import dp_accounting as dpa
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import hushgrad as hg
from hushgrad.errors import BudgetError, InputError, LedgerError, StorageError
from hushgrad.keras.account import Account
from hushgrad.keras.example import loss_of_one, named
from hushgrad.keras.trainer import PrivateTrainer
from hushgrad.noise import gaussian
from hushgrad.training.ledger import Ledger
from hushgrad.training.secret import RunSecret
from hushgrad.training.team import Team

SEED = 3


def secret_of(fit: int) -> RunSecret:
    """That of the n-th training of a model with the seed."""
    return RunSecret(RunSecret.from_seed(SEED).derive("fit", fit))


def by_hand(model, x, y, weight, rows, key, m, lr):
    """The weights after one step, one gradient at a time."""
    values = [v.value for v in model.trainable_variables]

    def loss(values, i):
        y_pred, _ = model.stateless_call(
            values, [v.value for v in model.non_trainable_variables], jnp.asarray(x)[i][None]
        )
        logits = jax.nn.log_softmax(y_pred[0])
        return -jnp.asarray(weight)[i] * logits[jnp.asarray(y)[i]]

    def clipped(i):
        grads = jax.grad(loss)(values, i)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in grads))
        return [g * jnp.minimum(1, 1 / norm) for g in grads]

    total = [jnp.sum(g, 0) for g in jax.jit(jax.vmap(clipped))(rows)]
    noise = gaussian(m.noise_multiplier)
    noisy, _ = jax.jit(lambda g: noise.update(g, noise.init(None), key=key))(named(model, total))
    by_path = [noisy[v.path] for v in model.trainable_variables]
    return [v - lr * g / m.batch_size for v, g in zip(values, by_path, strict=True)]


@pytest.mark.parametrize("block_size", [16, 64])
def test_a_step_is_one_of_dp_sgd(private, classifier, data, weights, block_size):
    """Sampler, clip, noise, divisor, weights and regularizers, against one gradient at a time."""
    x, y = data
    model = classifier()
    model.layers[-1].kernel.regularizer = keras.regularizers.L2(0.1)
    weight = np.linspace(0.5, 2, len(x)).astype(np.float32)
    made = private(model, lr=0.5, seed=SEED, noise_multiplier=0.01, block_size=block_size)
    m = hg.dp_sgd(examples=200, batch_size=40, steps=1, delta=1e-3, noise_multiplier=0.01)
    rows = m.sampling.batch(0, 200, secret_of(1).sampling_generator)
    assert len(rows) > 20
    # The penalty's gradient follows from the weights alone: neither clipped nor divided.
    pull = np.zeros_like(model.layers[-1].kernel.value) + 0.2 * model.layers[-1].kernel.value
    expected = by_hand(model, x, y, weight, rows, secret_of(1).noise_key(0), m, 0.5)
    expected[2] = expected[2] - 0.5 * pull
    made.fit(x, y, sample_weight=weight, batch_size=40, steps_per_epoch=1, verbose=0)
    for found, wanted in zip(weights(made), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    assert made.epsilon() == m.epsilon()


def test_no_key_serves_twice(private, data, monkeypatch, tmp_path):
    """Not between steps, trainings, batches that are given, models, nor after loading."""
    keys, steps = [], PrivateTrainer.train_step

    def spied(self, state, batch):
        keys.append(batch.key.tobytes())
        return steps(self, state, batch)

    monkeypatch.setattr(PrivateTrainer, "train_step", spied)
    x, y = data
    for made in (private(seed=SEED), private()):
        for _ in range(2):
            made.fit(x, y, batch_size=100, epochs=2, verbose=0)
            made.train_on_batch(x[:10], y[:10])
    seeded = private(seed=SEED)
    seeded.fit(x, y, batch_size=100, epochs=2, verbose=0)
    same, keys = keys[-4:], keys[:-4]
    assert set(same) < set(keys)  # the seed does what seeds do: the spy sees keys
    made.save(tmp_path / "private.keras")
    loaded = keras.models.load_model(tmp_path / "private.keras")
    loaded.fit(x, y, batch_size=100, verbose=0)
    assert len(keys) == len({*keys}) == 22


def test_frameworks_seeds_do_not_make_it_predictable(private, classifier, data, weights):
    after = []
    for _ in range(2):
        model = classifier(7)  # sets the seeds of Keras, NumPy and Python
        made = private(model)
        made.fit(*data, batch_size=50, verbose=0)
        after.append(weights(made))
    assert not any(np.array_equal(a, b) for a, b in zip(*after, strict=True))


def test_a_step_that_cannot_be_charged_is_not_made(private, data, weights, monkeypatch):
    made, charge = private(), Ledger.charge
    made.build((None, 6))
    before, seen = weights(made), []

    def failing(self, step, mark=None):
        if step == 3:
            raise LedgerError("the disk is full")
        charge(self, step, mark)

    monkeypatch.setattr(Ledger, "charge", failing)
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (made.jax_state_sync(), seen.append(weights(made)))
    )
    with pytest.raises(LedgerError, match="the disk is full"):
        made.fit(*data, batch_size=20, callbacks=[keep], verbose=0)
    assert len(seen) == 3
    assert made.account.steps == 3
    for found, last in zip(weights(made), seen[-1], strict=True):
        np.testing.assert_array_equal(found, last)
    # In the very first step Keras has taken the weights out of the model already.
    fresh = private()
    fresh.build((None, 6))
    monkeypatch.setattr(Ledger, "charge", lambda *a: (_ for _ in ()).throw(LedgerError("full")))
    with pytest.raises(LedgerError):
        fresh.fit(*data, batch_size=20, verbose=0)
    for found, last in zip(weights(fresh), before, strict=True):
        np.testing.assert_array_equal(found, last)


def test_each_step_is_in_the_ledger(private, data, tmp_path):
    made = private(ledger=tmp_path / "spent.sqlite")
    made.fit(*data, batch_size=50, epochs=2, verbose=0)
    made.train_on_batch(data[0][:5], data[1][:5])
    with sqlite3.connect(tmp_path / "spent.sqlite") as file:
        kinds = [kind for (kind,) in file.execute("select kind from entries")]
    assert kinds.count("charge") == made.account.steps == 9
    assert kinds.count("open") == kinds.count("finish") == 2


def test_a_ledger_that_cannot_be_made(private, data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    made = private()
    with pytest.raises(StorageError, match=r"name a file in privatize\(ledger=\.\.\.\)"):
        made.fit(*data, verbose=0)
    assert made.account.steps == 0


def test_noise_is_found_for_epsilon_and_all_of_it_is_spent(private, data, weights):
    made = private(noise_multiplier=None, epsilon=2.0)
    made.fit(*data, batch_size=40, epochs=3, verbose=0)
    assert 1.99 <= made.epsilon() <= 2.0
    m = hg.dp_sgd(examples=200, batch_size=40, steps=15, delta=1e-3, epsilon=2.0)
    assert made.noise_multiplier == m.noise_multiplier
    before = weights(made)
    for more in (
        lambda: made.fit(*data, batch_size=40, verbose=0),
        lambda: made.fit(*data, batch_size=40, epochs=1, steps_per_epoch=1, verbose=0),
    ):
        with pytest.raises(BudgetError, match=r"epsilon=2 is spent"):
            more()
    with pytest.raises(InputError, match="noise_multiplier must be given for train_on_batch"):
        made.train_on_batch(data[0][:5], data[1][:5])
    for found, last in zip(weights(made), before, strict=True):
        np.testing.assert_array_equal(found, last)


def test_what_early_stopping_left_can_be_spent(private, data):
    made = private(noise_multiplier=None, epsilon=2.0)
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(made, "stop_training", True)
    )
    made.fit(*data, batch_size=40, epochs=4, callbacks=[stop], verbose=0)
    first, spent = made.noise_multiplier, made.epsilon()
    assert made.account.steps == 5
    assert spent < 1.5
    made.fit(*data, batch_size=40, epochs=2, verbose=0)
    assert 1.99 <= made.epsilon() <= 2.0
    assert made.noise_multiplier != first
    assert "2 phases" in made.privacy_statement()


def test_no_way_leads_past_the_limit(private, data, weights):
    x, y = data
    one = hg.dp_sgd(examples=200, batch_size=40, steps=7, delta=1e-3, noise_multiplier=1.0)
    made = private(epsilon=one.epsilon())
    with pytest.raises(BudgetError, match="holds 7 of the 10 steps asked for"):
        made.fit(x, y, batch_size=40, epochs=2, verbose=0)
    assert made.account.steps == 0
    made.fit(x, y, batch_size=40, epochs=1, verbose=0)
    with pytest.raises(BudgetError, match="holds 2 of the 5 steps"):
        made.fit(x, y, batch_size=40, verbose=0)
    made.fit(x, y, batch_size=40, steps_per_epoch=2, verbose=0)
    assert made.epsilon() == one.epsilon()
    before = weights(made)
    with pytest.raises(BudgetError, match="holds 0 of the"):
        made.train_on_batch(x[:40], y[:40])
    for found, last in zip(weights(made), before, strict=True):
        np.testing.assert_array_equal(found, last)


def test_a_stream_longer_than_announced_stops_at_the_limit(private, data):
    x, y = data

    def endless():
        while True:
            yield x[:20], y[:20]

    wanted = hg.dp_sgd(
        examples=20,
        batch_size=20,
        steps=5,
        delta=1e-3,
        noise_multiplier=3.0,
        sampling=hg.sampling.Stream,
    ).epsilon()
    made = private(noise_multiplier=3.0, epsilon=wanted)
    with (
        pytest.warns(UserWarning, match="data come as a stream"),
        pytest.raises(BudgetError, match="holds 0 of the"),
    ):
        made.fit(endless(), verbose=0)
    assert made.account.steps == 5
    assert made.epsilon() == pytest.approx(wanted)
    assert np.isfinite(made.predict(x[:2], verbose=0)).all()


def test_train_on_batch_is_charged_as_if_everybody_were_in_it(private, data):
    made = private(noise_multiplier=3.0)
    for _ in range(4):
        logs = made.train_on_batch(data[0][:30], data[1][:30], return_dict=True)
    event = hg.accounting.poisson_gaussian(1.0, 3.0, 4)
    assert made.epsilon() == hg.accounting.epsilon(event, 1e-3, relation="replace-special")
    assert logs["epsilon"] == made.epsilon()
    statement = made.privacy_statement()
    assert "DP-SGD over a stream" in statement
    assert "replace-special" in statement


def test_a_budget_holds_all_trainings(private, data, tmp_path):
    one = hg.dp_sgd(examples=200, batch_size=40, steps=10, delta=1e-3, noise_multiplier=1.0)
    url = f"sqlite:///{tmp_path / 'budget.sqlite'}"
    budget = hg.Budget("patients", one.epsilon(), 1e-3, url=url)
    made = private(budget=budget)
    made.fit(*data, batch_size=40, verbose=0)
    assert budget.epsilon_held == one.epsilon(steps=5)
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(made, "stop_training", batch == 1)
    )
    made.fit(*data, batch_size=40, callbacks=[stop], verbose=0)
    assert [run.charged for run in budget.runs] == [5, 2]
    assert {run.status for run in budget.runs} == {"finished"}
    other = private(budget=budget)
    with pytest.raises(BudgetError, match="It holds 3 of the run's 5 steps"):
        other.fit(*data, batch_size=40, verbose=0)
    assert other.account.steps == 0
    budget.disconnect()


def test_an_empty_batch_is_a_step(private, data, weights):
    made = private(seed=SEED, lr=0.1)
    x, y = data[0][:3], data[1][:3]
    made.fit(x, y, batch_size=1, epochs=4, verbose=0)  # a third is in each: some are empty
    secret = secret_of(1)
    m = hg.dp_sgd(examples=3, batch_size=1, steps=12, delta=1e-3, noise_multiplier=1.0)
    assert any(not len(m.sampling.batch(s, 3, secret.sampling_generator)) for s in range(12))
    assert made.account.steps == 12
    assert all(np.isfinite(w).all() for w in weights(made))


def test_a_bad_record_adds_nothing(private, classifier, data, weights):
    x, y = data
    after = []
    for bad in (np.nan, np.inf, None):
        spoilt, weight = x.copy(), np.ones(200, np.float32)
        if bad is None:
            weight[:50] = 0  # its gradient is zero then, too
        else:
            spoilt[:50] = bad
        made = private(classifier(), seed=SEED, metrics=["accuracy"])
        made.fit(spoilt, y, sample_weight=weight, batch_size=40, verbose=0)
        after.append(weights(made))
    for found in after[:2]:
        for a, b in zip(found, after[2], strict=True):
            np.testing.assert_array_equal(a, b)


def test_dropout_draws_afresh_for_each_example_and_step(classifier, data):
    model = classifier(0, keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    frozen = [v.value for v in model.non_trainable_variables]
    params = named(model, [v.value for v in model.trainable_variables])
    loss = loss_of_one(model, frozen)
    x, y = data[0][0], data[1][0]
    words = np.random.default_rng(0).integers(0, 2**32, (64, 2), np.uint32)
    values, _ = jax.vmap(lambda w: loss(params, w, x, y, None))(words)
    assert len(np.unique(np.asarray(values))) == 64
    again, _ = loss(params, words[0], x, y, None)
    assert float(again) == pytest.approx(float(values[0]), rel=1e-6)


def test_seed_generators_move_on(private, classifier, data):
    model = classifier(0, keras.layers.Dropout(0.5))
    state = model.layers[1].seed_generator.state
    before = np.array(state)
    private(model).fit(*data, batch_size=100, verbose=0)
    np.testing.assert_array_equal(np.array(state), before + np.array([0, 2], before.dtype))


@pytest.mark.parametrize(
    ("other", "relation"),
    [(hg.sampling.Stream, "replace-special"), (hg.sampling.FixedSize, "replace-one")],
)
def test_the_account_counts_under_what_covers_all(other, relation):
    """A training by coins and another one: as what hides more has it."""
    facts = {"examples": 200, "batch_size": 40, "delta": 1e-3}
    coins = hg.dp_sgd(**facts, steps=5, noise_multiplier=1.0)
    second = hg.dp_sgd(**facts, steps=2, noise_multiplier=2.0, sampling=other)
    account = Account(None, 1e-3)
    for m in (coins, second):
        account.open(m, Team(), ())
        for step in range(m.steps):
            account.charge(step)
        account.close()
    event = dpa.ComposedDpEvent([coins.event, second.event])
    wanted = hg.accounting.epsilon(event, 1e-3, relation=relation)
    assert account.epsilon() == wanted
    assert f"{wanted:.4f}" in account.statement()
