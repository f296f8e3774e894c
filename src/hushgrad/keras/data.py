"""What Keras's `fit` takes as data, as rows that can be drawn, or as a stream."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import keras
import numpy as np
from jaxtyping import Int

from hushgrad.errors import DataError, InputError
from hushgrad.training.data import Source, check_items, source_of

__all__ = ["Rows", "given", "rows_of", "split"]

_BATCHES_KEPT = 8


class Rows(Source):
    """Examples that can be drawn: their words of chance, inputs, targets and weights.

    Attributes:
      batch_size: where the user gives none.

    Args:
      examples: tuples of inputs, targets and weights, the last two perhaps missing.
      class_weight: by class, or None.
    """

    def __init__(self, examples: Source, class_weight: Mapping[int, float] | None) -> None:
        self._examples, self._class_weight = examples, class_weight
        # As Keras's own fit has it, or as the data come.
        self.batch_size = getattr(examples, "batch_size", 32)
        self.size, self.content, self.hashed = examples.size, examples.content, True
        weights = sorted((class_weight or {}).items())
        # All that processes must hold alike.
        self.told = examples.content, np.array(weights, float)

    def drawn(self, rows: Int[np.ndarray, " block"], rng: np.random.Generator) -> Any:
        """Words of chance, and what is read."""
        words = rng.integers(0, 2**32, size=(len(rows), 2), dtype=np.uint32)
        return words, self._examples.drawn(rows, rng)

    def read(self, drawn: Any) -> tuple[Any, ...]:
        """Words of chance, inputs, targets and weights."""
        words, rows = drawn
        return words, *_whole(self._examples.read(rows), self._class_weight)

    def two(self) -> Any:
        """Inputs of two examples, the first and the last."""
        ends = np.array([0, self.size - 1])
        return self._examples.rows(ends, np.random.default_rng(0))[0]

    def sample(self, count: int) -> tuple[Any, ...]:
        """Zeros, shaped as some examples: inputs, targets and weights."""
        _, *example = self.rows(np.zeros(count, np.int64), np.random.default_rng(0))
        return jax.tree.map(np.zeros_like, tuple(example))


def rows_of(
    x: Any, y: Any, sample_weight: Any, class_weight: Mapping[int, float] | None
) -> Rows | None:
    """Data as rows to draw from, or None if they are a stream.

    Raises:
      InputError, DataError: if they are neither, or do not fit together.
    """
    if class_weight is not None and sample_weight is not None:
        raise InputError("give one of sample_weight and class_weight, got both")
    if not _is_indexed(x):
        _alone(y, sample_weight)
        return None
    if isinstance(x, keras.utils.PyDataset):
        _alone(y, sample_weight)
        return Rows(_BatchSource(x), class_weight)
    if type(x).__name__ == "BatchMapDataset":  # Grain's
        _alone(y, sample_weight)
        check_items(x.parents[0])
        return Rows(_BatchSource(x), class_weight)
    if _is_arrays(x):
        parts = [_numbers(x), _numbers(y), _numbers(sample_weight)]
        while len(parts) > 1 and parts[-1] is None:
            parts.pop()
        return Rows(source_of(tuple(parts)), class_weight)
    _alone(y, sample_weight)
    return Rows(source_of(x), class_weight)


def given(batch: Any, class_weight: Mapping[int, float] | None) -> tuple[Any, ...]:
    """Inputs, targets and weights of a batch that is given, as NumPy arrays."""
    return _whole(_parts(batch), class_weight)


def split(data: tuple[Any, Any, Any], share: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The first rows of arrays, and the last: a share of them.

    Raises:
      InputError: if the data are not arrays or the share leaves one part empty.
    """
    if not _is_arrays(data[0]):
        raise InputError(
            f"validation_split={share!r} is for arrays, got {type(data[0]).__name__}; give "
            "validation_data"
        )
    arrays = tuple(_numbers(part) for part in data)
    size = len(jax.tree.leaves(arrays)[0])
    first = int(size * (1 - share))
    if not 0 < first < size:
        raise InputError(
            f"validation_split={share!r} of {size} examples leaves nothing to train or to "
            "validate on"
        )
    return (
        jax.tree.map(lambda a: a[:first], arrays),
        jax.tree.map(lambda a: a[first:], arrays),
    )


