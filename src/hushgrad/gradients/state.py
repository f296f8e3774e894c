"""State that a loss writes to while it is traced: found, named, put back.

What a model keeps between calls (running statistics, counters, caches) would carry
one example's numbers to the next, and out of the loss without noise. In a traced
function such a write leaves a tracer behind in an object that outlives the call;
so the objects that the loss holds on to are looked through before and after.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from hushgrad.errors import InputError

__all__ = ["watched"]

_LIMIT = 200_000  # objects looked at; a model has far fewer
_LEAVES = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic, jax.Array)
_SKIPPED = (types.ModuleType, type, types.BuiltinFunctionType, types.CodeType)


@contextlib.contextmanager
def watched(loss: Callable[..., Any]) -> Iterator[None]:
    """Refuses a loss that writes to what it holds on to.

    Raises:
      InputError: naming what was written; its old content is put back.
    """
    before = {(id(owner), key): (owner, name, value) for owner, key, name, value in _walk(loss)}
    try:
        yield
    finally:
        written = []
        for owner, key, name, value in _walk(loss):
            known = before.get((id(owner), key))
            if isinstance(value, Tracer) and (known is None or known[2] is not value):
                written.append(name)
                _put_back(owner, key, known)
    if written:
        raise InputError(
            f"loss must not write to state that outlives it, but it writes {', '.join(written)}: "
            "one example's numbers would reach the next and leave without noise. Return them "
            "with has_aux=True, or use layers without running statistics (GroupNorm or "
            "LayerNorm in place of BatchNorm)"
        )


def _walk(root: Any) -> Iterator[tuple[Any, Any, str, Any]]:
    """Every slot reachable from a function: owner, key in it, readable name, content."""
    seen: set[int] = set()
    todo: list[tuple[Any, str]] = [(root, "")]
    while todo and len(seen) < _LIMIT:
        owner, name = todo.pop()
        if id(owner) in seen or isinstance(owner, (*_LEAVES, *_SKIPPED, Tracer)):
            continue
        seen.add(id(owner))
        for key, label, value in _slots(owner):
            full = f"{name}{label}" if name else label.lstrip(".")
            yield owner, key, full, value
            todo.append((value, full))


def _slots(owner: Any) -> list[tuple[Any, str, Any]]:
    if isinstance(owner, types.MethodType):
        return [("self", type(owner.__self__).__name__, owner.__self__)]
    if isinstance(owner, functools.partial):
        named = [(k, k, v) for k, v in owner.keywords.items()]
        return (
            [(i, f"args[{i}]", v) for i, v in enumerate(owner.args)]
            + named
            + [("func", "", owner.func)]
        )
    if isinstance(owner, types.FunctionType):
        return _of_function(owner)
    if isinstance(owner, dict):
        return [(k, f"[{k!r}]", v) for k, v in list(owner.items())]
    if isinstance(owner, (list, tuple)):
        return [(i, f"[{i}]", v) for i, v in enumerate(owner)]
    if isinstance(owner, (set, frozenset)):
        return [(None, "{}", v) for v in owner]
    slots = [(k, f".{k}", v) for k, v in list(getattr(owner, "__dict__", {}).items())]
    for kind in type(owner).__mro__:
        for key in getattr(kind, "__slots__", ()):
            if isinstance(key, str) and key != "__weakref__":
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


def _put_back(owner: Any, key: Any, known: tuple[Any, str, Any] | None) -> None:
    """Best effort: an object that refuses keeps the tracer, which JAX reports when it is used."""
    with contextlib.suppress(Exception):
        if isinstance(owner, dict):
            if known is None:
                del owner[key]
            else:
                owner[key] = known[2]
        elif isinstance(owner, list):
            if known is None:
                owner.pop(key)
            else:
                owner[key] = known[2]
        elif known is None:
            object.__delattr__(owner, key)
        else:
            object.__setattr__(owner, key, known[2])
