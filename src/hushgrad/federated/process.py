"""A learning process: rounds of clients' work, each released with noise and charged."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from hushgrad._check import whole
from hushgrad.errors import BudgetError, InputError
from hushgrad.federated.aggregator import empty
from hushgrad.federated.clipping import ClippedUpdates
from hushgrad.federated.cohort import (
    Cohort,
    Share,
    arrays_of,
    block_of,
    kinds,
    shared_out,
)
from hushgrad.federated.evaluation import evaluated
from hushgrad.federated.round import Round, RoundMetrics
from hushgrad.federated.session import Lost, Session
from hushgrad.federated.work import Work
from hushgrad.mechanism import Mechanism
from hushgrad.sampling import CheckIn, Stream, Users
from hushgrad.training.budget import Budget
from hushgrad.training.layout import Layout
from hushgrad.training.program import fingerprint
from hushgrad.training.run import Run
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import (
    State,
    Sums,
    accumulate,
    empty_sums,
    initial_state,
    release,
)

__all__ = ["LearningProcess", "ServerState"]

_BLOCK, _LANES = 8, 8


class ServerState(NamedTuple):
    """What the server knows after some rounds.

    Attributes:
      round: how many were made; the number of the next.
      run: the name of the run it belongs to.
      server: parameters, optimizer, noise and norm.
    """

    round: int
    run: str
    server: State

    @property
    def params(self) -> PyTree[Array]:
        """The parameters; may be published."""
        return self.server.params

    @property
    def norm(self) -> Float[Array, ""] | None:
        """What the next round clips to, where that moves; may be published."""
        return self.server.norm


class LearningProcess:
    """Federated learning with user-level privacy; made by `fed_avg`, `fed_prox` or `fed_sgd`.

    The same object simulates (`next`, `run`) and serves clients on a network (`begin`).

    Args:
      work: what each client does.
      server_optimizer: sees the noisy mean of the updates as a gradient.
      mechanism: who takes part, how updates are bounded, which noise, how often.
      start: the parameters that `initialize` takes where none are given, or None.
      block_size: clients whose examples are on the device at once.
      lanes: how many work at once: by threads on a CPU, by wider arrays elsewhere and on a mesh;
        8 by default, and on a CPU no more than it has cores.
      mesh: devices among which a round's clients are shared out, along its axis "data" or "batch".

    Attributes:
      work, mechanism: as given; the mechanism's unit is "user".

    Raises:
      InputError: if an argument is wrong.
    """

    def __init__(
        self,
        work: Work,
        server_optimizer: optax.GradientTransformation,
        mechanism: Mechanism,
        *,
        start: Callable[[], PyTree[Array]] | None = None,
        block_size: int | None = None,
        lanes: int | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        _check(server_optimizer, mechanism)
        self.work, self._optimizer, self._start = work, server_optimizer, start
        if mechanism.unit == "example":
            mechanism = dataclasses.replace(mechanism, unit="user")  # an example is a client's all
        self.mechanism = mechanism
        # What is compiled does not depend on how many rounds there are.
        self._one = mechanism.after(1)
        self._layout = Layout(mesh)
        if mesh is not None and jax.process_count() > 1:
            raise InputError(
                f"mesh spans {jax.process_count()} processes; a simulation runs in one, on a mesh "
                "of its own devices"
            )
        at_once = whole("lanes", lanes) if lanes else default_lanes()
        # A CPU is as fast as its cores on programs beside each other, not on wider arrays.
        apart = jax.default_backend() == "cpu" and mesh is None
        self._threads, width = (at_once, 1) if apart else (1, at_once)
        every = width * self._layout.shards
        self._rows = -(-whole("block_size", block_size or _BLOCK) // every) * every
        self._sum = ClippedUpdates(
            work, mechanism.clip, width, self._layout.mesh, self._layout.axis
        )
        self._sessions: dict[str, Session] = {}

    def initialize(
        self,
        params: PyTree[Any] | None = None,
        *,
        directory: str | Path | None = None,
        budget: Budget | None = None,
        seed: int | None = None,
    ) -> ServerState:
        """Begins a run, or finds it again: the state to go on from.

        Args:
          params: to start from; those of a Keras model by default.
          directory: for the ledger, the checkpoints and, until the end, the secret: each round
            is charged there, durably, before its noise is drawn, and a server that was killed
            goes on from it with the same norm and noise. None to keep all in memory.
          budget: the data set's, which must hold all rounds.
          seed: makes the run repeatable, for tests, and not private against whoever knows it.

        Raises:
          InputError: if there are no parameters; nothing has been spent.
          BudgetError: if the budget does not hold the rounds; nothing has been spent.
          ResumeError: if the directory holds a run that this process may not continue, or
            another process is at work in it.
        """
        if params is None:
            if self._start is None:
                raise InputError("params is missing: give initialize(params) what to start from")
            params = self._start()
        params = self._layout.params(jax.tree.map(jnp.asarray, params))
        state = initial_state(params, self.mechanism, self._optimizer)
        state = self._layout.state(state, self._optimizer)
        session = Session(self.mechanism, state, self._program(state), directory, budget, seed)
        try:
            found, number = session.restored(state)
        except BaseException:
            session.close()
            raise
        self._sessions[session.name] = session
        return ServerState(number, session.name, found)

    def sample(self, state: ServerState) -> Int[np.ndarray, " drawn"]:
        """The numbers of the clients that the mechanism draws for the next round: a secret.

        Raises:
          InputError: if the mechanism does not draw, but is given cohorts.
        """
        session = self._going(state)
        secret = _known(session)
        return self.mechanism.sampling.batch(
            state.round, self.mechanism.examples, secret.sampling_generator
        )

    def allowed(self, state: ServerState, clients: Iterable[int]) -> Int[np.ndarray, " some"]:
        """Those of some clients who may take part in the next round, where cohorts are given."""
        return self._going(state).attendance.allowed(state.round, clients)

    def cohort(
        self, state: ServerState, users: Users, clients: Iterable[int] | None = None
    ) -> Cohort:
        """The clients of the next round, with their examples.

        Args:
          state: before the round.
          users: all clients' examples, as many users as the mechanism accounts for.
          clients: who comes, where the mechanism does not draw.
        """
        if len(users) != self.mechanism.examples:
            raise InputError(
                f"users has {len(users)} clients, but the mechanism accounts for "
                f"{self.mechanism.examples}; make it with examples={len(users)}"
            )
        numbers = self.sample(state) if clients is None else np.fromiter(clients, np.int64)
        return Cohort(users, numbers, lambda client: self.chance(state, client))

    def chance(self, state: ServerState, client: int) -> RunSecret:
        """What a client's chance in the next round follows from; no other's, and no noise, does."""
        return RunSecret(_known(self._session(state)).derive(f"client {client}", state.round))

    def next(
        self, state: ServerState, cohort: Mapping[int, Any]
    ) -> tuple[ServerState, RoundMetrics]:
        """One round of a simulation: all clients work, and the noisy mean moves the server.

        Formal guarantee: all states together are what the mechanism promises, for any
        one client and all their examples. The round is charged before its noise is drawn.

        Args:
          state: the last one.
          cohort: from a client's number to its examples, a tuple of arrays with a row for each:
            those that `sample` drew, or fewer where some are lost; or, where the mechanism is
            given its cohorts, those who came.

        Raises:
          InputError, DataError: if the cohort is not one of this round; nothing has been spent.
          BudgetError: if all rounds were made, or this one was, for another cohort.
        """
        self.check(state, cohort)
        total = self._sums(state, cohort) if len(cohort) else empty(state.params)
        return self.released(state, total, list(cohort))

    def _sums(self, state: ServerState, cohort: Mapping[int, Any]) -> Sums:
        """Over a cohort: by each thread over some blocks, in an order that does not change."""
        chances = {client: self.chance(state, client) for client in cohort}
        shares = shared_out(cohort, self.work, self._rows, self._threads)
        like = kinds(arrays_of(shares[0].numbers[0], cohort[shares[0].numbers[0]]))
        places = self._layout.places(state.params)

        def add(sums: Sums | None, share: Share) -> Sums:
            made = block_of(cohort, share, self.work, chances.__getitem__, self._rows, like)
            batch, mask = self._layout.batch(tuple(made), self._rows)
            if sums is None:
                sums = empty_sums(self._sum, state.params, batch, mask, places)
            return accumulate(self._sum, state.params, sums, batch, mask, state.norm, places)

        def some(start: int) -> Sums | None:
            return functools.reduce(add, shares[start :: self._threads], None)

        if self._threads == 1:
            parts = [some(0)]
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                parts = list(pool.map(some, range(self._threads)))
        return functools.reduce(_added, [part for part in parts if part is not None])

    def begin(self, state: ServerState) -> Round:
        """A round with clients elsewhere: it takes their updates as they come.

        ```python
        round = process.begin(state)             # round.params, round.clients, round.norm
        round.receive(7, update)                 # of a client; False if it cannot be used
        state, metrics = round.finish()          # charged, then released
        ```
        """
        self._going(state)
        drawn = None if self.given else frozenset(int(n) for n in self.sample(state))
        return Round(self, state, drawn)

    @property
    def given(self) -> bool:
        """Whether cohorts are given, since the mechanism does not draw them."""
        return isinstance(self.mechanism.sampling, CheckIn | Stream)

    def check(self, state: ServerState, clients: Iterable[int]) -> None:
        """Refuses clients who are none of this round.

        Raises:
          InputError: naming some.
        """
        session = self._going(state)
        most, some = self.mechanism.examples, list(clients)
        for client in some:
            number = isinstance(client, int | np.integer) and not isinstance(client, bool)
            if not (number and 0 <= client < most):
                raise InputError(
                    f"cohort must be of clients numbered from 0 to {most - 1}, got {client!r}"
                )
        if not self.given:
            others = sorted(set(some) - {int(n) for n in self.sample(state)})
            if others:
                raise InputError(
                    f"cohort has {len(others)} clients (number {others[0]} first) whom "
                    f"{self.mechanism.sampling!r} has not drawn for round {state.round}: what is "
                    "accounted must be what runs. Take process.cohort(state, users) or process."
                    "sample(state), or a mechanism with sampling=hg.sampling.CheckIn(...)"
                )
        session.attendance.check(state.round, some)

    def released(
        self, state: ServerState, sums: Sums, clients: Iterable[int]
    ) -> tuple[ServerState, RoundMetrics]:
        """The next state, from the sums over some clients: charged, released and saved."""
        session, clients = self._going(state), list(clients)
        secret, lost = _known(session), False
        key = secret.noise_key(state.round)
        places = self._layout.places(state.server)
        try:
            session.charge(state.round, sums, clients, again=state.round < session.begun)
            server = release(
                self._one,
                self._optimizer,
                state.server,
                sums.grads,
                sums.centred_bits,
                key,
                None,
                places,
            )
        except Lost:
            # What noise later rounds have depends on, it goes on as if the round had been made.
            lost, noise = True, _noise_after(self._one, state.server, sums.grads, key)
            server = state.server._replace(noise=noise)
        done = state.round + 1
        session.save(server, done)
        if done == self.mechanism.steps:
            session.finish(done)
        after = ServerState(done, state.run, server)
        known = (done, self.mechanism, server.params, server.norm, sums)
        metrics = RoundMetrics(*known, unprotected_clients=len(clients), lost=lost)
        return after, metrics

    def finish(self, state: ServerState) -> Run:
        """Ends the run after these rounds: what was released, with its statement.

        Those that are left cannot be made any more, and go back to the budget.
        """
        session = self._session(state)
        if not session.over:
            session.finish(state.round)
        session.close()
        folder = session.path or Path()
        return Run(state.params, self.mechanism, session.charged, folder, session.seeded)

    def run(
        self,
        users: Users,
        params: PyTree[Any] | None = None,
        *,
        directory: str | Path | None = None,
        budget: Budget | None = None,
        seed: int | None = None,
        callback: Callable[[RoundMetrics], None] | None = None,
        arrivals: Callable[[int], Iterable[int]] | None = None,
    ) -> Run:
        """Simulates all rounds; the same call goes on after a crash.

        Args:
          users: all clients' examples.
          params: as `initialize`.
          directory: as there.
          budget: as there.
          seed: as there.
          callback: called after every round.
          arrivals: who comes in a round, by its number, where the mechanism does not draw; those
            who may not take part again yet are left out.
        """
        state = self.initialize(params, directory=directory, budget=budget, seed=seed)
        while state.round < self.mechanism.steps and not self._session(state).over:
            came = None if arrivals is None else self.allowed(state, arrivals(state.round))
            state, metrics = self.next(state, self.cohort(state, users, came))
            if callback is not None:
                callback(metrics)
        return self.finish(state)

    def evaluate(
        self,
        state: ServerState,
        data: Any,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
    ) -> dict[str, float]:
        """Means over examples that anybody may know, or that nobody is told of.

        Nothing is spent and no noise is added: of the clients' own examples the numbers are not
        private, hence their names. See `private_evaluation` for that.

        Args:
          state: whose parameters are looked at.
          data: a tuple of arrays, a row for each example.
          metrics: beside the loss, by name: `metric(params, *example) -> scalar`.

        Returns:
          "unprotected_loss", and "unprotected_" and the name of each metric.
        """
        return evaluated(self.work, state.params, data, metrics or {})

    def close(self) -> None:
        """Closes the files of all runs; they may be gone on with."""
        for session in self._sessions.values():
            session.close()

    def __enter__(self) -> LearningProcess:
        """For `with`: closes files at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files of all runs."""
        self.close()

    def _session(self, state: ServerState) -> Session:
        if not isinstance(state, ServerState):
            raise InputError(f"state must be what initialize or next gave, got {state!r}")
        session = self._sessions.get(state.run)
        if session is None:
            raise InputError(
                "state is of a run that this process has not begun: call initialize(..., "
                "directory=...), which finds it again"
            )
        return session

    def _going(self, state: ServerState) -> Session:
        session = self._session(state)
        if session.over or state.round >= self.mechanism.steps:
            raise BudgetError(
                f"all {self.mechanism.steps} rounds that the mechanism accounts for were made, or "
                "the run was ended; another mechanism, in another directory, spends anew"
            )
        if state.round > session.charged:
            raise InputError(
                f"state is {state.round} rounds old, but only {session.charged} were charged"
            )
        return session

    def _program(self, state: State) -> str:
        """Tells processes apart that would release other things; the work by its settings."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        grads = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.params)
        key = jax.ShapeDtypeStruct((8,), jnp.uint32)
        bits = jax.ShapeDtypeStruct((), jnp.float32)
        traced = jax.make_jaxpr(lambda s, g, b, k: release(self._one, self._optimizer, s, g, b, k))(
            shapes, grads, bits, key
        )
        facts = {
            field.name: getattr(self.work, field.name)
            for field in dataclasses.fields(self.work)
            if isinstance(getattr(self.work, field.name), int | float)
        }
        return fingerprint([traced], (jax.tree.structure(state), type(self.work).__name__, facts))


