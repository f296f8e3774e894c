"""`hg.train`: the loop that ties sampling, clipping, noise and the ledger together."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from hushgrad.errors import InputError, ResumeError
from hushgrad.mechanism import Plan
from hushgrad.noise import Chosen
from hushgrad.sampling import CheckIn, Stream
from hushgrad.training.budget import Budget
from hushgrad.training.checkpoint import Checkpoints, digests
from hushgrad.training.counting import counting
from hushgrad.training.data import prepare
from hushgrad.training.directory import RunDirectory
from hushgrad.training.interrupt import Interrupted, noted
from hushgrad.training.job import Job
from hushgrad.training.layout import Layout
from hushgrad.training.opening import default_block_size, facts_of, find, opened
from hushgrad.training.options import Options
from hushgrad.training.planting import RESULT, Audit, Planted, plant
from hushgrad.training.reservation import Reservation
from hushgrad.training.run import Progress, Run, StopTraining
from hushgrad.training.secret import RunSecret
from hushgrad.training.shared import SharedLedger
from hushgrad.training.step import State, Sums, averaged, initial_state
from hushgrad.training.team import Team, watched

__all__ = ["train"]

# Between the hash of what may be published of a state and that of its noise.
_AND = ":"
# A note in the ledger: how many a run is on.
_DEVICES = "devices"
_EVERYWHERE = "jax.make_mesh((jax.device_count(),), ('data',))"

Callback = Callable[[Progress], None]


def train(
    loss: Callable[..., Any],
    params: PyTree[ArrayLike],
    data: Any,
    mechanism: Plan,
    *,
    optimizer: optax.GradientTransformation,
    directory: str | Path,
    budget: Budget | None = None,
    seed: int | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    options: Options | None = None,
    mesh: Mesh | None = None,
    audit: Audit | None = None,
) -> Run:
    """Trains with differential privacy; the same call goes on after a crash.

    ```python
    m = hg.dp_sgd(examples=len(x), batch_size=256, epochs=15, clip=1.0, delta=1e-5, epsilon=3.0)
    run = hg.train(loss, params, (x, y), m, optimizer=optax.sgd(0.25), directory="runs/mine")
    run.params, run.epsilon, run.statement()
    ```

    Each step is charged to the ledger in `directory`, durably, before its noise is drawn.
    Batch and noise follow from the run's secret and the step's number, so a run that was
    killed ends with the same parameters, bit for bit. A finished run is returned as it is.

    Formal guarantee: that of `mechanism`, for the parameters, the checkpoints and
    what a callback does with `progress.params`; not for `progress.unprotected_...`.

    Args:
      loss: `loss(params, *example) -> scalar` for one example.
      params: any pytree of floating-point arrays.
      data: the loss's other arguments: arrays, in memory or mapped from files; anything with
        `len(data)` and `data[i]` (Grain, Hugging Face, PyTorch); `hg.datasets.Columns`; or
        `hg.sampling.Users`.
      mechanism: from `hg.dp_sgd` or `hg.schedule`, for as many examples.
      optimizer: any optax optimizer; sees the noisy mean gradient.
      directory: for the ledger, the checkpoints and, until the end, the secret.
      budget: the data set's budget, which must hold the run before its first step.
      seed: makes the run repeatable, for tests, and not private against whoever knows it.
      callback: called after every step, or several in turn; may raise `hg.StopTraining`.
      options: how the run is carried out.
      mesh: of devices. Examples are shared out along its axis "data" or "batch"; parameters
        that were put on it stay where they are (`hg.fsdp`), and all others are on each. There
        sums are added up in an order of their own, so a run that goes on does not repeat the
        steps after its last checkpoint: they stay charged, and what they learned is lost. After
        `jax.distributed.initialize` all processes make the same call, on a mesh of all devices
        and a directory that all share: each reads its part of a batch, and one keeps the ledger.
      audit: measures what the run gives away, from below: `hg.audit.Canaries(1000)`. They take
        the place of as many rows of the data, so that the mechanism and its cost are as they
        were; `run.audit` has what was found.

    Raises:
      InputError, DataError: if an argument or the data is wrong; nothing has been spent.
      BudgetError: if the budget does not hold the run; nothing has been spent.
      ResumeError: if the directory holds a run that this call may not continue.
      LedgerError, StorageError: if nothing more can be written; mended, the call goes on.
      ProcessError: if another process failed or is gone; begun again, all go on.
      KeyboardInterrupt: after Ctrl-C, once the step is finished and saved; of many processes,
        also after SIGTERM.
    """
    team = Team()
    with team.alike() as facts:
        callbacks, options = _callbacks(callback), options or Options()
        _check(mechanism, optimizer, budget, options)
        team.check(mesh, "mesh", f"as {_EVERYWHERE} has")
        layout, params = Layout(mesh), _arrays(params)
        facts |= facts_of(mechanism, seed, budget, options, layout, params, audit)
        source, folder = prepare(data, mechanism, options), RunDirectory(directory)
    folder.check_shared(team)
    params = layout.params(params)
    with team.entered_by_first(folder.locked()), watched():
        found, given = find(team, folder), Planted(source, optimizer)
        given = counting(given, mechanism, params, layout)
        planted = plant(team, folder, found, audit, given, loss, mechanism, params, seed)
        first, optimizer = mechanism.phases[0], planted.optimizer
        state = initial_state(params, first, optimizer, options.average, planted.shaped)
        state = layout.state(state, optimizer)
        size = options.block_size or default_block_size(mechanism, found)
        job = Job(loss, mechanism, planted, size, options, layout)
        begun = opened(team, folder, found, job, state, seed, budget, planted.audit)
        run = _trained(team, folder, job, state, begun, callbacks, seed is not None)
        return _audited(team, folder, planted, run)


def _trained(
    team: Team,
    folder: RunDirectory,
    job: Job,
    state: State,
    begun: tuple[str, RunSecret | None, Reservation | None],
    callbacks: Sequence[Callback],
    seeded: bool,
) -> tuple[Run, State]:
    mechanism, average = job.mechanism, job.options.average
    name, secret, held = begun
    with contextlib.ExitStack() as stack:
        ledger = SharedLedger(team, folder.ledger, name, mechanism.to_dict())
        stack.callback(ledger.close)
        ledger.hold(lambda: held)
        checkpoints = Checkpoints(folder.checkpoints, folder.noise)
        stack.callback(checkpoints.close)
        running = _Running(team, folder, job, ledger, checkpoints, callbacks)
        state = running.go(state, secret)
        charged, chosen = ledger.charged, ledger.notes.get("validation")
    run = Run(
        state.params,
        mechanism,
        charged,
        folder.path,
        seeded,
        average=None if average is None else averaged(state, average),
        validation=chosen,
    )
    return run, state


def _audited(team: Team, folder: RunDirectory, planted: Planted, ended: tuple[Run, State]) -> Run:
    """The run with what its audit found, which is written down too."""
    run, state = ended
    if planted.found is None:
        return run
    measured = planted.found(state, run.steps)
    team.first(lambda: folder.write(RESULT, measured.to_dict(per_canary=True)))
    return dataclasses.replace(run, audit=measured)


class _Running:
    """A run that is open, with all it writes to."""

    def __init__(
        self,
        team: Team,
        folder: RunDirectory,
        job: Job,
        ledger: SharedLedger,
        checkpoints: Checkpoints,
        callbacks: Sequence[Callback],
    ) -> None:
        self.team, self.folder, self.job, self.ledger = team, folder, job, ledger
        self.checkpoints, self.callbacks = checkpoints, callbacks
        # They may be given to one process alone, and stop all.
        self._told = team.some(bool(callbacks))
        every = job.options.checkpoint_every
        self._every = every or max(1, round(1 / job.mechanism.phases[0].sampling_rate))

    def go(self, state: State, secret: RunSecret | None) -> State:
        """Takes the steps that are left; gives the last state."""
        state, start = _restore(self.team, self.checkpoints, self.ledger, self.job, state)
        if self.ledger.finished is None:
            if secret is None:
                raise ResumeError(
                    f"{str(self.folder.path)!r} has lost its secret.key before the end of the run, "
                    "so its steps cannot be repeated; use another directory, which spends anew"
                )
            state, start = self._without_repeating(state, secret, start)
            self._begin(start, state)
            try:
                state, made = self._steps(state, secret, start)
            finally:
                self._each("end")
            self._save(state, made)
            self.ledger.finish(made)
        self.checkpoints.close_secret()
        self.team.first(self._forget)
        return state

    def _forget(self) -> None:
        """What is left to do when a run is over; a crash may have come before it was done."""
        self.ledger.give_back()
        self.checkpoints.forget_secret()
        self.folder.forget_secret()

    def _without_repeating(self, state: State, secret: RunSecret, start: int) -> tuple[State, int]:
        """Where sums may be rounded otherwise than before, no noise serves them again."""
        devices, charged = str(self.job.layout.devices), self.ledger.charged
        before = self.ledger.notes.get(_DEVICES, "1")
        if charged > start and (devices, before) != ("1", "1"):
            state = self.job.skipped(state, secret, start, charged)
            self._save(state, charged)
            start = charged
        self.ledger.note(_DEVICES, devices)
        return state, start

    def _begin(self, start: int, state: State) -> None:
        here = [getattr(callback, "validation_set", None) for callback in self.callbacks]
        sets = {chosen for each in self.team.each(lambda: here) for chosen in each}
        sets.add(self.ledger.notes.get("validation"))
        # What was chosen by a private set once stays so, whatever else was looked at.
        for chosen in ("private", "public"):
            if chosen in sets:
                self.ledger.note("validation", chosen)
                break
        self._each("begin", self.folder.path, start, state.params)

    def _each(self, method: str, *arguments: Any) -> None:
        """Callbacks that are objects may want to know when a run begins and ends."""
        for callback in self.callbacks:
            getattr(callback, method, lambda *_: None)(*arguments)

    def _steps(self, state: State, secret: RunSecret, start: int) -> tuple[State, int]:
        total, step = self.job.mechanism.steps, start
        with noted() as interrupted, contextlib.closing(self.job.parts(secret, start)) as parts:
            sums: Sums | None = None
            for part in parts:
                sums = self.job.sums(state, part, sums)
                if not part.last:
                    continue
                self.ledger.charge(part.step, part.mark, part.failure)
                state, step = self.job.released(state, sums, secret, part.step), part.step + 1
                # Before the checkpoint, or a crash between them would leave the step untold.
                if self._tell(state, step, sums):
                    return state, step
                ending = self.team.some(interrupted()) or self.team.leaving(step)
                stopped = ending and step < total
                if stopped or step % self._every == 0:
                    self._save(state, step)
                if stopped:
                    raise Interrupted(self._where(step))
                sums = None
        return state, step

    def _tell(self, state: State, step: int, sums: Sums) -> bool:
        """Whether a callback ends the run, on any process."""
        if not self._told:
            return False
        progress = Progress(
            step,
            self.job.mechanism,
            state.params,
            state.norm,
            sums,
            self._average(state),
            state.noise if isinstance(state.noise, Chosen) else None,
        )

        def tell() -> bool:
            try:
                for callback in self.callbacks:
                    callback(progress)
            except StopTraining:
                return True
            return False

        return any(self.team.each(tell))

    def _average(self, state: State) -> PyTree[Array] | None:
        average = self.job.options.average
        return None if average is None else averaged(state, average)

    def _save(self, state: State, step: int) -> None:
        _check_finite(state, step)
        _save(self.checkpoints, self.ledger, state, step)

    def _where(self, step: int) -> str:
        m = self.job.mechanism
        return (
            f"interrupted after step {step:,} of {m.steps:,}, which is saved; spent: epsilon = "
            f"{m.epsilon(steps=step):.4f} at delta = {m.delta:g}. The same call goes on"
        )


def _callbacks(callback: Any) -> list[Callback]:
    if callback is None:
        return []
    several = list(callback) if isinstance(callback, list | tuple) else [callback]
    for one in several:
        if not callable(one):
            raise InputError(f"callback must be a function of the progress, got {one!r}")
    return several


def _check(mechanism: Any, optimizer: Any, budget: Any, options: Any) -> None:
    if not isinstance(mechanism, Plan):
        raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
    given = [m.sampling for m in mechanism.phases if isinstance(m.sampling, Stream | CheckIn)]
    if given:
        raise InputError(
            f"mechanism must draw its batches, got sampling={type(given[0]).__name__}, whose "
            "batches are given; take hg.sampling.Poisson, or InOrder for rows as they lie"
        )
    if any(m.clip.group > 1 for m in mechanism.phases):
        raise InputError(
            "mechanism must clip each example, got clip=Microbatches; take hg.clip.Flat"
        )
    if not mechanism.steps:
        raise InputError(f"mechanism must have a step to make, got {mechanism!r}")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(f"optimizer must be an optax optimizer, got {optimizer!r}")
    if budget is not None and not isinstance(budget, Budget):
        raise InputError(f"budget must be a hg.Budget, got {budget!r}")
    if not isinstance(options, Options):
        raise InputError(f"options must be hg.Options(...), got {options!r}")


def _restore(
    team: Team, checkpoints: Checkpoints, ledger: SharedLedger, job: Job, state: State
) -> tuple[State, int]:
    """The state to go on from, and after how many steps it was made.

    A checkpoint counts if the ledger has its hash: steps repeated from any other state
    would release other sums under the same noise. Where the last one is damaged, the one
    before it serves.
    """
    found, refused = team.first(lambda: checkpoints.steps), None
    going_on = ledger.finished is None  # or there is no noise to come
    for step in found:
        if step > ledger.charged:
            raise ResumeError(
                f"there is a checkpoint after step {step}, but the ledger has only "
                f"{ledger.charged}: it is not this run's ledger; restore it, or use another "
                "directory"
            )
        try:
            like = job.with_noise(state, max(step, 1) - 1)
            restored, failed = checkpoints.restore(step, like, noise=going_on), None
        except ResumeError as error:
            restored, failed = like, error
        if team.some(failed is not None):
            refused = refused or failed
            continue
        known, made = ledger.checkpoints.get(step, "").split(_AND), digests(restored)
        if known == made if going_on else known[0] == made[0]:
            checkpoints.forget_after(step)
            return restored, step
    if ledger.charged and not found:
        raise ResumeError(
            f"the checkpoints of this run are gone, though {ledger.charged} steps were charged; "
            "restore them, or use another directory, which spends anew"
        )
    if ledger.charged:
        raise refused or ResumeError(
            f"the checkpoints after steps {found} are not those that the ledger knows; restore "
            "them, or use another directory, which spends anew"
        )
    _save(checkpoints, ledger, state, 0)
    return state, 0


def _save(checkpoints: Checkpoints, ledger: SharedLedger, state: State, step: int) -> None:
    """Writes a checkpoint, and its hash when it is on disk."""
    made = _AND.join(digests(state))
    if ledger.checkpoints.get(step) != made or step not in checkpoints.steps:
        checkpoints.save(step, state)
        ledger.saved(step, made)


def _arrays(params: PyTree[ArrayLike]) -> PyTree[Array]:
    def convert(path: Any, leaf: Any) -> Array:
        try:
            return jnp.asarray(leaf)
        except TypeError as error:
            name = "params" + jax.tree_util.keystr(path)
            raise InputError(f"{name} must be an array of numbers, got {leaf!r}") from error

    return jax.tree_util.tree_map_with_path(convert, params)


def _check_finite(state: State, step: int) -> None:
    """Parameters are released, so looking at them spends nothing; going on would."""
    leaves = [
        leaf for leaf in jax.tree.leaves(state.params) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves):
        raise InputError(
            f"params are no longer finite after step {step}, so nothing more can be learned; what "
            "was charged is spent. Use a smaller learning rate, in another directory"
        )
