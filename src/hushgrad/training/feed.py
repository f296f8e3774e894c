"""Reads batches ahead on a thread of its own, so that the device does not wait for data."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["ahead"]

_T = TypeVar("_T")
_LOOK = 0.1  # seconds between two looks whether anybody still wants more


def ahead(items: Iterable[_T], most: int) -> Generator[_T, None, None]:
    """The same items, up to `most` of them made before they are asked for.

    Errors while making one are raised where it would have come. Closing the iterator ends
    the thread.
    """
    made: queue.Queue[tuple[str, object]] = queue.Queue(maxsize=most)
    over = threading.Event()

    def put(item: tuple[str, object]) -> bool:
        while not over.is_set():
            try:
                made.put(item, timeout=_LOOK)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    thread = threading.Thread(target=read, name="hushgrad-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = made.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # pyright: ignore[reportReturnType]
    finally:
        over.set()
        thread.join()
