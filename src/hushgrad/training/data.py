"""The data of a run, wherever they are, checked before anything is spent."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from hushgrad.datasets import Columns
from hushgrad.errors import DataError, InputError
from hushgrad.mechanism import Plan
from hushgrad.sampling import Users
from hushgrad.training.options import Options
from hushgrad.training.secret import RunSecret
from hushgrad.training.team import whole

__all__ = ["Source", "check_items", "fingerprint", "prepare", "source_of"]

# What Grain's data sets may be made of.
_ONE_BY_ONE = {"Source", "Range", "Map", "MapWithIndex", "RandomMap", "Zip"}
_ONE_BY_ONE |= {"Shuffle", "WindowShuffle", "Slice", "WithSeed"}
_MOST = 1 << 40
_LABEL_NAMES = ("y", "label", "labels", "target", "targets")
_SHOWN = 5
_HASHED_AT_ONCE, _HASHED_AT_MOST = 1 << 24, 1 << 32  # bytes


class Source(abc.ABC):
    """Where a run's data come from.

    Attributes:
      size: how many units there are.
      content: what is hashed before the run begins, arrays in a pytree.
      hashed: that is all of the data; else each batch is hashed as it is drawn.
    """

    size: int
    content: Any
    hashed: bool

    def present(self, rows: Int[np.ndarray, " block"]) -> Bool[np.ndarray, " block"]:
        """Whether a unit is there at all, or its place is empty."""
        return np.ones(len(rows), bool)

    def drawn(self, rows: Int[np.ndarray, " block"], rng: np.random.Generator) -> Any:
        """What is read for some units: arrays in a pytree, with an entry for each."""
        return rows

    @abc.abstractmethod
    def read(self, drawn: Any) -> tuple[Any, ...]:
        """The loss's arguments after the parameters, stacked, for what was drawn or part of it."""

    def rows(self, rows: Int[np.ndarray, " block"], rng: np.random.Generator) -> tuple[Any, ...]:
        """The same for some units at once."""
        return self.read(self.drawn(rows, rng))

    def loss(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The loss of one unit, from that of one example."""
        return loss


def prepare(data: Any, mechanism: Plan, options: Options) -> Source:
    """The source of a run's data, checked as far as that is possible without reading all.

    Args:
      data: arrays or pytrees of them, anything with a length and items, or users.
      mechanism: says how many units there must be, and whether they are users.
      options: of the run: how examples are varied.

    Raises:
      InputError: if the units are not as many as the mechanism accounts for, or not those.
      DataError: if arrays differ in length, are not numbers, or labels are NaN.
    """
    users = isinstance(data, Users)
    if users != (mechanism.unit == "user"):
        raise InputError(
            "a mechanism with unit='user' trains on hg.sampling.Users(user_ids, data, ...), and "
            f"no other does, got unit={mechanism.unit!r} and {type(data).__name__}"
        )
    source = _UserSource(data, options) if users else _source(data, options)
    examples = mechanism.phases[0].examples
    if source.size != examples:
        whose = "users" if users else "rows"
        raise InputError(
            f"data has {source.size} {whose}, but the mechanism accounts for {examples} examples; "
            f"make it with examples={source.size}"
        )
    return source


def _source(data: Any, options: Options) -> Source:
    source = source_of(data)
    return source if options.augment is None else _VariedSource(source, options)


def source_of(data: Any) -> Source:
    """The source of arrays, items or columns.

    Raises:
      InputError, DataError: as `prepare` does.
    """
    if isinstance(data, Columns):
        return _ColumnSource(data)
    # Tables and tensors have items too, but are arrays.
    plain = isinstance(data, tuple | list | Mapping) or hasattr(data, "__array__")
    if not plain and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        check_items(data)
        return _ItemSource(data)
    return _ArraySource(data)


def check_items(data: Any) -> None:
    """Refuses items that are known not to be one example each, once each.

    Raises:
      InputError: naming what repeats, drops, joins or divides them.
    """
    if len(data) > _MOST:
        raise InputError(
            f"data says that it has {len(data):,} items: leave out what repeats it, for each item "
            "must be one example"
        )
    if type(data).__module__.partition(".")[0] != "grain":
        return
    kind = type(data).__name__
    if kind.removeprefix("_").removesuffix("MapDataset") not in _ONE_BY_ONE:
        raise InputError(
            f"data has a {kind} in it, after which an item is not one example, once: leave out "
            "repeat, mix, filter, batch and packing; hushgrad draws and batches by itself"
        )
    for parent in data.parents:
        check_items(parent)


class _ArraySource(Source):
    """Arrays in memory or in mapped files."""

    def __init__(self, data: Any) -> None:
        self._arrays = _checked(data)
        leaves = jax.tree.leaves(self._arrays)
        self.size = len(leaves[0])
        # To read all of what is mapped from a file would take as long as an epoch.
        mapped = any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data))
        self.hashed = not mapped and sum(leaf.nbytes for leaf in leaves) <= _HASHED_AT_MOST
        self.content = self._arrays if self.hashed else _shapes(self._arrays)

    def read(self, drawn: Int[np.ndarray, " block"]) -> tuple[Any, ...]:
        return jax.tree.map(lambda array: array[drawn], self._arrays)


class _ColumnSource(Source):
    """Columns of a table on disk."""

    hashed = False

    def __init__(self, data: Columns) -> None:
        self._columns, self.size = data, len(data)
        self.content = np.array([self.size])

    def read(self, drawn: Int[np.ndarray, " block"]) -> tuple[Any, ...]:
        found, where = np.unique(drawn, return_inverse=True)
        return tuple(column[where] for column in self._columns.take(found))


class _ItemSource(Source):
    """Anything with a length and items: each item is one example."""

    hashed = False

    def __init__(self, data: Any) -> None:
        self._items, self.size = data, len(data)
        if not self.size:
            raise InputError("data is empty: pass a source with at least one example")
        self.content = np.array([self.size])
        try:
            self.rows(np.zeros(1, np.int64), np.random.default_rng(0))
        except (LookupError, TypeError) as error:
            raise DataError(
                f"data[0] cannot be read ({type(error).__name__}: {error}); data must be arrays, "
                "or have an example for every number from 0 to len(data) - 1"
            ) from error

    def read(self, drawn: Int[np.ndarray, " block"]) -> tuple[Any, ...]:
        # A row that fills up a block, or is drawn by many, is read once.
        found, where = np.unique(drawn, return_inverse=True)
        numbers = [int(row) for row in found]
        if hasattr(self._items, "__getitems__"):
            items = list(self._items.__getitems__(numbers))
        else:
            items = [self._items[number] for number in numbers]
        examples = [item if isinstance(item, tuple) else (item,) for item in items]
        try:
            stacked = jax.tree.map(
                lambda *values: np.stack([np.asarray(value) for value in values]),
                *examples,
                is_leaf=lambda value: value is None,
            )
        except (ValueError, TypeError) as error:
            raise DataError(
                f"data[{numbers[0]}] and data[{numbers[-1]}] must hold arrays of the same shapes "
                f"({error}); pad or crop them"
            ) from error
        for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
            if leaf.dtype.kind not in "biufcV":
                name = "data[i]" + jax.tree_util.keystr(path)
                raise DataError(f"{name} must be numbers, got {leaf.dtype}")
        return jax.tree.map(lambda leaf: leaf[where], stacked)


class _VariedSource(Source):
    """Examples of another source, each with two words of chance to vary it by."""

    def __init__(self, examples: Source, options: Options) -> None:
        self._examples, self._options = examples, options
        self.size, self.content, self.hashed = examples.size, examples.content, examples.hashed

    def drawn(self, rows: Int[np.ndarray, " block"], rng: np.random.Generator) -> Any:
        words = rng.integers(0, 2**32, size=(len(rows), 2), dtype=np.uint32)
        return words, self._examples.drawn(rows, rng)

    def read(self, drawn: Any) -> tuple[Any, ...]:
        words, rows = drawn
        return words, *self._examples.read(rows)

    def loss(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The mean over variants of the example."""
        loss, augment, times = (
            self._examples.loss(loss),
            self._options.augment,
            self._options.multiplicity,
        )
        assert augment is not None

        def averaged(params: Any, words: Any, *example: Any) -> Any:
            keys = jax.random.split(jax.random.wrap_key_data(words, impl="threefry2x32"), times)

            def one(key: Any) -> Any:
                varied = augment(key, *example)
                return loss(params, *(varied if isinstance(varied, tuple) else (varied,)))

            return one(keys[0]) if times == 1 else jnp.mean(jax.vmap(one)(keys))

        return averaged


class _UserSource(Source):
    """All that users have, so many examples of each at most."""

    def __init__(self, users: Users, options: Options) -> None:
        self._users, self._examples = users, _source(users.data, options)
        if self._examples.size != users.examples:
            raise DataError(
                f"user_ids has {users.examples} entries for {self._examples.size} rows of data; "
                "give one for each"
            )
        self.size, self.hashed = len(users), self._examples.hashed
        self.content = (self._examples.content, users._order, users._starts)

    def drawn(self, rows: Int[np.ndarray, " block"], rng: np.random.Generator) -> Any:
        members, mask = self._users.members(rows, rng)
        inner = self._examples.drawn(members.ravel(), rng)
        return mask, jax.tree.map(lambda leaf: leaf.reshape(*mask.shape, *leaf.shape[1:]), inner)

    def read(self, drawn: Any) -> tuple[Any, ...]:
        mask, inner = drawn
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), inner)
        read = self._examples.read(flat)
        return mask, *jax.tree.map(lambda leaf: leaf.reshape(*mask.shape, *leaf.shape[1:]), read)

    def loss(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The mean over the examples of a user; what fills up is the user's own, left out."""
        loss = self._examples.loss(loss)

        def of_user(params: Any, mask: Any, *examples: Any) -> Any:
            losses = jax.vmap(lambda *example: loss(params, *example))(*examples)
            return jnp.sum(jnp.where(mask, losses, 0)) / jnp.sum(mask)

        return of_user


def _shapes(arrays: Any) -> Any:
    return jax.tree.map(lambda a: np.array([*a.shape, a.dtype.num]), arrays)


def _checked(data: Any) -> tuple[Any, ...]:
    """The loss's data arguments as NumPy arrays."""
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
    if not next(iter(sizes.values())):
        raise InputError("data is empty: pass a tuple of arrays, one row per example")
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


def fingerprint(data: Any, secret: RunSecret) -> str:
    """Tells pytrees of arrays apart, to the holder of the run's secret alone.

    All of it is read: were one changed record to pass unnoticed, a resumed run
    would release other sums under the same noise, and their difference is that record.
    """
    state = secret.authenticator()
    for path, array in jax.tree_util.tree_leaves_with_path(data):
        array = whole(array)
        state.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        if not array.size:
            continue
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
