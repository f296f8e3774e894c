"""Rounds of a simulation: what runs is what is accounted, and what FedAvg is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clients import CLIENT, SERVER, SIZES, loss

import hushgrad as hg
from hushgrad.errors import BudgetError, DataError, InputError
from hushgrad.federated.work import order_of

ALL = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES)}
QUIET = ALL | {"clip": 1e3, "noise_multiplier": 1e-9}


def test_a_round_is_federated_averaging(process, params, users):
    """Against a plain loop: every client, its own order, short batches, the server's momentum."""
    made = process(QUIET)
    state = made.initialize(params, seed=0)
    wanted, momentum = params, jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        cohort = made.cohort(state, users)
        assert sorted(cohort) == list(range(len(SIZES)))
        updates = [_trained(wanted, cohort[i], made, made.chance(state, i)) for i in cohort]
        mean = jax.tree.map(lambda *u: sum(u) / len(SIZES), *updates)
        momentum = jax.tree.map(lambda m, u: 0.9 * m + u, momentum, mean)
        wanted = jax.tree.map(lambda p, m: p - m, wanted, momentum)
        state, metrics = made.next(state, cohort)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state.params, wanted)
    assert metrics.unprotected_clients == len(SIZES)
    assert metrics.round == 2


def _trained(params, examples, made, chance, pull=0.0):
    order, weights = order_of(len(examples[0]), made.work, chance), params
    for rows in order:
        x, y = (leaf[rows[rows >= 0]] for leaf in examples)

        def mean(w, x=x, y=y):
            far = sum(jnp.sum((w[k] - params[k]) ** 2) for k in params)
            return jnp.mean(jax.vmap(lambda a, b: loss(w, a, b))(x, y)) + pull / 2 * far

        weights = jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(mean)(weights))
    return jax.tree.map(lambda a, b: a - b, params, weights)


def test_every_pass_sees_each_example_once(process):
    work = process().work
    order = order_of(11, work, hg.training.secret.RunSecret.from_seed(1))
    assert order.shape == (2 * 3, 4)
    for half in (order[:3], order[3:]):
        assert sorted(half.ravel()) == [-1, *range(11)]
    assert not np.array_equal(order[:3], order[3:])


def test_fed_prox_pulls_to_the_server(mechanism, params, users):
    made = hg.federated.fed_prox(
        loss, CLIENT, SERVER, mechanism(**QUIET), proximal=3.0, batch_size=4, epochs=2
    )
    state = made.initialize(params, seed=0)
    cohort = made.cohort(state, users)
    updates = [_trained(params, cohort[i], made, made.chance(state, i), 3.0) for i in cohort]
    mean = jax.tree.map(lambda *u: sum(u) / len(SIZES), *updates)
    after, _ = made.next(state, cohort)
    jax.tree.map(
        lambda p, a, m: np.testing.assert_allclose(p - a, m, atol=2e-6), params, after.params, mean
    )


def test_fed_sgd_is_one_gradient_of_each_client(mechanism, params, users):
    made = hg.federated.fed_sgd(loss, optax.sgd(1.0), mechanism(**QUIET), batch_size=3)
    state = made.initialize(params, seed=0)
    cohort = made.cohort(state, users)

    def mean(w, x, y):
        return jnp.mean(jax.vmap(lambda a, b: loss(w, a, b))(x, y))

    grads = [jax.grad(mean)(params, *cohort[i]) for i in cohort]
    wanted = jax.tree.map(lambda p, *g: p - sum(g) / len(SIZES), params, *grads)
    after, _ = made.next(state, cohort)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), after.params, wanted)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_how_many_work_at_once_changes_nothing(process, params, users, lanes):
    wanted = _after(process(), params, users)
    found = _after(process(lanes=lanes, block_size=3), params, users)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)


def _after(made, params, users, rounds=2):
    state = made.initialize(params, seed=3)
    for _ in range(rounds):
        state, _ = made.next(state, made.cohort(state, users))
    return state.params


def test_wider_arrays_give_the_same(process, params, users):
    """As accelerators work."""
    made = process(block_size=4)
    wide = dataclasses.replace(made._sum, lanes=2)
    state = made.initialize(params, seed=3)
    cohort = made.cohort(state, users)
    one = made._sums(state, cohort)
    made._sum = wide
    other = made._sums(state, cohort)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)


