"""Callbacks that act on what they are shown: numbers without noise must not steer a training."""

from __future__ import annotations

from typing import Any

import keras

from hushgrad.errors import InputError

__all__ = ["check_steering", "listed"]


def check_steering(callbacks: Any) -> bool:
    """Whether scores on validation data decide which weights are kept, or when to stop.

    Raises:
      InputError: if numbers of training data do, which would tell of them.
    """
    found = False
    for callback in listed(callbacks):
        monitor = getattr(callback, "monitor", None)
        saving = isinstance(callback, keras.callbacks.ModelCheckpoint)
        if not isinstance(monitor, str) or (saving and not callback.save_best_only):
            continue
        if monitor.startswith("val_"):
            found = True
        elif monitor != "epsilon":
            raise InputError(
                f"{type(callback).__name__}(monitor={monitor!r}) acts on training data without "
                "noise, and what it does would tell of them: monitor a score on validation data "
                "that are nobody's of the training data, such as 'val_loss', or stop by "
                "hg.keras.callbacks.StopAtEpsilon"
            )
    return found


def listed(callbacks: Any) -> list[Any]:
    """Callbacks as Keras's `fit` takes them, as a list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
