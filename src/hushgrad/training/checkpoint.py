"""What may be published of a run, on disk: parameters and optimizer state, by orbax."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hushgrad.errors import ResumeError, StorageError

__all__ = ["Checkpoints", "Kept", "digest"]

_KEPT = 2


class Checkpoints:
    """The last checkpoints of a run; each is complete or is not there."""

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    @property
    def steps(self) -> list[int]:
        """After how many steps each checkpoint was made, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any) -> None:
        """Writes the state after `step` steps, in place of one that may be there.

        Raises:
          StorageError: if it cannot be written.
        """
        try:
            if step in self.steps:
                self._manager.delete(step)
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._manager.wait_until_finished()
        except Exception as error:  # orbax raises whatever its storage does
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StorageError(
                f"the checkpoint after step {step} cannot be written ({told}); mend that, then "
                "repeat the call: it goes on from the checkpoint before"
            ) from error

    def forget_after(self, step: int) -> None:
        """Removes later checkpoints, which are to be made again."""
        for later in self.steps:
            if later > step:
                self._manager.delete(later)

    def restore(self, step: int, like: Any) -> Any:
        """A state, with the structure, shapes and dtypes of `like`.

        Raises:
          ResumeError: if it cannot be read, or has another structure.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except Exception as error:  # orbax raises whatever its storage does
            raise ResumeError(
                f"checkpoint {step} cannot be restored into these parameters and this optimizer "
                f"({error}); use those it was made with, or another directory"
            ) from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def digest(state: Any) -> str:
    """A hash of all arrays of a state, which may be published as it may."""
    made = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(leaf)
        made.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        made.update(array.tobytes())
    return made.hexdigest()


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
