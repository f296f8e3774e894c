"""The apps for Flower's network, with messages passed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clients import SIZES

import hushgrad as hg
from hushgrad.errors import InputError, ProcessError

flwr = pytest.importorskip("flwr", reason="flwr is an extra: pip install 'hushgrad[flower]'")

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from hushgrad.federated import flower  # noqa: E402


class Passing(Grid):
    """Nodes in this process; `spoil` may change or drop a reply."""

    def __init__(self, nodes, spoil=lambda reply, message: reply):
        self.nodes, self.spoil, self.asked = nodes, spoil, []

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            self.asked.append(message)
            # As Flower's own link fills in.
            message.metadata._src_node_id = 0
            context = Context(
                run_id=1,
                node_id=message.metadata.dst_node_id,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            try:
                reply = self.nodes[message.metadata.dst_node_id](message, context)
            except Exception as error:
                reply = Message(Error(0, str(error)), reply_to=message)
            reply = self.spoil(reply, message)
            if reply is not None:
                yield reply

    def set_run(self, run): ...
    def create_message(self, *a, **k): ...
    def push_messages(self, messages): ...
    def pull_messages(self, message_ids): ...

    @property
    def run(self): ...


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Whose messages these are, as Flower's own programs say at their start."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def nodes(process, params, users):
    """Two nodes; the first speaks for clients of even number."""

    def made(changed=None):
        source = users.data

        def clients(node):
            rng = np.random.default_rng(0)
            return {
                number: tuple(leaf[users.rows(number, rng)] for leaf in source)
                for number in range(node, len(SIZES), 2)
            }

        return {
            11 + node: flower.client_app(
                lambda _: process(changed), lambda _: params, lambda _, node=node: clients(node)
            )
            for node in (0, 1)
        }

    return made


ADAPTIVE = {"clip": hg.clip.Adaptive(initial_norm=0.2, count_stddev=3.0), "steps": 3}


@pytest.mark.parametrize("changed", [{}, ADAPTIVE])
def test_the_network_gives_the_model_of_a_simulation(process, params, users, nodes, changed):
    wanted = process(changed).run(users, params, seed=2)
    made, seen = process(changed), []
    state = made.initialize(params, seed=2)
    run = flower.serve(Passing(nodes(changed)), made, state, callback=seen.append)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run.params, wanted.params
    )
    assert len(seen) == run.steps == made.mechanism.steps
    assert all(np.isfinite(metrics.unprotected_loss) for metrics in seen)


def change(record, **changed):
    return RecordDict({**record, **changed})


def bad_arrays(reply, message):
    first = next(name for name in reply.content if name.startswith("update"))
    return Message(change(reply.content, **{first: ArrayRecord([np.zeros(3)])}), reply_to=message)


SPOILT = {
    "lost": lambda reply, message: None,
    "failed": lambda reply, message: Message(Error(1, "gone"), reply_to=message),
    "empty": lambda reply, message: Message(RecordDict(), reply_to=message),
    "no list": lambda reply, message: Message(
        change(reply.content, told=ConfigRecord({"clients": 3, "losses": [], "clipped": []})),
        reply_to=message,
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_node_that_fails_changes_nothing_but_the_sum(process, params, users, nodes, kind):
    def spoil(reply, message):
        training = message.metadata.message_type == "train"
        return SPOILT[kind](reply, message) if training and node(message) == 11 else reply

    def node(message):
        return message.metadata.dst_node_id

    changed = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES), "steps": 1}
    made, other = process(changed), process(changed)
    seen = []
    run = flower.serve(
        Passing(nodes(changed), spoil), made, made.initialize(params, seed=2), callback=seen.append
    )
    assert seen[0].unprotected_clients == len(SIZES) // 2
    state = other.initialize(params, seed=2)
    cohort = other.cohort(state, users)
    wanted, _ = other.next(state, {n: cohort[n] for n in cohort if n % 2})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run.params, wanted.params
    )


def test_one_malformed_update_leaves_the_others(process, params, nodes):
    changed = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES), "steps": 1}
    made, seen = process(changed), []

    def spoil(reply, message):
        return bad_arrays(reply, message) if message.metadata.message_type == "train" else reply

    flower.serve(
        Passing(nodes(changed), spoil), made, made.initialize(params, seed=2), callback=seen.append
    )
    assert seen[0].unprotected_clients == len(SIZES) - 2


def test_updates_are_clipped_again_on_the_server(process, params, nodes):
    changed = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES), "steps": 1}
    made, seen = process(changed), []

    def spoil(reply, message):
        if message.metadata.message_type != "train":
            return reply
        huge = {
            name: ArrayRecord([1e6 * x for x in record.to_numpy_ndarrays()])
            for name, record in reply.content.array_records.items()
        }
        return Message(change(reply.content, **huge), reply_to=message)

    flower.serve(
        Passing(nodes(changed), spoil), made, made.initialize(params, seed=2), callback=seen.append
    )
    total = float(
        jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(seen[0].unprotected_sums.grads)))
    )
    assert total <= len(SIZES) * made.mechanism.clip.sensitivity


def test_a_node_speaks_for_its_own_clients_alone(process, params, nodes):
    """One that names another's client is not heard for it."""
    changed = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES), "steps": 1}
    made, seen = process(changed), []

    def spoil(reply, message):
        if message.metadata.message_type != "train":
            return reply
        if message.metadata.dst_node_id == 12:
            return None
        told = dict(reply.content["told"])
        numbers = told["clients"]
        told["clients"] = [number + 1 for number in numbers]
        others = {f"update-{n + 1}": reply.content[f"update-{n}"] for n in numbers}
        return Message(change(reply.content, told=ConfigRecord(told), **others), reply_to=message)

    flower.serve(
        Passing(nodes(changed), spoil), made, made.initialize(params, seed=2), callback=seen.append
    )
    assert seen[0].unprotected_clients == 0


def test_nobody_is_asked_who_was_not_drawn(process, params, nodes):
    changed = {"sampling": hg.sampling.FixedSize, "noise_multiplier": 2.0, "steps": 2}
    made = process(changed)
    grid = Passing(nodes(changed))
    state = made.initialize(params, seed=2)
    drawn = set(int(n) for n in made.sample(state))
    flower.serve(grid, made, state)
    asked = [m.content["round"] for m in grid.asked if m.metadata.message_type == "train"]
    first = {n for record in asked if record["number"] == 0 for n in record["clients"]}
    assert first == drawn


def test_check_ins_keep_their_rule(process, params, nodes):
    coming = hg.sampling.CheckIn(4, min_separation=2, max_participations=1)
    changed = {"sampling": coming, "batch_size": 4, "steps": 4}
    made, seen = process(changed), []
    flower.serve(
        Passing(nodes(changed)), made, made.initialize(params, seed=2), callback=seen.append
    )
    assert [m.unprotected_clients for m in seen] == [4, 4, 4, 0]


def test_without_nodes_nothing_is_spent(process, params):
    made = process()
    state = made.initialize(params, seed=0)
    with pytest.raises(ProcessError, match="only 0 of 1 nodes came"):
        flower.serve(Passing({}), made, state, timeout=0.01)
    assert made._sessions[state.run].charged == 0


def test_bad_settings(process, params):
    for changed in ({"timeout": 0}, {"min_nodes": 0}):
        with pytest.raises(InputError, match=next(iter(changed))):
            flower.server_app(lambda _: process(), lambda _: params, lambda run, _: None, **changed)
