"""Callbacks of Keras for private models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from hushgrad._check import positive
from hushgrad.errors import InputError
from hushgrad.keras.trainer import PrivateTrainer

__all__ = ["PrivacyReport", "StopAtEpsilon"]


class _Private(keras.callbacks.Callback):
    model: Any

    def set_model(self, model: Any) -> None:
        """Takes note of the model.

        Raises:
          InputError: if it is not private.
        """
        if not isinstance(model, PrivateTrainer):
            raise InputError(
                f"{type(self).__name__} is for the fit of a private model, from "
                f"hg.keras.privatize, got {type(model).__name__}"
            )
        super().set_model(model)


class StopAtEpsilon(_Private):
    """Ends a training before it would spend more than `epsilon`.

    ```python
    private.fit(x, y, epochs=100, callbacks=[hg.keras.callbacks.StopAtEpsilon(3.0)])
    ```

    `privatize(epsilon=...)` refuses a training that would go beyond; this one stops on the way,
    which tells nothing: when it stops follows from public numbers alone. (Of a stream one
    step is made in any case: what a step costs is known with the first batch.)

    Args:
      epsilon: the most to spend, all earlier trainings of the model included.
      delta: at which epsilon is counted; the model's own by default.
    """

    def __init__(self, epsilon: float, delta: float | None = None) -> None:
        super().__init__()
        self._limit, self._delta = positive("epsilon", epsilon), delta
        self._last, self._planned = 0, None

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the last step that the limit holds.

        Raises:
          InputError: if it holds none.
        """
        account = self.model.account
        self._find()
        spent = account.epsilon(self._delta)
        if spent >= self._limit or self._last == account.steps:
            raise InputError(f"epsilon={self._limit:g} holds no further step: {spent:.4g} is spent")

    def _find(self) -> None:
        account = self.model.account
        self._planned = account.planned
        # Before a stream's first step nothing is known.
        last = account.steps_within(self._limit, self._delta)
        self._last = account.steps + 1 if last is None else last

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops if the next execution would go beyond."""
        account = self.model.account
        if self._planned is not account.planned:  # a stream's noise is known with its first batch
            self._find()
        if account.steps + self.model.steps_per_execution > self._last:
            self.model.stop_training = True


class PrivacyReport(_Private):
    """Writes the privacy statement to a file when a training ends, and after every epoch.

    Args:
      file: a text file, replaced each time.
    """

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        self._file = Path(file).expanduser()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes what has been spent so far."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self.model.privacy_statement() + "\n", encoding="utf-8")

    def on_train_end(self, logs: Any = None) -> None:
        """Writes what was spent in all."""
        self.on_epoch_end(0)