class _BatchSource(Source):
    """The examples inside batches that have numbers, such as a `PyDataset`'s.

    Each person has one fixed place in one of them. Batch 0 says how many a batch holds; the
    last alone may hold fewer. A batch is read for every drawn example in it that is not in one
    of the last few batches read.
    """

    hashed = True

    def __init__(self, batches: Any) -> None:
        if not len(batches):
            raise InputError("x is empty: it must have at least one batch")
        self._batch = functools.lru_cache(_BATCHES_KEPT)(lambda number: _parts(batches[number]))
        self.batch_size = _length(self._batch(0))
        _check_fixed(self._batch(0), _parts(batches[0]))
        last = _length(self._batch(len(batches) - 1))
        if last > self.batch_size:
            raise DataError(
                f"the last batch of x has {last} examples and batch 0 has {self.batch_size}: it "
                "must not have more"
            )
        self.size = self.batch_size * (len(batches) - 1) + last
        self.content = np.array([self.size])

    def read(self, drawn: Int[np.ndarray, " block"]) -> tuple[Any, ...]:
        numbers, places = np.divmod(drawn, self.batch_size)
        found: list[Any] = [None] * len(drawn)
        for at in np.argsort(numbers, kind="stable"):
            number, place = int(numbers[at]), int(places[at])
            batch = self._batch(number)
            if place >= _length(batch):
                raise DataError(
                    f"batch {number} of x has {_length(batch)} examples and batch 0 has "
                    f"{self.batch_size}; all but the last must have as many"
                )
            found[at] = jax.tree.map(lambda a, place=place: a[place], batch)
        return jax.tree.map(lambda *values: np.stack(values), *found)


def _check_fixed(first: tuple[Any, ...], again: tuple[Any, ...]) -> None:
    """Inputs may be varied each time that they are read; who is in a batch may not."""
    for one, other in zip(jax.tree.leaves(first[1:]), jax.tree.leaves(again[1:]), strict=True):
        if one.shape != other.shape or one.tobytes() != other.tobytes():
            raise DataError(
                "x[0], read twice, gave other targets: a batch must hold the same people each "
                "time, for they are charged as that. Draw nobody in __getitem__: fit draws"
            )


def _parts(batch: Any) -> tuple[Any, ...]:
    """A batch's parts, one to three, as NumPy arrays."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    return tuple(_numbers(part) for part in parts)


def _whole(
    example: tuple[Any, ...], class_weight: Mapping[int, float] | None
) -> tuple[Any, Any, Any]:
    """Inputs, targets and weights; None where they are missing."""
    parts = example if isinstance(example, tuple) else (example,)
    if not 1 <= len(parts) <= 3:
        raise DataError(
            f"data must be inputs, targets and weights, got tuples of {len(parts)} parts"
        )
    x, y, weight = (*parts, None, None)[:3]
    if class_weight is not None:
        if weight is not None:
            raise InputError("class_weight is given, but the data have weights of their own")
        weight = _weights(y, class_weight)
    return x, y, weight


def _weights(y: Any, class_weight: Mapping[int, float]) -> np.ndarray:
    if not isinstance(y, np.ndarray):
        raise InputError("class_weight needs targets in one array, of class numbers or one-hot")
    one_hot = y.ndim > 1 and y.shape[-1] > 1
    classes = np.argmax(y, axis=-1) if one_hot else y.reshape(len(y)).astype(np.int64)
    known = {int(k): float(v) for k, v in class_weight.items()}
    return np.array([known.get(int(c), 1.0) for c in classes.ravel()], np.float32)


def _alone(y: Any, sample_weight: Any) -> None:
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise InputError(f"{name} must come with x, as (x, y, sample_weight), got both")


def _is_indexed(x: Any) -> bool:
    if _is_arrays(x):
        return True
    named = type(x).__module__.partition(".")[0]
    # A torch DataLoader has a length, but no items.
    return named != "tensorflow" and hasattr(x, "__len__") and hasattr(x, "__getitem__")


def _is_arrays(x: Any) -> bool:
    leaves = jax.tree.leaves(x) if isinstance(x, tuple | list | Mapping) else [x]
    return bool(leaves) and all(hasattr(leaf, "__array__") for leaf in leaves)


def _numbers(tree: Any) -> Any:
    return keras.tree.map_structure(_array, tree)


def _array(leaf: Any) -> Any:
    """As an array; wide floats as Keras's, as its own `fit` has them."""
    if leaf is None:
        return None
    array = np.asarray(leaf)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _length(batch: Any) -> int:
    return len(jax.tree.leaves(batch)[0])
