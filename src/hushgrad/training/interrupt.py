"""Ctrl-C ends a run after the step it is in, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Interrupted", "noted"]


class Interrupted(KeyboardInterrupt):
    """A training was stopped by Ctrl-C, or by SIGTERM, after a whole step; no step is lost."""


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Notes the first Ctrl-C, for the loop to act on between steps; the second is as ever.

    Python may lose a KeyboardInterrupt that comes while a library's callback or finaliser
    runs, and one in the middle of a step would lose the step.
    """
    # What is started in the background may be deaf to Ctrl-C, and stays so.
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = False

    def note(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note) or signal.SIG_DFL
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)
