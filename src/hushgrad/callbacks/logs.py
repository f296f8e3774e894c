"""Logs of a run: lines of JSON, and TensorBoard's files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.training import Progress

__all__ = ["JsonLines", "TensorBoard"]


class JsonLines:
    """One line of JSON for every so many steps: what was spent, and what is unprotected.

    Args:
      file: where to write. Several runs may write to one file, each line says whose it is;
        lines of steps that are repeated after a crash are replaced.
      every: steps between two lines; reading the numbers waits for the device.
    """

    def __init__(self, file: str | Path, *, every: int = 10) -> None:
        self._file, self._every = Path(file).expanduser(), whole("every", every)
        self._run = ""

    def begin(self, directory: Path, start: int, params: PyTree) -> None:
        """Takes away the run's lines of steps after `start`."""
        self._run = str(directory)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        kept = [line for line in lines if not self._is_repeated(line, start)]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("".join(line + "\n" for line in kept))

    def __call__(self, progress: Progress) -> None:
        """Writes a line, if it is time to."""
        if progress.step % self._every and progress.step != progress.steps:
            return
        with self._file.open("a") as stream:
            stream.write(json.dumps({"run": self._run, **_facts(progress)}) + "\n")

    def _is_repeated(self, line: str, start: int) -> bool:
        try:
            facts = json.loads(line)
        except ValueError:
            return True  # half written, and so of a step that was not saved
        ours = isinstance(facts, dict) and facts.get("run") == self._run
        return ours and facts["step"] > start


class TensorBoard:
    """Scalars for TensorBoard: `privacy/...`, and `unprotected/...` which carry no noise.

    Takes the extra `tensorboard`.

    Args:
      folder: where to write.
      every: steps between two points; reading the numbers waits for the device.

    Raises:
      InputError: if tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path, *, every: int = 10) -> None:
        try:
            import tensorboardX
        except ModuleNotFoundError as error:
            raise InputError(
                "TensorBoard logs need tensorboardX: pip install 'hushgrad[tensorboard]'"
            ) from error
        self._every = whole("every", every)
        self._open = lambda start: tensorboardX.SummaryWriter(
            str(Path(folder).expanduser()), purge_step=start + 1
        )
        self._writer: Any = None

    def begin(self, directory: Path, start: int, params: PyTree) -> None:
        """Opens the log; points of steps that are repeated replace those before."""
        self._writer = self._open(start)

    def __call__(self, progress: Progress) -> None:
        """Writes points, if it is time to."""
        if progress.step % self._every and progress.step != progress.steps:
            return
        facts = _facts(progress)
        for name, value in facts.pop("unprotected").items():
            if value is not None:
                self._writer.add_scalar(f"unprotected/{name}", value, progress.step)
        self._writer.add_scalar("privacy/epsilon", facts["epsilon"], progress.step)

    def end(self) -> None:
        """Writes what is left."""
        self._writer.close()


def _facts(progress: Progress) -> dict[str, Any]:
    loss = progress.unprotected_loss
    return {
        "step": progress.step,
        "epsilon": progress.epsilon(),
        "delta": progress.mechanism.delta,
        "unprotected": {
            "loss": loss if math.isfinite(loss) else None,
            "clipped": progress.unprotected_clipped,
            "nonfinite": progress.unprotected_nonfinite,
        },
    }
