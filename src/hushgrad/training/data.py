"""The data of a run: arrays with one row per example, checked before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from hushgrad.errors import DataError, InputError
from hushgrad.training.secret import RunSecret

__all__ = ["fingerprint", "prepare", "rows_of"]

_LABEL_NAMES = ("y", "label", "labels", "target", "targets")
_SHOWN = 5
_HASHED_AT_ONCE = 1 << 24  # bytes


def prepare(data: Any, examples: int) -> tuple[Any, ...]:
    """The loss's data arguments as NumPy arrays.

    Args:
      data: a tuple or list of the loss's arguments after the parameters, each a
        pytree of arrays with one row per example; anything else is one argument.
      examples: how many rows the mechanism was made for.

    Raises:
      InputError: if the rows are not as many as the mechanism accounts for.
      DataError: if arrays differ in length, are not numbers, or labels are NaN.
    """
    arguments = tuple(data) if isinstance(data, tuple | list) else (data,)
    arrays = jax.tree.map(_array, arguments)
    sizes = {}
    for path, array in jax.tree_util.tree_leaves_with_path(arrays):
        name = "data" + jax.tree_util.keystr(path)
        if array.ndim == 0 or array.dtype.kind not in "biufcV" or array.dtype.names:
            raise DataError(
                f"{name} must be an array of numbers with one row per example, got "
                f"{array.dtype} of shape {array.shape}"
            )
        sizes[name] = array.shape[0]
    if not sizes:
        raise InputError("data is empty: pass a tuple of arrays, one row per example")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(f"data arrays must have the same number of rows, got {listed}")
    found = next(iter(sizes.values()))
    if found != examples:
        raise InputError(
            f"data has {found} rows, but the mechanism accounts for {examples} examples; "
            f"make it with examples={found}"
        )
    for name, labels in _labels(arrays):
        _check_labels(name, labels)
    return arrays


def _array(leaf: Any) -> np.ndarray:
    try:
        return np.asarray(leaf)
    except TypeError as error:
        raise DataError(
            f"data must be arrays of numbers, got {type(leaf).__name__} ({error}); random keys go "
            "in as jax.random.key_data(keys)"
        ) from error


def rows_of(data: tuple[Any, ...], rows: Int[np.ndarray, " block"]) -> tuple[Any, ...]:
    """The chosen rows of every array."""
    return jax.tree.map(lambda array: array[rows], data)


def fingerprint(data: Any, secret: RunSecret) -> str:
    """Tells pytrees of arrays apart, to the holder of the run's secret alone.

    All of it is read: were one changed record to pass unnoticed, a resumed run
    would release other sums under the same noise, and their difference is that record.
    """
    state = secret.authenticator()
    for path, array in jax.tree_util.tree_leaves_with_path(data):
        array = np.asarray(array)
        state.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        flat = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        rows = max(1, _HASHED_AT_ONCE // max(1, flat[:1].nbytes))
        for start in range(0, len(flat), rows):
            state.update(flat[start : start + rows].tobytes())
    return state.hexdigest()


def _labels(arguments: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """The last of several arguments, and entries of a mapping that are named so."""
    found = []
    if len(arguments) > 1 and isinstance(arguments[-1], np.ndarray):
        found.append((f"data[{len(arguments) - 1}] (the labels)", arguments[-1]))
    for number, argument in enumerate(arguments):
        if isinstance(argument, Mapping):
            named = (name for name in _LABEL_NAMES if isinstance(argument.get(name), np.ndarray))
            found += [(f"data[{number}][{name!r}]", argument[name]) for name in named]
    return found


def _check_labels(name: str, labels: np.ndarray) -> None:
    if labels.dtype.kind not in "fc":
        return
    bad = np.flatnonzero(np.isnan(labels.reshape(len(labels), -1)).any(axis=1))
    if bad.size:
        shown = ", ".join(str(row) for row in bad[:_SHOWN]) + (", ..." if bad.size > _SHOWN else "")
        raise DataError(
            f"{name} has NaN in {bad.size} of {len(labels)} rows (rows {shown}); "
            "remove those rows or mend their labels"
        )
