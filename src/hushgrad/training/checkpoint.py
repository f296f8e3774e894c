"""What may be published of a run, on disk: parameters and optimizer state, by orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hushgrad.errors import ResumeError

__all__ = ["Checkpoints", "Kept"]

_KEPT = 2


class Checkpoints:
    """The last checkpoints of a run; each is complete or is not there."""

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    @property
    def latest(self) -> int | None:
        """After how many steps the last checkpoint was made."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes the state after `step` steps; returns when it is on disk."""
        if self.latest != step:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._manager.wait_until_finished()

    def restore(self, like: Any) -> Any:
        """The last state, with the structure, shapes and dtypes of `like`.

        Raises:
          ResumeError: if what is there has another structure.
        """
        step = self.latest
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ResumeError(
                f"checkpoint {step} cannot be restored into these parameters and this optimizer "
                f"({error}); use those it was made with, or another directory"
            ) from error
        return restored

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


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
