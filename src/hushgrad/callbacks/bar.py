"""A bar on the terminal: steps, loss, epsilon, speed and the time that is left."""

from __future__ import annotations

import math
import time
from pathlib import Path

from jaxtyping import PyTree
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from hushgrad import training

__all__ = ["ProgressBar"]

# Epsilon takes a fraction of a second to compute; so many values serve a whole run.
_MARKS = 20
_REFRESH_SECONDS = 0.1
_SMOOTHING = 0.8


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second, once two are known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


class ProgressBar:
    """Shows how far a run is: steps, smoothed loss, epsilon, steps per second, time left.

    The loss carries no noise, as the star beside it says. Epsilon is what will have been
    spent a twentieth of the run later at most. Where the output is no terminal, twenty lines
    are printed instead.

    Args:
      console: to draw on; the standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(highlight=False, soft_wrap=True) if console is None else console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._start, self._loss, self._drawn = 0, math.nan, -math.inf
        self._epsilons: dict[int, float] = {}
        self.began = False

    def begin(self, directory: Path, start: int, params: PyTree) -> None:
        """Draws an empty bar."""
        self.began, self._start = True, start
        if start:
            self._console.print(f"Going on after step {start:,}.")
        self._bar = Progress(
            TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}* epsilon {task.fields[epsilon]}"),
            _Speed(),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._bar.start()

    def end(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: training.Progress) -> None:
        """Redraws a few times a second, and whenever the next epsilon is due."""
        step, bar = progress.step, self._bar
        mark = self._mark(progress)
        due = mark not in self._epsilons or step == progress.steps
        if bar is None or (not due and time.monotonic() - self._drawn < _REFRESH_SECONDS):
            return
        self._drawn = time.monotonic()
        self._note(progress.unprotected_loss)
        if mark not in self._epsilons:
            self._epsilons[mark] = progress.mechanism.epsilon(steps=mark)
        loss, epsilon = f"{self._loss:5.3f}", f"{self._epsilons[mark]:.3f}"
        if not bar.tasks:
            self._task = bar.add_task(
                "", total=progress.steps, completed=self._start, loss=loss, epsilon=epsilon
            )
        bar.update(self._task, completed=step, loss=loss, epsilon=epsilon)
        if due and not self._console.is_terminal:
            self._console.print(
                f"step {step:,} of {progress.steps:,}: loss {self._loss:.3f}*, epsilon {epsilon}"
            )

    def _mark(self, progress: training.Progress) -> int:
        """The end of the step's stretch of the run: what is spent there bounds what is spent."""
        stretch = math.ceil(progress.step * _MARKS / progress.steps)
        return math.ceil(stretch * progress.steps / _MARKS)

    def _note(self, loss: float) -> None:
        if math.isnan(self._loss):
            self._loss = loss
        elif not math.isnan(loss):
            self._loss = _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
