"""State that a loss writes to while it is traced: found, named, put back.

What a model keeps between calls (running statistics, counters, caches) would carry
one example's numbers to the next, and out of the loss without noise. In a traced
function such a write leaves a tracer behind in an object that outlives the call;
so the objects that the loss holds on to are looked through before and after.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from hushgrad.errors import InputError

__all__ = ["watched"]

_LIMIT = 200_000  # objects looked at; a model has far fewer
_LEAVES = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic, jax.Array)
_SKIPPED = (types.CodeType,)
_SHARED = (types.ModuleType, type)  # only their own attributes are looked at, if a loss names them
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


@contextlib.contextmanager
def watched(loss: Callable[..., Any]) -> Iterator[None]:
    """Refuses a loss that writes to what it holds on to.

    Raises:
      InputError: naming what was written; its old content is put back.
    """
    before = {(id(slot.owner), slot.key): slot for slot in _walk(loss)}
    written = []
    try:
        yield
    finally:
        for slot in _walk(loss):
            known = before.get((id(slot.owner), slot.key))
            if isinstance(slot.value, Tracer) and (known is None or known.value is not slot.value):
                written.append(slot.name)
                _put_back(slot, known)
    if written:
        raise InputError(
            f"loss must not write to state that outlives it, but it writes {', '.join(written)}: "
            "one example's numbers would reach the next and leave without noise. Return them "
            "with has_aux=True, or use layers without running statistics (GroupNorm or "
            "LayerNorm in place of BatchNorm)"
        )


class _Slot(NamedTuple):
    """A place that holds something: an attribute, an item, a variable."""

    owner: Any
    key: Any
    name: str
    value: Any


def _walk(root: Any) -> Iterator[_Slot]:
    """Every slot reachable from a function, the nearest first, so that names are short."""
    seen: set[int] = set()
    todo: collections.deque[tuple[Any, str]] = collections.deque([(root, "")])
    while todo and len(seen) < _LIMIT:
        owner, name = todo.popleft()
        if id(owner) in seen or isinstance(owner, (*_LEAVES, *_SKIPPED, Tracer)):
            continue
        seen.add(id(owner))
        for key, label, value in _slots(owner):
            # What a function refers to has a name of its own.
            full = label if isinstance(owner, _FUNCTIONS) else _own_name(owner, name) + label
            yield _Slot(owner, key, full, value)
            named = isinstance(owner, types.FunctionType)
            if not isinstance(owner, _SHARED) and (named or not isinstance(value, _SHARED)):
                todo.append((value, full))


def _own_name(owner: Any, name: str) -> str:
    """An object's path where it keeps one (variables of Keras do), else the way to it."""
    path = vars(owner).get("_path") if hasattr(owner, "__dict__") else None
    return path if isinstance(path, str) else name


def _slots(owner: Any) -> list[tuple[Any, str, Any]]:
    if isinstance(owner, types.MethodType):
        self = owner.__self__
        return [("self", type(self).__name__, self), ("func", owner.__name__, owner.__func__)]
    if isinstance(owner, types.BuiltinFunctionType):  # `kept.append` holds on to the list
        self = owner.__self__
        return [] if isinstance(self, (*_SHARED, type(None))) else [("self", "", self)]
    if isinstance(owner, functools.partial):
        named = [(k, k, v) for k, v in owner.keywords.items()]
        args = [(i, f"args[{i}]", v) for i, v in enumerate(owner.args)]
        return [*args, *named, ("func", "", owner.func)]
    if isinstance(owner, types.FunctionType):
        return _of_function(owner)
    if isinstance(owner, dict):
        return [(k, f"[{k!r}]", v) for k, v in list(owner.items())]
    if isinstance(owner, (list, tuple, collections.deque)):
        return [(i, f"[{i}]", v) for i, v in enumerate(list(owner))]
    if isinstance(owner, (set, frozenset)):
        return [(None, "{}", v) for v in owner]
    return _of_object(owner)


def _of_object(owner: Any) -> list[tuple[Any, str, Any]]:
    slots = [(k, f".{k}", v) for k, v in list(getattr(owner, "__dict__", {}).items())]
    for kind in type(owner).__mro__:
        keys = kind.__dict__.get("__slots__", ())
        for key in (keys,) if isinstance(keys, str) else keys:
            if key not in ("__weakref__", "__dict__"):
                with contextlib.suppress(Exception):
                    slots.append((key, f".{key}", getattr(owner, key)))
    return slots


def _of_function(function: types.FunctionType) -> list[tuple[Any, str, Any]]:
    slots: list[tuple[Any, str, Any]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            slots.append((name, name, cell.cell_contents))
    for name in function.__code__.co_names:
        if name in function.__globals__:
            slots.append((name, name, function.__globals__[name]))
    for i, value in enumerate(function.__defaults__ or ()):
        slots.append((i, f"default[{i}]", value))
    slots.extend((k, k, v) for k, v in (function.__kwdefaults__ or {}).items())
    wrapped = getattr(function, "__wrapped__", None)
    return [*slots, ("__wrapped__", "", wrapped)] if wrapped else slots


def _put_back(slot: _Slot, known: _Slot | None) -> None:
    """Best effort: what refuses keeps the tracer, which JAX reports when it is used."""
    owner, key = slot.owner, slot.key
    with contextlib.suppress(Exception):
        if isinstance(owner, types.FunctionType):
            assert known is not None
            if key in owner.__code__.co_freevars:
                cells = dict(zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True))
                cells[key].cell_contents = known.value
            else:
                owner.__globals__[key] = known.value
        elif isinstance(owner, (dict, list, collections.deque)):
            if known is None:
                del owner[key]
            else:
                owner[key] = known.value
        elif isinstance(owner, _SHARED):
            setattr(owner, key, known.value) if known else delattr(owner, key)
        elif known is None:
            object.__delattr__(owner, key)
        else:
            object.__setattr__(owner, key, known.value)