def test_noise_is_what_is_accounted(process, params):
    """Nobody comes: what moves is noise alone, over the expected number of clients."""
    made = process({"clip": 0.7, "steps": 400, "batch_size": 6, "noise_multiplier": 2.0})
    made._optimizer = optax.sgd(1.0)
    state = made.initialize(params, seed=0)
    squares, count = 0.0, 0
    for _ in range(60):
        after, _ = made.next(state, {})
        moved = jax.tree.map(lambda a, b: a - b, after.params, state.params)
        squares += sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(moved))
        count += sum(leaf.size for leaf in jax.tree.leaves(moved))
        state = after
    # Of 2,160 squares the mean has relative deviation 0.03; five of them.
    assert squares / count == pytest.approx((2.0 * 0.7 / 6) ** 2, rel=0.15)


def test_a_client_with_many_examples_has_no_more_influence(process, params):
    """Flower's default weights: 100 times the examples move the mean by 100 clips."""
    made = process(ALL | {"clip": 0.01, "noise_multiplier": 1e-6})
    rng = np.random.default_rng(0)

    def sums(counts):
        state = made.initialize(params, seed=0)
        cohort = {
            i: (rng.normal(size=(n, 5)).astype(np.float32), rng.integers(0, 3, n).astype(np.int32))
            for i, n in enumerate(counts)
        }
        return made._sums(state, cohort).grads

    for counts in ([1], [1000]):
        norm = optax.global_norm(sums(counts))
        assert 0.0099 < float(norm) <= 0.01


def test_weights_by_examples_are_refused(process):
    with pytest.raises(InputError, match="client_weighting must be 'uniform'"):
        process(client_weighting="num_examples")


def test_who_was_not_drawn_is_refused(process, params, users):
    made = process({"sampling": hg.sampling.FixedSize, "noise_multiplier": 2.0})
    state = made.initialize(params, seed=0)
    cohort = made.cohort(state, users)
    assert len(cohort) == 6
    others = sorted(set(range(len(SIZES))) - set(cohort))
    examples = (np.zeros((2, 5), np.float32), np.zeros(2, np.int32))
    with pytest.raises(InputError, match=f"number {others[0]} first.*has not drawn for round 0"):
        made.next(state, dict(cohort) | {n: examples for n in others})
    for client in (-1, len(SIZES), 2.0, "3", True):
        with pytest.raises(InputError, match="clients numbered from 0 to 11"):
            made.next(state, {client: examples})
    # Some are lost on the way: the same round, the same divisor.
    some = {number: cohort[number] for number in list(cohort)[:2]}
    after, metrics = made.next(state, some)
    assert metrics.unprotected_clients == 2
    assert after.round == 1


def test_a_state_is_used_once(process, params, users):
    made = process(ALL)
    first = made.initialize(params, seed=0)
    cohort = made.cohort(first, users)
    after, _ = made.next(first, cohort)
    again, _ = made.next(first, cohort)  # the same sums: the same release, no second one
    jax.tree.map(np.testing.assert_array_equal, again.params, after.params)
    fewer = {number: cohort[number] for number in list(cohort)[:-1]}
    with pytest.raises(BudgetError, match="round 0 was released before, for other updates"):
        made.next(first, fewer)


def test_no_round_more_than_is_accounted(process, params, users):
    made = process({"steps": 2})
    state = made.initialize(params, seed=0)
    for _ in range(2):
        state, _ = made.next(state, made.cohort(state, users))
    for call in (made.sample, made.begin, lambda s: made.next(s, {})):
        with pytest.raises(BudgetError, match="all 2 rounds"):
            call(state)
    run = made.finish(state)
    assert run.steps == 2
    assert "user" in run.statement()


def test_chance_is_fresh_and_from_the_system(process, params, users):
    made = process()
    found = []
    for _ in range(2):
        state = made.initialize(params)
        np.random.seed(0)
        state, _ = made.next(state, {})
        found.append(np.asarray(state.params["w"]))
    assert not np.array_equal(*found)


def test_no_key_serves_two_rounds_and_no_client_anothers(process, params):
    made = process()
    state = made.initialize(params, seed=0)
    secret = made._sessions[state.run].secret
    keys = {secret.noise_key(t).tobytes() for t in range(5)}
    chances = {made.chance(state._replace(round=t), c).content for t in range(5) for c in range(12)}
    assert len(keys) == 5
    assert len(chances) == 60


def test_the_mechanism_hides_users(process, mechanism):
    m = dataclasses.replace(mechanism(), unit="example")
    assert process(mechanism=m).mechanism.unit == "user"


