"""The loss of one example, and where to start from, of a function or a Keras model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hushgrad.errors import InputError

__all__ = ["work_of"]

_Start = Callable[[], PyTree[Array]] | None


def work_of(loss: Any) -> tuple[Callable[..., Any], bool, _Start]:
    """The loss, whether it draws, and what gives the first parameters.

    Raises:
      InputError: if it is neither a function nor a Keras model that is built and compiled.
    """
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(loss, keras.Model):
        return _of_keras(loss)
    if not callable(loss):
        raise InputError(
            f"loss must be a function loss(params, *example) or a Keras model, got {loss!r}"
        )
    if getattr(loss, "__hash__", None) is None:  # a callable object that compares by content
        loss = functools.partial(loss)
    return loss, False, None


def _of_keras(model: Any) -> tuple[Callable[..., Any], bool, _Start]:
    from hushgrad.keras.example import check_model, loss_of_one, named, penalised, penalty

    check_model(model)
    if not model.built or not getattr(model, "compiled", False):
        raise InputError(
            f"loss={model.name!r} must be a model that is built and compiled: build it with its "
            "input shape, then compile(loss=...)"
        )
    frozen = [jnp.asarray(v.value) for v in model.non_trainable_variables]
    of_one = loss_of_one(model, frozen)
    weighted = bool(penalised(model))

    def loss(params: Any, words: Any, x: Any, y: Any) -> Any:
        total, _ = of_one(params, words, x, y, jnp.float32(1))
        return total + penalty(model, params) if weighted else total

    def start() -> PyTree[Array]:
        return named(model, [jnp.asarray(v.value) for v in model.trainable_variables])

    return loss, True, start
