"""The same process on Flower's network: a server's and a client's app (extra `flower`).

```python
app = hg.federated.flower.server_app(process, params, finished)          # server_app.py
app = hg.federated.flower.client_app(process, params, clients)           # client_app.py
```

Only Flower's messages are used. Clipping, noise, divisor and accounting are hushgrad's: a node
that is lost, late or says something malformed changes nothing but the sum. A node may speak for
many clients (a hospital for its patients); each client's update is clipped by itself, there and
again on the server.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hushgrad._check import positive, whole
from hushgrad.errors import DataError, InputError, ProcessError
from hushgrad.federated.clipping import bounded
from hushgrad.federated.cohort import stacked_client
from hushgrad.federated.process import LearningProcess, ServerState
from hushgrad.federated.round import Round, RoundMetrics
from hushgrad.training.run import Run
from hushgrad.training.secret import RunSecret

try:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
except ImportError as error:
    raise ImportError(
        "hushgrad.federated.flower needs Flower: pip install 'hushgrad[flower]'"
    ) from error

__all__ = ["client_app", "serve", "server_app"]

_LOG = logging.getLogger("hushgrad.federated.flower")
_PAUSE = 1.0  # seconds between two looks whether a node has come

Made = Callable[[Context], LearningProcess]
Start = Callable[[Context], PyTree[Any]]


def server_app(
    process: Made,
    params: Start,
    finished: Callable[[Run, Context], None],
    *,
    directory: Callable[[Context], str | None] | None = None,
    callback: Callable[[RoundMetrics], None] | None = None,
    timeout: float = 3600.0,
    min_nodes: int = 1,
) -> ServerApp:
    """A `ServerApp` that makes all rounds of a process, then hands over the run.

    Args:
      process: makes the process from Flower's context, such as from its `run_config`.
      params: makes what to start from, likewise.
      finished: is given the run at the end: its parameters and statement.
      directory: where the ledger and the checkpoints are; by default `run_config["directory"]`
        where there is one. A server that was killed goes on from there.
      callback: called after every round.
      timeout: seconds that a round waits for nodes.
      min_nodes: how many must have come before the first round; later ones wait for one.

    Raises:
      InputError: if an argument is wrong.
    """
    timeout, least = positive("timeout", timeout), whole("min_nodes", min_nodes)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        chosen = directory or (lambda c: str(c.run_config.get("directory", "")) or None)
        with process(context) as made:
            state = made.initialize(params(context), directory=chosen(context))
            run = serve(grid, made, state, callback=callback, timeout=timeout, min_nodes=least)
        finished(run, context)

    return app


def client_app(
    process: Made, params: Start, clients: Callable[[Context], Mapping[int, Any]]
) -> ClientApp:
    """A `ClientApp` that does the clients' work of a process.

    Args:
      process: as on the server.
      params: as on the server; only their structure and types matter here.
      clients: from the number of each client that this node speaks for to its examples, a tuple
        of arrays, or a pair with them.
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        here = ConfigRecord({"clients": [int(number) for number in clients(context)]})
        return Message(RecordDict({"here": here}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = worked(process(context), params(context), message.content, clients(context))
        return Message(content, reply_to=message)

    return app


def serve(
    grid: Grid,
    process: LearningProcess,
    state: ServerState,
    *,
    callback: Callable[[RoundMetrics], None] | None = None,
    timeout: float = 3600.0,
    min_nodes: int = 1,
) -> Run:
    """Makes all rounds that are left, with the nodes of a grid.

    Args:
      grid: of Flower.
      process: whose rounds are made.
      state: the last one.
      callback: called after every round.
      timeout: seconds that a round waits for nodes, and for the first to come.
      min_nodes: how many must have come before the first round; later ones wait for one.

    Raises:
      ProcessError: if so many nodes have not come in time; nothing was spent on the round.
    """
    nodes = _Nodes(grid, timeout, min_nodes)
    while state.round < process.mechanism.steps:
        # Before the round: who is there must not depend on who is drawn.
        holders = nodes.holders(process.mechanism.examples)
        begun = process.begin(state)
        chosen = _chosen(process, state, begun, holders)
        _gather(grid, process, begun, chosen, holders, timeout)
        state, metrics = begun.finish()
        _LOG.info("round %d of %d is released", state.round, process.mechanism.steps)
        if callback is not None:
            callback(metrics)
    return process.finish(state)


def worked(
    process: LearningProcess,
    params: PyTree[Any],
    content: RecordDict,
    clients: Mapping[int, Any],
) -> RecordDict:
    """What a node answers to a round: each client's clipped update.

    Raises:
      InputError: if the message is none of a round, or asks for a client who is not here.
    """
    asked, sent = content.config_records["round"], content.array_records["params"]
    like = jax.tree.map(jnp.asarray, params)
    here = _unpacked(sent, like)
    norm = asked.get("norm")
    norm = None if norm is None else jnp.float32(norm)
    reply = RecordDict()
    told: dict[str, Any] = {"clients": [], "losses": [], "clipped": []}
    numbers, chances = _list(asked["clients"]), _list(asked["chances"])
    for number, chance in zip(numbers, chances, strict=True):
        if number not in clients:
            raise InputError(f"client {number} was asked for, who is not on this node")
        try:
            arguments = stacked_client(
                process.work, RunSecret(bytes.fromhex(str(chance))), clients[number]
            )
        except DataError:
            _LOG.exception("client %d is left out", number)
            continue
        done = _work(process.work, here, arguments)
        one = bounded(done.update, process.mechanism.clip, norm)
        reply[f"update-{number}"] = ArrayRecord(_packed(one.update))
        told["clients"].append(number)
        told["losses"].append(float(done.loss))
        told["clipped"].append(bool(one.centred_bit < 0))
    reply["told"] = ConfigRecord(told)
    return reply


@jax.jit(static_argnums=0)
def _work(work: Any, params: Any, arguments: Any) -> Any:
    return work(params, *arguments)


class _Nodes:
    """Which nodes are there, and for whom each speaks."""

    def __init__(self, grid: Grid, timeout: float, least: int) -> None:
        self._grid, self._timeout, self._least = grid, timeout, least
        self._holds: dict[int, list[int]] = {}

    def holders(self, clients: int) -> dict[int, int]:
        """From each client to the node that speaks for it; of two, the first that said so."""
        there = self._there()
        fresh = [node for node in there if node not in self._holds]
        asked = [Message(RecordDict(), node, MessageType.QUERY) for node in fresh]
        for reply in _replies(self._grid, asked, self._timeout):
            try:
                said = _list(reply.content.config_records["here"]["clients"])
                self._holds[reply.metadata.src_node_id] = [
                    int(n) for n in said if 0 <= int(n) < clients
                ]
            except (KeyError, TypeError, ValueError) as error:
                _LOG.warning("node %d left out: %s", reply.metadata.src_node_id, error)
        found: dict[int, int] = {}
        for node, numbers in self._holds.items():
            for number in numbers if node in there else []:
                found.setdefault(number, node)
        return found

    def _there(self) -> list[int]:
        deadline = time.monotonic() + self._timeout
        while True:
            found = sorted(self._grid.get_node_ids())
            if len(found) >= self._least:
                self._least = 1
                return found
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"only {len(found)} of {self._least} nodes came in {self._timeout:g} seconds; "
                    "start them, then run again: the run goes on"
                )
            time.sleep(_PAUSE)


def _chosen(
    process: LearningProcess, state: ServerState, begun: Round, holders: Mapping[int, int]
) -> list[int]:
    """Who is asked: those who were drawn, or of those who may come as many as are expected."""
    if begun.clients is not None:
        return sorted(begun.clients & set(holders))
    free = process.allowed(state, holders)
    most = process.mechanism.batch_size
    if len(free) <= most:
        return [int(n) for n in free]
    rng = process.chance(state, -1).generator("asked", 0)
    return sorted(int(n) for n in rng.choice(free, most, replace=False))


def _gather(
    grid: Grid,
    process: LearningProcess,
    begun: Round,
    chosen: Iterable[int],
    holders: Mapping[int, int],
    timeout: float,
) -> None:
    """Asks each node for its clients' updates, and takes what comes in time."""
    norm = {} if begun.norm is None else {"norm": float(begun.norm)}
    sent = ArrayRecord(_packed(begun.params))
    messages, asked = [], {}
    by_node = sorted((holders[number], number) for number in chosen)
    for node, pairs in itertools.groupby(by_node, key=lambda pair: pair[0]):
        numbers = asked[node] = [number for _, number in pairs]
        settings: dict[str, Any] = {
            "number": begun.number,
            "clients": numbers,
            "chances": [begun.chance(number).content.hex() for number in numbers],
        }
        content = RecordDict({"params": sent, "round": ConfigRecord(settings | norm)})
        group = str(begun.number)
        messages.append(Message(content, node, MessageType.TRAIN, group_id=group, ttl=timeout))
    for reply in _replies(grid, messages, timeout):
        node = reply.metadata.src_node_id
        try:
            _take(begun, reply.content, asked.get(node, []))
        except Exception as error:  # whatever a node sends must not stop the others
            _LOG.warning("node %d: %s: %s", node, type(error).__name__, error)


def _take(begun: Round, content: RecordDict, asked: list[int]) -> None:
    told = content.config_records["told"]
    facts = zip(_list(told["clients"]), _list(told["losses"]), _list(told["clipped"]), strict=True)
    for number, loss, clipped in facts:
        if number not in asked:
            _LOG.warning("client %r left out: its node was not asked for it", number)
            continue
        try:
            update = _unpacked(content.array_records[f"update-{number}"], begun.params)
        except Exception as error:
            _LOG.warning("client %d left out: %s: %s", number, type(error).__name__, error)
            continue
        begun.receive(int(number), update, loss=float(loss), clipped=bool(clipped))


def _replies(grid: Grid, messages: list[Message], timeout: float) -> Iterable[Message]:
    if not messages:
        return
    for reply in grid.send_and_receive(messages, timeout=timeout):
        if reply.has_error():
            _LOG.warning("node %d: %s", reply.metadata.src_node_id, reply.error.reason)
        else:
            yield reply


def _packed(tree: PyTree[Array]) -> list[np.ndarray]:
    """Arrays in an order that both sides know, in types that NumPy has."""
    return [
        np.asarray(x, np.float32) if x.dtype.kind not in "biufc" else np.asarray(x)
        for x in jax.tree.leaves(tree)
    ]


def _unpacked(record: ArrayRecord, like: PyTree[Array]) -> PyTree[Any]:
    """The reverse of `_packed`; arrays of a type that parameters have are made that again."""
    leaves, structure = jax.tree.flatten(like)
    found = record.to_numpy_ndarrays()
    if len(found) != len(leaves):
        raise InputError(f"{len(found)} arrays were sent for {len(leaves)} parameters")
    narrow = [
        jnp.asarray(x, p.dtype) if p.dtype.kind not in "biufc" else x
        for x, p in zip(found, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, narrow)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"a list was expected, got {type(value).__name__}")
    return value
