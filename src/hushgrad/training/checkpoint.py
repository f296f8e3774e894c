"""A run's state on disk, by orbax: what may be published, and the noise's, which may not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from hushgrad.errors import ResumeError, StorageError
from hushgrad.training.step import State
from hushgrad.training.team import whole

__all__ = ["Checkpoints", "Kept", "digests"]

_KEPT = 2


class Checkpoints:
    """The last checkpoints of a run; each is complete or is not there.

    Args:
      directory: for what may be published of each state.
      secret: for the rest, the state of noise that later steps depend on: whoever has it
        could take noise away. Nothing is there where steps have noise of their own.
    """

    def __init__(self, directory: Path, secret: Path) -> None:
        self._manager, self._secret = _manager(directory), secret
        self._hidden: ocp.CheckpointManager | None = None

    @property
    def steps(self) -> list[int]:
        """After how many steps each checkpoint was made, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: State) -> None:
        """Writes the state after `step` steps, in place of one that may be there.

        Raises:
          StorageError: if it cannot be written.
        """
        try:
            if jax.tree.leaves(state.noise):
                # First, for a checkpoint without it is of no use.
                _write(self._of_noise(), step, state.noise)
            _write(self._manager, step, _public(state))
        except Exception as error:  # orbax raises whatever its storage does
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StorageError(
                f"the checkpoint after step {step} cannot be written ({told}); mend that, then "
                "repeat the call: it goes on from the checkpoint before"
            ) from error

    def forget_after(self, step: int) -> None:
        """Removes later checkpoints, which are to be made again."""
        managers = [self._manager, *([self._of_noise()] if self._secret.exists() else [])]
        for manager in managers:
            for later in manager.all_steps():
                if later > step:
                    manager.delete(later)

    def close_secret(self) -> None:
        """Waits for what is being written of the state of the noise."""
        if self._hidden is not None:
            self._hidden.close()
            self._hidden = None

    def forget_secret(self) -> None:
        """Removes the state of the noise: nobody can take it away any more."""
        self.close_secret()
        if self._secret.exists():
            shutil.rmtree(self._secret)

    def restore(self, step: int, like: State, noise: bool = True) -> State:
        """A state, with the structure, shapes and dtypes of `like`.

        Args:
          step: after which it was saved.
          like: any state of that kind.
          noise: False to leave that of the noise as in `like`.

        Raises:
          ResumeError: if it cannot be read, or has another structure.
        """
        try:
            state = _read(self._manager, step, _public(like))._replace(noise=like.noise)
            if noise and jax.tree.leaves(like.noise):
                state = state._replace(noise=_read(self._of_noise(), step, like.noise))
            return state
        except Exception as error:  # orbax raises whatever its storage does
            raise ResumeError(
                f"checkpoint {step} cannot be restored into these parameters and this optimizer "
                f"({error}); use those it was made with, or another directory"
            ) from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()
        self.close_secret()

    def _of_noise(self) -> ocp.CheckpointManager:
        if self._hidden is None:
            self._secret.mkdir(mode=0o700, exist_ok=True)
            self._hidden = _manager(self._secret)
        return self._hidden


def digests(state: State) -> list[str]:
    """Hashes of a state's arrays: without the noise's, then of the noise's if there are any.

    They may be published.
    """
    noise = [_digest(state.noise)] if jax.tree.leaves(state.noise) else []
    return [_digest(_public(state)), *noise]


def _digest(tree: Any) -> str:
    made = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(whole(leaf))
        made.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        made.update(array.tobytes())
    return made.hexdigest()


def _public(state: State) -> State:
    return state._replace(noise=optax.EmptyState())


def _manager(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEPT, create=True, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(directory.resolve(), options=options)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Also says where the array is to be, which need not be where it was."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)


def _write(manager: ocp.CheckpointManager, step: int, tree: Any) -> None:
    if step in manager.all_steps():
        manager.delete(step)
    manager.save(step, args=ocp.args.StandardSave(tree), force=True)
    manager.wait_until_finished()


def _read(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    shapes = jax.tree.map(_shape, like)
    return manager.restore(step, args=ocp.args.StandardRestore(shapes))


class Kept:
    """One pytree of arrays in a folder, such as the best parameters so far."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()

    def save(self, tree: Any) -> None:
        """Replaces what is there; returns when it is on disk."""
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._directory, tree, force=True)
            checkpointer.wait_until_finished()

    def restore(self, like: Any) -> Any | None:
        """What is there, with the structure of `like`; None if nothing is."""
        if not self._directory.exists():
            return None
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(self._directory, shapes)
