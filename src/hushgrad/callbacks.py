"""What a run may do after its steps: keep score, write logs.

Each is given to `hg.train(callback=...)`, alone or in a list; any function of the progress
may stand beside them, and any object that is one with `begin(directory, start, params)` or
`end()` too. Whatever carries no noise is
marked as unprotected where it is written: it is for those who hold the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.training import Progress, StopTraining
from hushgrad.training.checkpoint import Kept

__all__ = ["JsonLines", "TensorBoard", "Validation"]


class Validation:
    """Scores the parameters on a validation set, keeps the best, and may stop the run.

    ```python
    best = hg.callbacks.Validation(accuracy, public=False, every=100, patience=5)
    run = hg.train(..., callback=best)
    best.params, best.score, best.step
    ```

    The scores carry no noise. That does not touch what is promised to those in the training
    data, since parameters are released anyway; but where the validation set is private, its
    own people are promised nothing, and the run's statement says so.

    Args:
      score: parameters -> number, larger is better. Of the moving average, if one is kept.
      public: the validation set is public.
      every: steps between two scores; the last step is always scored.
      patience: the run ends when so many scores in a row were no better; never by default.

    Attributes:
      params: those with the best score.
      score, step: their score, and after which step they were.
      history: all steps and scores, in order.
    """

    def __init__(
        self,
        score: Callable[[PyTree], float],
        *,
        public: bool,
        every: int,
        patience: int | None = None,
    ) -> None:
        if not callable(score):
            raise InputError(f"score must be a function of the parameters, got {score!r}")
        if not isinstance(public, bool):
            raise InputError(f"public must be True or False, got {public!r}")
        self._score, self._every = score, whole("every", every)
        self._patience = math.inf if patience is None else whole("patience", patience)
        self.validation_set = "public" if public else "private"
        self.params: PyTree | None = None
        self.score, self.step = -math.inf, 0
        self.history: list[tuple[int, float]] = []

    def begin(self, directory: Path, start: int, params: PyTree) -> None:
        """Takes up what an interrupted run had kept, up to the step it goes on from."""
        self._kept = Kept(directory / "best")
        file = directory / "validation.json"
        self._file = file
        self.params, self.score, self.step, self.history = None, -math.inf, 0, []
        if file.exists():
            scores = [(int(s), float(v)) for s, v in json.loads(file.read_text())]
            self.history = [(s, v) for s, v in scores if s <= start]
        for step, score in self.history:
            if score > self.score:
                self.score, self.step = score, step
        if self.step:
            # Should the one kept be of a later step, that step will be repeated and kept again.
            self.params = self._kept.restore(params)

    def __call__(self, progress: Progress) -> None:
        """Scores, if it is time to.

        Raises:
          StopTraining: if patience is at its end.
        """
        if progress.step % self._every and progress.step != progress.steps:
            return
        params = progress.params if progress.average is None else progress.average
        score = float(self._score(params))
        self.history.append((progress.step, score))
        if score > self.score:
            self.params, self.score, self.step = params, score, progress.step
            self._kept.save(params)
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self.history))
        part.replace(self._file)
        worse = [step for step, _ in self.history if step > self.step]
        if len(worse) >= self._patience:
            raise StopTraining


class JsonLines:
    """One line of JSON for every so many steps: what was spent, and what is unprotected.

    Args:
      file: where to write; lines of steps that are repeated after a crash are replaced.
      every: steps between two lines; reading the numbers waits for the device.
    """

    def __init__(self, file: str | Path, *, every: int = 10) -> None:
        self._file, self._every = Path(file).expanduser(), whole("every", every)

    def begin(self, directory: Path, start: int, params: PyTree) -> None:
        """Leaves the lines of the steps before `start`."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        # A line that was half written is of a step that is repeated.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("".join(line + "\n" for line in kept))

    def __call__(self, progress: Progress) -> None:
        """Writes a line, if it is time to."""
        if progress.step % self._every and progress.step != progress.steps:
            return
        with self._file.open("a") as stream:
            stream.write(json.dumps(_facts(progress)) + "\n")


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