@jax.jit(static_argnames="mechanism")
def _noise_after(mechanism: Mechanism, state: State, grads: Any, key: Any) -> Any:
    return mechanism.noise(state.norm).update(grads, state.noise, state.params, key=key)[1]


def _known(session: Session) -> RunSecret:
    if session.secret is None:
        raise BudgetError("the run is over, and its secret is gone: begin another")
    return session.secret


def default_lanes() -> int:
    """How many clients work at once where nobody says."""
    return min(_LANES, os.cpu_count() or 1) if jax.default_backend() == "cpu" else _LANES


@jax.jit
def _added(one: Sums, other: Sums) -> Sums:
    return jax.tree.map(jnp.add, one, other)


def _check(server_optimizer: Any, mechanism: Any) -> None:
    if not isinstance(mechanism, Mechanism):
        more = (
            ": give its .mechanism(clients=..., rounds=..., delta=...), which knows whom it hides "
            "and what that costs"
            if hasattr(mechanism, "mechanism")
            else ""
        )
        raise InputError(
            f"mechanism must come from hg.dp_sgd(unit='user', ...) or hg.dp_ftrl, got "
            f"{mechanism!r}{more}"
        )
    if mechanism.clip.group > 1:
        raise InputError(
            "mechanism must clip each update, got clip=Microbatches; take hg.clip.Flat"
        )
    if mechanism.strategy.counts:
        raise InputError(f"mechanism must be of hg.dp_sgd or dp_ftrl, got {mechanism.strategy!r}")
    if not mechanism.steps:
        raise InputError(f"mechanism must have a round to make, got {mechanism!r}")
    if not isinstance(server_optimizer, optax.GradientTransformation):
        raise InputError(f"server_optimizer must be an optax optimizer, got {server_optimizer!r}")
