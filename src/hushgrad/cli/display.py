"""What a training run shows: the facts before, a bar while it lasts, the statement after."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from hushgrad import training
from hushgrad.callbacks import ProgressBar
from hushgrad.mechanism import Mechanism

__all__ = ["Display"]


class Display:
    """The words around a run.

    Attributes:
      bar: a callback for `hg.train`.

    Args:
      mechanism: of the run.
      as_json: the result goes to the standard output as JSON, all else to the standard error.
    """

    def __init__(self, mechanism: Mechanism, as_json: bool = False) -> None:
        self._mechanism, self._as_json = mechanism, as_json
        # With --json the standard output is for machines alone.
        self._console = Console(highlight=False, soft_wrap=True, stderr=as_json)
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
        """Score, statement and where everything is; with --json, `result.json` as it stands."""
        if self._as_json:
            result = json.loads((run.directory / "result.json").read_text())
            told = {"directory": str(run.directory), **result}
            if run.audit is not None:
                told["audit"] = run.audit.to_dict()
            typer.echo(json.dumps(told, indent=2))
            return
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
            ",\nmetrics.jsonl (no noise: not for publication), checkpoints"
        )
        if run.audit is not None:
            self._console.print(f"\n{run.audit}")
