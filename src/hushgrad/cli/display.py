"""What a training run shows: the facts before, a bar while it lasts, the statement after."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hushgrad import training
from hushgrad.mechanism import Mechanism

__all__ = ["Display"]

# Epsilon takes a fraction of a second to compute; so many values serve a whole run.
_MARKS = 20
_REFRESH_SECONDS = 0.1
_SMOOTHING = 0.8


class Display:
    """A callback for `hg.train` that draws the run on the terminal."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}* epsilon {task.fields[epsilon]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=mechanism.steps, loss="  -  ", epsilon="0.000")
        self._loss = math.nan
        self._epsilons: dict[int, float] = {}
        self._drawn = -math.inf
        self._first: int | None = None

    def introduce(self, name: str, directory: Path) -> None:
        """Says what is about to run."""
        m = self._mechanism
        self._console.print(
            f"Training on {name}: {m.examples:,} examples, {m.steps:,} steps of about "
            f"{m.batch_size} examples,\nclip {m.clip.sensitivity:g}, noise multiplier "
            f"{m.noise_multiplier:.4g}, epsilon {m.epsilon():.4g} at delta {m.delta:g}.\n"
            f"Run directory: {directory}\n"
            "* The loss carries no noise: it is for your eyes, not for publication."
        )

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: training.Progress) -> None:
        """Redraws a few times a second, and whenever the next epsilon is due."""
        step = progress.step
        if self._first is None:
            self._first = step
            if step > 1:
                self._console.print(f"Going on after step {step - 1:,}.")
        mark = self._mark(step)
        due = mark not in self._epsilons or step == progress.steps
        if not due and time.monotonic() - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = time.monotonic()
        self._note(progress.unprotected_loss)
        if mark not in self._epsilons:
            self._epsilons[mark] = self._mechanism.epsilon(steps=mark)
        epsilon = self._epsilons[mark]
        self._bar.update(
            self._task, completed=step, loss=f"{self._loss:5.3f}", epsilon=f"{epsilon:.3f}"
        )
        if due and not self._console.is_terminal:
            self._console.print(
                f"step {step:,} of {progress.steps:,}: loss {self._loss:.3f}*, "
                f"epsilon {epsilon:.3f}"
            )

    def _mark(self, step: int) -> int:
        """The end of the step's stretch of the run: what is spent there bounds what is spent."""
        stretch = math.ceil(step * _MARKS / self._mechanism.steps)
        return math.ceil(stretch * self._mechanism.steps / _MARKS)

    def _note(self, loss: float) -> None:
        if math.isnan(self._loss):
            self._loss = loss
        elif not math.isnan(loss):
            self._loss = _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss

    def conclude(self, run: training.Run, score: float, tested: int) -> None:
        """Accuracy, statement and where everything is."""
        if self._first is None:
            self._console.print(
                "This run is complete; nothing was trained and nothing spent. To train anew, "
                "and spend anew, name another --directory."
            )
        self._console.print(f"\nTest accuracy {score:.2%} on {tested:,} held-out images\n")
        self._console.print(run.statement())
        self._console.print(
            f"\nWritten to {run.directory}:\n"
            "params.npz, result.json, statement.txt, ledger.sqlite, checkpoints"
        )
