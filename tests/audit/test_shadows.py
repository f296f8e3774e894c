"""Shadow models: who had what, that each is trained as if alone, and what they show."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import hushgrad as hg
from hushgrad.audit.lira import label_logit, lira_leave_one_out
from hushgrad.audit.rmia import rmia_leave_one_out
from hushgrad.audit.roc import Roc
from hushgrad.audit.shadows import train_private_shadows, train_shadows
from hushgrad.errors import InputError

POOL, WIDTH = 60, 8


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (WIDTH, 3)), "b": jnp.zeros(3)}


def loss(params, x, y):
    return -jax.nn.log_softmax(x @ params["w"] + params["b"])[y]


@pytest.fixture(scope="module")
def data():
    """A pool of noise, which can only be learned by heart; nobody may write to it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(POOL, WIDTH)).astype(np.float32), rng.integers(0, 3, POOL)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def train(data, **changes):
    settings = {"batch_size": 7, "epochs": 3, "shadows": 6, "optimizer": optax.adam(0.01)}
    return train_shadows(loss, changes.pop("init", init), data, **{**settings, **changes})


def alone(data, members, number, *, epochs, batch, start, seed=0):
    """One shadow's training as anybody would write it."""
    key = jax.random.fold_in(jax.random.key(seed), number)
    start_key, order_key = jax.random.split(key)
    params = start(start_key) if callable(start) else start
    optimizer = optax.adam(0.01)
    state, half = optimizer.init(params), np.flatnonzero(members)

    @jax.jit
    def step(params, state, x, y):
        grads = jax.grad(lambda p: jnp.mean(jnp.stack([loss(p, x[i], y[i]) for i in range(batch)])))
        updates, state = optimizer.update(grads(params), state, params)
        return optax.apply_updates(params, updates), state

    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), half))
        for place in range(0, len(half) - batch + 1, batch):
            x, y = (array[order[place : place + batch]] for array in data)
            params, state = step(params, state, x, y)
    return params


def close(found, expected, tolerance=1e-5):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize("at_once", [1, 4])
def test_each_is_trained_as_if_alone(data, at_once):
    shadows = train(data, epochs=2, at_once=at_once)
    for number in (0, 5):
        expected = alone(data, shadows.members[number], number, epochs=2, batch=7, start=init)
        close(jax.tree.map(lambda p, n=number: p[n], shadows.params), expected)


def test_all_may_start_from_the_same_parameters(data):
    start = init(jax.random.key(9))
    shadows = train(data, init=start, steps=4, epochs=None)
    expected = alone(data, shadows.members[3], 3, epochs=1, batch=7, start=start)
    close(jax.tree.map(lambda p: p[3], shadows.params), expected)


