"""Several processes that carry out one run: what one of them does, and what all must agree on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hushgrad import errors
from hushgrad.errors import HushgradError, InputError, ProcessError
from hushgrad.training.interrupt import Interrupted

__all__ = ["Team", "watched", "whole"]

# Bytes that go round at once; what is longer goes round a second time.
_SHORT = 256


class Team:
    """The processes that JAX has joined; most often there is one.

    They call the same methods in the same order. What a method is given to do returns plain
    data, as JSON has it. Where it fails on one process, it fails on all. So does all that is
    done `together`.

    Attributes:
      index: of this process.
      size: how many there are.
    """

    def __init__(self) -> None:
        self.index, self.size = jax.process_index(), jax.process_count()
        self._parted = False

    def check(self, mesh: Any, name: str, mend: str) -> None:
        """Raises InputError, with what to do, if a mesh has not the devices of all."""
        devices = mesh.devices.flat if isinstance(mesh, Mesh) else ()
        if self.size > 1 and {d.process_index for d in devices} != set(range(self.size)):
            raise InputError(
                f"{name} must have devices of all {self.size} processes that JAX has joined, "
                f"{mend}, got {mesh!r}"
            )

    def each(self, do: Callable[[], Any]) -> list[Any]:
        """Done by every process; what each of them returned.

        Raises:
          ProcessError: if a process is gone.
          HushgradError: of another process, with its number.
        """
        if self.size == 1:
            return [do()]
        try:
            answer, failure = {"done": do()}, None
        except Exception as error:
            answer, failure = _failed(error), error
        with self._known_to_all():
            answers = self._exchanged(answer)
            _check_done(answers, failure)
        return [other["done"] for other in answers]

    def first(self, do: Callable[[], Any]) -> Any:
        """Done by the first process alone; what it returned."""
        return self.each(do if self.index == 0 else lambda: None)[0]

    def some(self, value: bool) -> bool:
        """Whether it is true for any of them."""
        return any(self.each(lambda: value))

    def leaving(self, step: int) -> bool:
        """Whether one of them was told to end, by SIGTERM, and all have come to the same step.

        JAX takes that signal where it has joined processes.
        """
        return self.size > 1 and multihost_utils.reached_preemption_sync_point(step)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What ends in it on one process ends on all, when they next ask each other; once a time.

        All come to its end, or none does.
        """
        if self.size == 1:
            yield
            return
        self._parted = False
        try:
            yield
        except BaseException as error:
            if not (self._parted or isinstance(error, ProcessError)):
                with contextlib.suppress(ProcessError):
                    self._exchanged(_failed(error))
            raise
        self.each(lambda: None)

    @contextlib.contextmanager
    def entered_by_first(self, manager: AbstractContextManager[Any]) -> Iterator[None]:
        """Inside a context that the first process alone enters."""
        with ExitStack() as stack:
            self.first(lambda: stack.enter_context(manager))
            yield

    @contextlib.contextmanager
    def alike(self) -> Iterator[dict[str, Any]]:
        """Collects facts that must be the same for all, and what may fail on the way.

        Raises:
          InputError: naming what differs.
        """
        facts: dict[str, Any] = {}
        failure = None
        try:
            yield facts
        except Exception as error:
            if self.size == 1:
                raise
            failure = error
        if self.size == 1:
            return
        with self._known_to_all():
            told = {} if failure is None else _failed(failure)
            everybody = self._exchanged({"done": facts, **told})
            _check_alike([other.get("done", {}) for other in everybody])
            _check_done(everybody, failure)

    @contextlib.contextmanager
    def _known_to_all(self) -> Iterator[None]:
        """What fails in it fails on all processes, and need not be told."""
        self._parted = True
        yield
        self._parted = False

    def _exchanged(self, answer: Any) -> list[Any]:
        """What each process has to say."""
        text = json.dumps(answer, allow_nan=True).encode()
        short = np.zeros(_SHORT + 4, np.uint8)
        short[:4] = np.frombuffer(len(text).to_bytes(4, "little"), np.uint8)
        short[4 : 4 + len(text)] = np.frombuffer(text, np.uint8)[:_SHORT]
        rows = _gathered(short)
        lengths = [int.from_bytes(row[:4].tobytes(), "little") for row in rows]
        if max(lengths) <= _SHORT:
            texts = [row[4:] for row in rows]
        else:
            long = np.zeros(max(lengths), np.uint8)
            long[: len(text)] = np.frombuffer(text, np.uint8)
            texts = list(_gathered(long))
        return [json.loads(t[:n].tobytes()) for t, n in zip(texts, lengths, strict=True)]


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Tells of a process that is gone, where several work together.

    Raises:
      ProcessError: in place of what JAX raises when it waits in vain.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        told = str(error).strip().partition("\n")[0]
        raise ProcessError(
            f"the processes of the run no longer hear each other ({told}): one of them is gone. "
            "Begin them again, or fewer of them: hg.train goes on from its last checkpoint, a "
            "Keras model from weights that were saved. No step is released that was not charged"
        ) from error


def _gathered(row: np.ndarray) -> np.ndarray:
    with watched():
        return np.asarray(multihost_utils.process_allgather(row))


def whole(leaf: Any) -> np.ndarray:
    """An array, from all devices that have parts of it, those of other processes too.

    All processes call it together.
    """
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        with watched():
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _failed(error: BaseException) -> dict[str, Any]:
    """How a process tells the others of an error."""
    return {"failed": [type(error).__name__, str(error)]}


def _check_done(answers: list[dict[str, Any]], failure: Exception | None) -> None:
    """Raises this process's failure, or that of another."""
    if failure is not None:
        raise failure
    for index, other in enumerate(answers):
        if "failed" in other:
            raise _of_another(index, *other["failed"])


def _of_another(index: int, kind: str, message: str) -> HushgradError | KeyboardInterrupt:
    """An error of another process, as it is told by this one."""
    if kind in (KeyboardInterrupt.__name__, Interrupted.__name__):
        return Interrupted(f"process {index} was interrupted, and all stop after the same step")
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, HushgradError):
        return found(f"process {index}: {message}")
    return ProcessError(f"process {index} failed ({kind}: {message}); mend it there")


def _check_alike(facts: list[dict[str, Any]]) -> None:
    """Raises InputError if processes differ in what they have all found out."""
    for index, other in enumerate(facts[1:], start=1):
        for name, value in facts[0].items():
            if name in other and other[name] != value:
                raise InputError(
                    f"all processes must make the same call, but {_differing(name, value, other)} "
                    f"on process {index}"
                )


def _differing(name: str, value: Any, other: dict[str, Any]) -> str:
    there = other[name]
    if isinstance(value, dict) and isinstance(there, dict):
        pairs = [(k, value.get(k), there.get(k)) for k in sorted({*value, *there})]
        changed = [f"{k} = {a!r} ({b!r} there)" for k, a, b in pairs if a != b]
        return f"{name} has {', '.join(changed)}"
    return f"{name} is {value!r} on process 0 and {there!r}"