def test_examples_of_other_shapes(process, params):
    made = process(ALL)
    state = made.initialize(params, seed=0)
    fine = (np.zeros((2, 5), np.float32), np.zeros(2, np.int32))
    bad = {
        "client 1 has examples of other shapes": (np.zeros((2, 4), np.float32), fine[1]),
        r"lengths \[2, 3\] from client 1": (np.zeros((3, 5), np.float32), fine[1]),
        "from client 1": (np.array(["a", "b"]), fine[1]),
    }
    for named, examples in bad.items():
        with pytest.raises(DataError, match=named):
            made.next(state, {0: fine, 1: examples})
    assert made._sessions[state.run].charged == 0


def test_a_client_without_examples_changes_nothing(process, params):
    made = process(QUIET)
    state = made.initialize(params, seed=0)
    nothing = (np.zeros((0, 5), np.float32), np.zeros(0, np.int32))
    sums = made._sums(state, {0: nothing})
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(sums.grads))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_client_with_bad_numbers_adds_nothing(process, params, users, bad):
    made = process(QUIET)
    state = made.initialize(params, seed=0)
    cohort = dict(made.cohort(state, users))
    fewer = made._sums(state, {n: e for n, e in cohort.items() if n != 3})
    x, y = cohort[3]
    cohort[3] = (np.full_like(x, bad), y)
    _, metrics = made.next(state, cohort)
    assert metrics.unprotected_nonfinite == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        metrics.unprotected_sums.grads,
        fewer.grads,
    )


def test_integer_leaves_stay(mechanism, users):
    def with_count(params, x, y):
        return jnp.sum((x @ params["w"] - y) ** 2) * params["n"]

    made = hg.federated.fed_avg(with_count, CLIENT, SERVER, mechanism(), batch_size=4)
    start = {"w": jnp.zeros(5), "n": jnp.array(2)}
    state = made.initialize(start, seed=0)
    state, _ = made.next(state, made.cohort(state, users))
    assert int(state.params["n"]) == 2


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0.5}, "epochs"),
        ({"lanes": -1}, "lanes"),
        ({"block_size": 1.5}, "block_size"),
        ({"mechanism": hg.federated.dp_aggregator(1.0, 50)}, r"\.mechanism\(clients="),
        ({"mechanism": 1.0}, "mechanism must come from"),
    ],
)
def test_bad_settings(process, changed, named):
    with pytest.raises(InputError, match=named):
        process(**changed)


def test_what_is_no_loss_or_optimizer(mechanism):
    with pytest.raises(InputError, match="loss must be a function"):
        hg.federated.fed_avg(3, CLIENT, SERVER, mechanism())  # pyright: ignore
    with pytest.raises(InputError, match="client_optimizer must be an optax"):
        hg.federated.fed_avg(loss, 0.1, SERVER, mechanism())  # pyright: ignore
    with pytest.raises(InputError, match="server_optimizer must be an optax"):
        hg.federated.fed_avg(loss, CLIENT, "adam", mechanism())  # pyright: ignore


def test_users_are_as_many_as_accounted(process, params, users):
    made = process({"examples": 20})
    state = made.initialize(params)
    with pytest.raises(InputError, match="users has 12 clients, but the mechanism accounts for 20"):
        made.cohort(state, users)
    with pytest.raises(InputError, match="params is missing"):
        made.initialize()
    with pytest.raises(InputError, match="state must be what"):
        made.next(params, {})
    with pytest.raises(InputError, match="has not begun"):
        process().next(state, {})


def test_what_is_evaluated(process, params, users):
    made = process()
    state = made.initialize(params)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 5)).astype(np.float32)
    y = rng.integers(0, 3, 1500).astype(np.int32)

    def right(p, x, y):
        return jnp.argmax(jnp.tanh(x @ p["w"] + p["b"]) @ p["out"]) == y

    found = made.evaluate(state, (x, y), {"accuracy": right})
    logits = np.tanh(x @ params["w"] + params["b"]) @ params["out"]
    assert found["unprotected_accuracy"] == pytest.approx(np.mean(np.argmax(logits, 1) == y))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    assert found["unprotected_loss"] == pytest.approx(float(jnp.mean(losses)), rel=1e-5)
    with pytest.raises(InputError, match="metrics"):
        made.evaluate(state, (x, y), {"accuracy": 1})  # pyright: ignore
