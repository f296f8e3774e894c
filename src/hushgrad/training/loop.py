"""`hg.train`: the loop that ties sampling, clipping, noise and the ledger together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from hushgrad._check import whole
from hushgrad.errors import InputError, ResumeError
from hushgrad.gradients import clipped_grad
from hushgrad.mechanism import Guarantee, Mechanism
from hushgrad.sampling import blocks
from hushgrad.training import data as rows
from hushgrad.training import program
from hushgrad.training.checkpoint import Checkpoints
from hushgrad.training.directory import Identity, RunDirectory
from hushgrad.training.ledger import Ledger
from hushgrad.training.run import Progress, Run
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import (
    State,
    Sums,
    accumulate,
    empty_sums,
    initial_state,
    release,
)

__all__ = ["train"]

_CPU_BLOCK = 64


def train(
    loss: Callable[..., Any],
    params: PyTree[ArrayLike],
    data: Any,
    mechanism: Guarantee,
    *,
    optimizer: optax.GradientTransformation,
    directory: str | Path,
    seed: int | None = None,
    block_size: int | None = None,
    checkpoint_every: int | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Run:
    """Trains with differential privacy; the same call goes on after a crash.

    ```python
    m = hg.dp_sgd(examples=len(x), batch_size=256, epochs=15, clip=1.0, delta=1e-5, epsilon=3.0)
    run = hg.train(loss, params, (x, y), m, optimizer=optax.sgd(0.25), directory="runs/mine")
    run.params, run.epsilon, run.statement()
    ```

    Each step is charged to the ledger in `directory`, durably, before its noise is drawn.
    Its batch and noise are functions of the run's secret and the step's number, so a run
    that was killed ends with the same parameters, bit for bit, at the same epsilon. Where
    the run is finished, its result is returned and nothing is spent.

    Formal guarantee: that of `mechanism`, for the parameters, the checkpoints and
    what a callback does with `progress.params`; not for `progress.unprotected_...`.

    Args:
      loss: `loss(params, *example) -> scalar` for one example.
      params: any pytree of floating-point arrays.
      data: the loss's other arguments, arrays with one row per example.
      mechanism: from `hg.dp_sgd` or `hg.schedule`; its `examples` must be the number of rows.
      optimizer: any optax optimizer; sees the noisy mean gradient.
      directory: for the ledger, the checkpoints and, until the end, the secret.
      seed: makes the run repeatable, for tests, and not private against whoever knows it.
      block_size: rows processed at once; by default most batches fit in one block.
      checkpoint_every: in steps; one pass over the data by default.
      callback: called after every step.

    Raises:
      InputError, DataError: if an argument or the data is wrong; nothing has been spent.
      ResumeError: if the directory holds a run that this call may not continue.
    """
    _check(mechanism, optimizer, callback)
    every = _every(checkpoint_every, mechanism)
    rows_at_once = None if block_size is None else whole("block_size", block_size)
    arrays = rows.prepare(data, mechanism.phases[0].examples)
    state = initial_state(_arrays(params), mechanism.phases[0], optimizer)
    folder = RunDirectory(directory)
    with folder.locked():
        found = folder.load()
        rows_at_once = rows_at_once or _block_size(mechanism, found)
        job = _Job(loss, mechanism, optimizer, arrays, rows_at_once)
        name, secret = _open(folder, found, job, state, seed)
        state, charged = _run(folder, name, secret, job, state, every, callback)
    return Run(state.params, mechanism, charged, folder.path, seed is not None)


def _check(mechanism: Any, optimizer: Any, callback: Any) -> None:
    if not isinstance(mechanism, Guarantee):
        raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
    if not mechanism.steps:
        raise InputError(f"mechanism must have a step to make, got {mechanism!r}")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(f"optimizer must be an optax optimizer, got {optimizer!r}")
    if callback is not None and not callable(callback):
        raise InputError(f"callback must be a function of the progress, got {callback!r}")


def _every(checkpoint_every: int | None, mechanism: Guarantee) -> int:
    """Steps from one checkpoint to the next."""
    if checkpoint_every is None:
        return max(1, round(1 / mechanism.phases[0].sampling_rate))
    return whole("checkpoint_every", checkpoint_every)


def _run(
    folder: RunDirectory,
    name: str,
    secret: RunSecret | None,
    job: _Job,
    state: State,
    every: int,
    callback: Callable[[Progress], None] | None,
) -> tuple[State, int]:
    """Takes the steps that are left; gives the last state and the steps charged."""
    mechanism = job.mechanism
    with contextlib.ExitStack() as stack:
        ledger = Ledger(folder.ledger, name, mechanism.to_dict())
        stack.callback(ledger.close)
        checkpoints = Checkpoints(folder.checkpoints)
        stack.callback(checkpoints.close)
        state, start = _restore(checkpoints, ledger, state)
        if secret is None and start < mechanism.steps:
            raise ResumeError(
                f"{str(folder.path)!r} has lost its secret.key before the end of the run, so its "
                "steps cannot be repeated; use another directory, which spends anew"
            )
        if secret is not None:
            for step in range(start, mechanism.steps):
                ledger.charge(step)
                state, sums = job.step(state, secret, step)
                if (step + 1) % every == 0 or step + 1 == mechanism.steps:
                    _check_finite(state, step + 1)
                    checkpoints.save(step + 1, state)
                if callback is not None:
                    callback(Progress(step + 1, mechanism, state.params, state.norm, sums))
            folder.forget_secret()
        return state, ledger.charged


class _Job:
    """What stays the same over all steps of a run."""

    def __init__(
        self,
        loss: Callable[..., Any],
        mechanism: Guarantee,
        optimizer: optax.GradientTransformation,
        data: tuple[Any, ...],
        block_size: int,
    ) -> None:
        self.mechanism, self.optimizer = mechanism, optimizer
        self.data, self.block_size = data, block_size
        self._clipped = {m.clip: clipped_grad(loss, m.clip) for m in mechanism.phases}
        # What is compiled does not depend on how many steps there are.
        self._one = {m: m.after(1) for m in mechanism.phases}
        self._first = rows.rows_of(data, np.zeros(block_size, np.int64))
        self._mask = np.zeros(block_size, bool)

    def step(self, state: State, secret: RunSecret, step: int) -> tuple[State, Sums]:
        """One release: draw, sum the clipped gradients block by block, add noise, update."""
        m, first = self.mechanism.at(step)
        clipped = self._clipped[m.clip]
        # A phase counts its own steps; no source of chance serves two phases.
        drawn = m.sampling.batch(
            step - first, m.examples, lambda n: secret.sampling_generator(first + n)
        )
        sums = empty_sums(clipped, state.params, self._first, self._mask)
        for block in blocks(drawn, self.block_size):
            batch = rows.rows_of(self.data, block.rows)
            sums = accumulate(clipped, state.params, sums, batch, block.mask, state.norm)
        key = secret.noise_key(step)
        bits = sums.centred_bits
        return release(self._one[m], self.optimizer, state, sums.grads, bits, key), sums

    def trace(self, state: State) -> list[Any]:
        """The whole step, traced; also finds errors in the loss before any is spent."""
        kinds = dict.fromkeys(self._one.values())
        return [program for phase in kinds for program in self._trace(phase, state)]

    def _trace(self, phase: Mechanism, state: State) -> list[Any]:
        clipped = self._clipped[phase.clip]
        sums = jax.eval_shape(
            lambda s, b, m: empty_sums(clipped, s.params, b, m), state, self._first, self._mask
        )
        key = jax.ShapeDtypeStruct((8,), jnp.uint32)
        return [
            jax.make_jaxpr(lambda s, t, b, m: accumulate(clipped, s.params, t, b, m, s.norm))(
                state, sums, self._first, self._mask
            ),
            jax.make_jaxpr(lambda s, g, b, k: release(phase, self.optimizer, s, g, b, k))(
                state, sums.grads, sums.centred_bits, key
            ),
        ]


def _open(
    folder: RunDirectory,
    found: tuple[str, Identity] | None,
    job: _Job,
    state: State,
    seed: int | None,
) -> tuple[str, RunSecret | None]:
    """Begins a run or checks the one found; without a secret, it is finished."""
    traced = job.trace(state)

    def identity(secret: RunSecret | None) -> Identity:
        content = (job.data, state, program.constants(traced))
        return Identity(
            mechanism=job.mechanism.to_dict(),
            program=program.fingerprint(traced, jax.tree.structure(state)),
            content="" if secret is None else rows.fingerprint(content, secret),
            block_size=job.block_size,
            seeded=seed is not None,
        )

    if found is None:
        secret = RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)
        folder.keep_secret(secret)
        return folder.begin(identity(secret)), secret
    name, there = found
    secret = folder.secret()
    differing = _difference(identity(secret), there)
    if (
        differing is None
        and secret is not None
        and seed is not None
        and secret != RunSecret.from_seed(seed)
    ):
        differing = "it was made with another seed"
    if differing is not None:
        raise ResumeError(
            f"the run in {str(folder.path)!r} cannot go on: {differing}; repeat the call that "
            "began it, or use another directory"
        )
    return name, secret


def _difference(here: Identity, there: Identity) -> str | None:
    """Why the run `there` is not the one `here`, or None if it is."""
    if here.mechanism != there.mechanism:
        pairs = ((k, there.mechanism.get(k), v) for k, v in here.mechanism.items())
        changed = ", ".join(f"{k}: {a!r} there, {b!r} here" for k, a, b in pairs if a != b)
        return f"it was made by another mechanism ({changed})"
    if here.seeded != there.seeded:
        return f"it was made {'with' if there.seeded else 'without'} a seed"
    if here.block_size != there.block_size:
        return f"it was made with block_size={there.block_size}, not {here.block_size}"
    if here.program != there.program:
        return (
            "it was made with another loss, optimizer, shape of parameters, version of JAX or "
            "kind of device"
        )
    # Without the secret, in a finished run, this cannot be told and is not needed.
    if here.content and here.content != there.content:
        return (
            "it was made with other data, other starting parameters, or other arrays that the "
            "loss or the optimizer hold"
        )
    return None


def _restore(checkpoints: Checkpoints, ledger: Ledger, state: State) -> tuple[State, int]:
    """The state to go on from, and after how many steps it was made."""
    latest, charged = checkpoints.latest, ledger.charged
    if latest is None:
        if charged:
            raise ResumeError(
                f"the checkpoints of this run are gone, though {charged} steps were charged; "
                "restore them, or use another directory, which spends anew"
            )
        checkpoints.save(0, state)
        return state, 0
    if latest > charged:
        raise ResumeError(
            f"there is a checkpoint after step {latest}, but the ledger has only {charged}: it "
            "is not this run's ledger; restore it, or use another directory"
        )
    return checkpoints.restore(state), latest


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


def _block_size(mechanism: Guarantee, found: tuple[str, Identity] | None) -> int:
    """Rows per block where the user does not say: those of the run that is found."""
    if found is not None:
        return found[1].block_size
    # Two standard deviations above the mean: 98 of 100 batches take one block.
    largest = max(m.batch_size for m in mechanism.phases)
    usual = 8 * math.ceil((largest + 2 * math.sqrt(largest)) / 8)
    # A CPU is as fast or faster on blocks that stay in its caches, and pads less.
    return min(usual, _CPU_BLOCK) if jax.default_backend() == "cpu" else usual
