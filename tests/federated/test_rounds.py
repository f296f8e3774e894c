"""Rounds with clients elsewhere: their updates as they come, good and bad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clients import SIZES

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.federated.cohort import stacked_client

ALL = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES)}


def sent(made, state, number, examples):
    """What a client sends back."""
    arguments = stacked_client(made.work, made.chance(state, number), examples)
    return jax.device_get(jax.jit(made.work)(state.params, *arguments).update)


def test_clients_elsewhere_give_the_model_of_a_simulation(process, params, users):
    made, other = process(), process()
    state, wanted = made.initialize(params, seed=4), other.initialize(params, seed=4)
    for _ in range(2):
        cohort = other.cohort(wanted, users)
        wanted, _ = other.next(wanted, cohort)
        round = made.begin(state)
        assert round.clients == frozenset(cohort)
        for number in reversed(list(cohort)):
            assert round.receive(number, sent(made, state, number, cohort[number]))
        state, metrics = round.finish()
        assert metrics.unprotected_clients == len(cohort)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, wanted.params
    )


@pytest.fixture
def begun(process, params):
    made = process(ALL)
    state = made.initialize(params, seed=0)
    return made, made.begin(state), jax.tree.map(lambda p: jnp.full(p.shape, 0.01), params)


BAD = {
    "missing": lambda u: {k: v for k, v in u.items() if k != "b"},
    "more": lambda u: u | {"c": u["b"]},
    "shape": lambda u: u | {"b": np.zeros((4, 1), np.float32)},
    "integer": lambda u: u | {"b": np.zeros(4, np.int32)},
    "text": lambda u: u | {"b": np.array(["a"] * 4)},
    "object": lambda u: u | {"b": None},
    "list": lambda u: list(u.values()),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_look_like_the_parameters_is_left_out(begun, kind):
    _, round, good = begun
    assert not round.receive(3, BAD[kind](good))
    assert 3 not in round.received
    assert round.receive(3, good)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_what_is_not_finite_adds_zero(begun, bad):
    _, round, good = begun
    spoilt = good | {"b": jnp.asarray([bad, 0, 0, 0], jnp.float32)}
    assert round.receive(0, spoilt)
    _, metrics = round.finish()
    assert metrics.unprotected_nonfinite == 1
    assert all(not np.any(g) for g in jax.tree.leaves(metrics.unprotected_sums.grads))


def test_zero_is_an_update(begun):
    """Flower's server divides by its norm."""
    _, round, good = begun
    assert round.receive(0, jax.tree.map(jnp.zeros_like, good))
    _, metrics = round.finish()
    assert metrics.unprotected_nonfinite == 0


def test_updates_are_clipped_whatever_the_client_did(begun):
    made, round, good = begun
    assert round.receive(0, jax.tree.map(lambda u: 1e6 * u, good))
    grads = round.finish()[1].unprotected_sums.grads
    norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))))
    assert 0.999 * made.mechanism.clip.sensitivity < norm <= made.mechanism.clip.sensitivity


def test_who_counts(begun, caplog):
    _, round, good = begun
    assert round.receive(5, good)
    for number in (5, len(SIZES), -1, "5", 2.5, True):
        assert not round.receive(number, good)
    round.finish()
    assert not round.receive(6, good)
    assert "round 0: client 6 left out: it came after the round's end" in caplog.text
    with pytest.raises(InputError, match="round 0 is over"):
        round.finish()


def test_who_was_not_drawn_is_left_out(process, params):
    made = process({"sampling": hg.sampling.FixedSize, "noise_multiplier": 2.0})
    round = made.begin(made.initialize(params, seed=0))
    good = jax.tree.map(jnp.zeros_like, params)
    taken = [n for n in range(len(SIZES)) if round.receive(n, good)]
    assert frozenset(taken) == round.clients
    assert len(taken) == 6


def test_narrow_updates_are_summed_wide(begun):
    _, round, good = begun
    assert round.receive(0, jax.tree.map(lambda u: np.asarray(u, np.float16), good))
    _, metrics = round.finish()
    assert metrics.unprotected_sums.grads["b"].dtype == jnp.float32
