"""Scores on a validation set: the best parameters are kept, and a run may stop early."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from jaxtyping import PyTree

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.training import Progress, StopTraining
from hushgrad.training.checkpoint import Kept

__all__ = ["Validation"]


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
        It must not look at the training data, whose scores would carry no noise.
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