def test_convolutions_are_trained_step_by_step_to_the_same_end():
    """They leave the loop on CPUs only, where they are slow in it."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 6, 6, 1)).astype(np.float32), rng.integers(0, 2, 12)

    def conv(params, x, y):
        out = jax.lax.conv_general_dilated(
            x[None], params["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return -jax.nn.log_softmax(jnp.mean(out, axis=(0, 1, 2)))[y]

    start = {"k": jnp.asarray(rng.normal(size=(3, 3, 1, 2)), jnp.float32)}
    settings = {"optimizer": optax.sgd(0.1), "batch_size": 3, "epochs": 2, "shadows": 4}
    one = train_shadows(conv, start, data, at_once=1, **settings)
    close(one.params, train_shadows(conv, start, data, at_once=4, **settings).params)
    np.testing.assert_allclose(
        one.statistics(conv, data)[2],
        [conv({"k": one.params["k"][2]}, *each) for each in zip(*data, strict=True)],
        atol=1e-5,
    )


def test_halves_are_balanced_both_ways_and_come_in_pairs(data):
    members = train(data, steps=1, epochs=None, shadows=10).members
    assert members.shape == (10, POOL)
    assert members.dtype == bool
    assert np.all(members.sum(axis=0) == 5)
    assert np.all(members.sum(axis=1) == POOL // 2)
    assert np.array_equal(members[::2], ~members[1::2])
    assert len({row.tobytes() for row in members}) == 10
    other = train(data, steps=1, epochs=None, shadows=10, seed=1).members
    assert not np.array_equal(members, other)
    assert np.array_equal(members, train(data, steps=1, epochs=None, shadows=10).members)


def test_statistics_are_those_of_every_model_and_example(data):
    shadows = train(data, shadows=6, at_once=4)
    assert len(shadows) == 6
    found = shadows.statistics(loss, data, block=16)
    assert found.shape == (6, POOL)
    one = jax.tree.map(lambda p: p[4], shadows.params)
    np.testing.assert_allclose(
        found[4], [loss(one, *each) for each in zip(*data, strict=True)], atol=1e-5
    )
    both = shadows.statistics(lambda p, x: x @ p["w"] + p["b"], data[:1])
    assert both.shape == (6, POOL, 3)


def test_what_was_learned_by_heart_is_found():
    """Of a model as large as its half of the pool; chance is 0.5, give or take 0.03.

    Twenty-four targets of 80 examples, in 12 independent pairs: the standard deviation of their
    mean AUC is at most sqrt(81 / (3 * 80 * 80) / 12) = 0.019.
    """
    rng = np.random.default_rng(1)
    data = rng.normal(size=(80, 40)).astype(np.float32), rng.integers(0, 3, 80)

    def start(key):
        return {"w": jnp.zeros((40, 3)), "b": jnp.zeros(3)}

    shadows = train_shadows(
        loss, start, data, optimizer=optax.adam(0.05), batch_size=20, epochs=30, shadows=24
    )
    members = shadows.members

    def auc(scores):
        return Roc.of(scores[members], scores[~members]).auc

    found = shadows.statistics(lambda p, x, y: label_logit(x @ p["w"] + p["b"], y), data)
    for attack in ("online", "offline"):
        assert auc(lira_leave_one_out(found, members, attack=attack)) > 0.75
        log_p = -shadows.statistics(loss, data)
        assert auc(rmia_leave_one_out(log_p, members, attack=attack)) > 0.75
    # With enough noise nothing is left of it.
    m = hg.dp_sgd(examples=40, batch_size=20, steps=20, clip=1.0, delta=1e-3, noise_multiplier=60.0)
    private = train_private_shadows(
        loss, start, data, optimizer=optax.sgd(1.0), mechanism=m, shadows=24
    )
    assert np.array_equal(private.members, members)
    found = private.statistics(lambda p, x, y: label_logit(x @ p["w"] + p["b"], y), data)
    assert abs(auc(lira_leave_one_out(found, members)) - 0.5) < 5 * 0.019


def test_private_shadows_have_the_mechanisms_noise_and_clip(data):
    """The noise of 40 shadows of 27 parameters after one step: chi-squared, one in a million."""

    def flat(params, x, y):
        """Its gradient is one million times too long."""
        return 1e6 * (jnp.sum(params["w"]) + jnp.sum(params["b"])) + 0.0 * jnp.sum(x) * y

    start = init(jax.random.key(0))
    count, batch, clip, noise = 40, 15, 0.5, 0.05
    m = hg.dp_sgd(
        examples=POOL // 2, batch_size=batch, steps=1, delta=1e-3, clip=clip, noise_multiplier=noise
    )
    found = train_private_shadows(
        flat, start, data, optimizer=optax.sgd(1.0), mechanism=m, shadows=count
    )
    steps = jax.tree.map(lambda p, s: np.asarray(s - p) * batch, found.params, start)
    moved = np.concatenate([leaf.reshape(count, -1) for leaf in jax.tree.leaves(steps)], axis=1)
    # All gradients point one way. Along it each that was drawn adds the clip; across is noise.
    size, stddev = moved.shape[1], noise * clip
    along = moved.sum(axis=1) / np.sqrt(size)
    drawn = np.round(along / clip)
    assert np.max(np.abs(along - clip * drawn)) < 5.7 * stddev
    low, high = stats.binom.interval(1 - 1e-6 / count, POOL // 2, 0.5)
    assert np.all((drawn >= low) & (drawn <= high))
    assert np.ptp(drawn) > 2
    across = moved - along[:, None] / np.sqrt(size)
    low, high = stats.chi2.interval(1 - 1e-6, (size - 1) * count)
    assert low < np.sum(across**2) / stddev**2 < high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 31}, "batch_size must be at most half of the pool, 30 examples, got 31"),
        ({"shadows": 5}, "shadows must be an even number of models, .* got 5"),
        ({"epochs": None}, "give either epochs or steps, got epochs=None and steps=None"),
        ({"steps": 3}, "give either epochs or steps, got epochs=3 and steps=3"),
        ({"at_once": 0}, "at_once must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"init": {"w": np.zeros(3, int)}}, "init must give floating-point parameters, got int32"),
        ({"init": {}}, "init must give floating-point parameters, got none"),
    ],
)
def test_bad_arguments_are_refused(data, changes, message):
    with pytest.raises(InputError, match=message):
        train(data, **changes)


def test_bad_data_and_losses_are_refused(data):
    x, y = data
    with pytest.raises(InputError, match=r"data must be an even number of examples.*, got 59"):
        train((x[1:], y[1:]))
    with pytest.raises(InputError, match="data: all batch arrays must have the same length"):
        train((x, y[1:]))
    how = {"optimizer": optax.sgd(0.1), "batch_size": 5, "epochs": 1}
    with pytest.raises(InputError, match="loss must return one number for one example"):
        train_shadows(lambda p, x, y: x @ p["w"], init, data, **how)
    with pytest.raises(InputError, match=r"loss must be a function .* got 3"):
        train_shadows(3, init, data, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (0.5, r"mechanism must come from hg.dp_sgd\(...\), got 0.5"),
        ({"examples": POOL}, "mechanism must be for the 30 examples that each shadow has"),
        ({"sampling": hg.sampling.Shuffle}, "mechanism must sample by hg.sampling.Poisson, got"),
    ],
)
def test_mechanisms_that_do_not_fit_are_refused(data, mechanism, message):
    if isinstance(mechanism, dict):
        plan = {"examples": 30, "batch_size": 10, "steps": 3, "delta": 1e-3, "noise_multiplier": 1}
        mechanism = hg.dp_sgd(**{**plan, **mechanism})
    with pytest.raises(InputError, match=message):
        train_private_shadows(loss, init, data, optimizer=optax.sgd(0.1), mechanism=mechanism)
