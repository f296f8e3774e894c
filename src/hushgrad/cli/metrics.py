"""What the commands that train write down while they do, for `hushgrad report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hushgrad.callbacks import JsonLines
from hushgrad.report.metrics import METRICS

__all__ = ["METRICS", "metrics_of"]

# Lines and scores of a run: enough for a curve, and few enough not to be felt.
_LINES, _SCORES = 50, 20


def metrics_of(
    directory: Path,
    steps: int,
    score: Callable[[Any], float] | None = None,
    *,
    public: bool = False,
) -> JsonLines:
    """A callback that logs a run into its own directory, for the owner alone.

    Args:
      directory: of the run.
      steps: that it has.
      score: parameters -> accuracy on test data, if there are such.
      public: whether these are public.
    """
    return JsonLines(
        directory / METRICS,
        every=max(1, steps // _LINES),
        score=score,
        public=None if score is None else public,
        score_every=max(1, steps // _SCORES),
    )
