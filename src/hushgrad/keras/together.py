"""Callbacks of several processes that train together: what one of them decides, all do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hushgrad.keras.steering import listed
from hushgrad.training.interrupt import Interrupted
from hushgrad.training.team import Team

__all__ = ["AgreedCallbacks"]


class AgreedCallbacks(keras.callbacks.CallbackList):
    """Keras's own list, which asks all processes after what may end a training.

    An error on one ends it for all, after the same step; so do `stop_training`, and SIGTERM,
    which JAX takes where it has joined processes.

    Args:
      team: the processes.
      model: that trains.
      per_epoch: steps in an epoch.
      options: of its `fit`.
    """

    def __init__(
        self, team: Team, model: Any, per_epoch: int | None, options: dict[str, Any]
    ) -> None:
        verbose = options["verbose"]
        super().__init__(
            listed(options["callbacks"]),
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=options["epochs"],
            steps=per_epoch,
            model=model,
        )
        self._team, self._step = team, 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Keras's."""
        self._agreed(lambda: super(AgreedCallbacks, self).on_train_begin(logs))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras's."""
        self._agreed(lambda: super(AgreedCallbacks, self).on_epoch_begin(epoch, logs))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras's.

        Raises:
          KeyboardInterrupt: after SIGTERM to one of the processes, on all.
        """
        self._agreed(lambda: super(AgreedCallbacks, self).on_train_batch_end(batch, logs))
        self._step += 1
        if self._team.leaving(self._step):
            raise Interrupted("one of the processes was told to end, and all stop after this step")

    def on_test_begin(self, logs: Any = None) -> None:
        """Keras's."""
        self._agreed(lambda: super(AgreedCallbacks, self).on_test_begin(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keras's."""
        self._agreed(lambda: super(AgreedCallbacks, self).on_epoch_end(epoch, logs))

    def _agreed(self, do: Callable[[], None]) -> None:
        model: Any = self.model

        def done() -> bool:
            do()
            return bool(model.stop_training)

        if any(self._team.each(done)):
            model.stop_training = True
