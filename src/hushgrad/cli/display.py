"""What a training run shows: the facts before, a bar while it lasts, the statement after."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from hushgrad import training
from hushgrad.callbacks import ProgressBar
from hushgrad.mechanism import Mechanism

__all__ = ["Display"]


class Display:
    """The words around a run.

    Attributes:
      bar: a callback for `hg.train`.
    """

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._console = Console(highlight=False, soft_wrap=True)
        self.bar = ProgressBar(self._console)

    def introduce(self, name: str, directory: Path, *remarks: str) -> None:
        """Says what is about to run."""
        m = self._mechanism
        self._console.print(
            f"Training on {name}: {m.examples:,} examples, {m.steps:,} steps of about "
            f"{m.batch_size} examples,\nclip {m.clip.sensitivity:g}, noise multiplier "
            f"{m.noise_multiplier:.4g}, epsilon {m.epsilon():.4g} at delta {m.delta:g}.\n"
            f"Run directory: {directory}\n"
            "* The loss carries no noise: it is for your eyes, not for publication."
        )
        for remark in remarks:
            self._console.print(remark)

    def conclude(self, run: training.Run, score: str, statement: str, *files: str) -> None:
        """Score, statement and where everything is."""
        if not self.bar.began:
            self._console.print(
                "This run is complete; nothing was trained and nothing spent. To train anew, "
                "and spend anew, name another --directory."
            )
        self._console.print(f"\n{score}\n")
        self._console.print(statement)
        self._console.print(
            f"\nWritten to {run.directory}:\n"
            f"{', '.join(['params.npz', *files, 'result.json', 'statement.txt', 'ledger.sqlite'])}"
            ", checkpoints"
        )
