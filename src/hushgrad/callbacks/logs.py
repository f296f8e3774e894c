"""Logs of a run: lines of JSON, and TensorBoard's files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.training import Progress

__all__ = ["JsonLines", "TensorBoard"]


class JsonLines:
    """One line of JSON for every so many steps: what was spent, and what is unprotected.

    ```python
    log = hg.callbacks.JsonLines("runs/mine/metrics.jsonl")
    run = hg.train(..., directory="runs/mine", callback=log)
    ```

    A report of the run (`hushgrad report runs/mine`) looks for `metrics.jsonl` in its directory.
    The file is made for its owner alone, since what is in it carries no noise.

    Args:
      file: where to write. Several runs may write to one file, each line says whose it is;
        lines of steps that are repeated after a crash are replaced.
      every: steps between two lines; reading the numbers waits for the device.
      score: parameters -> number, larger is better, on data that are not the run's: what it
        says of training data would carry no noise. Of the moving average, if one is kept.
      public: whether the data that `score` looks at are public; its people are promised nothing.
      score_every: steps between two scores, at which there is a line too; as `every` by default.

    Raises:
      InputError: if `score` is no function, or `public` does not say whose data it looks at.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        every: int = 10,
        score: Callable[[PyTree], float] | None = None,
        public: bool | None = None,
        score_every: int | None = None,
    ) -> None:
        self._file, self._every = Path(file).expanduser(), whole("every", every)
        if score is not None and not callable(score):
            raise InputError(f"score must be a function of the parameters, got {score!r}")
        if (score is None) != (public is None) or public not in (None, True, False):
            raise InputError(
                "public must be True or False where there is a score, and only there, to say "
                f"whether the data that it looks at are public, got {public!r}"
            )
        self._score, self._public = score, public
        self._score_every = self._every
        if score_every is not None:
            self._score_every = whole("score_every", score_every)
        self._run = ""

    def begin(self, directory: Path, start: int, params: PyTree) -> None:
        """Takes away the run's lines of steps after `start`."""
        self._run = str(directory)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        kept = [line for line in lines if not self._is_repeated(line, start)]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.touch(0o600)
        self._file.write_text("".join(line + "\n" for line in kept))

    def __call__(self, progress: Progress) -> None:
        """Writes a line, if it is time to."""
        step, last = progress.step, progress.step == progress.steps
        scored = self._score is not None and (last or step % self._score_every == 0)
        if not (scored or last or step % self._every == 0):
            return
        line = {"run": self._run, **_facts(progress)}
        if scored:
            line |= self._scored(progress)
        with self._file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def _scored(self, progress: Progress) -> dict[str, Any]:
        assert self._score is not None
        params = progress.params if progress.average is None else progress.average
        score = float(self._score(params))
        told = score if math.isfinite(score) else None
        return {"score": told, "score_set": "public" if self._public else "private"}

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
    return {
        "step": progress.step,
        "epsilon": progress.epsilon(),
        "delta": progress.mechanism.delta,
        "noise_norm": _finite(_noise_norm(progress)),
        "unprotected": {
            "loss": _finite(progress.unprotected_loss),
            "examples": progress.unprotected_examples,
            "clipped": progress.unprotected_clipped,
            "nonfinite": progress.unprotected_nonfinite,
            "sum_norm": _finite(progress.unprotected_sum_norm),
        },
    }


def _noise_norm(progress: Progress) -> float:
    """The norm that the step's noise on the sum has on average; follows from public numbers.

    NaN where the noise depends on other steps', or is on some rows alone. Of a clip that moves,
    it is for the norm of the step to come.
    """
    m = progress.mechanism.at(max(0, progress.step - 1))[0]
    if m.strategy.correlated or m.strategy.counts:
        return math.nan
    sizes = [x.size for x in jax.tree.leaves(progress.params) if _is_floating(x)]
    stddev = m.sum_noise_multiplier * float(m.clip.sensitivity_at(progress.norm))
    return stddev * math.sqrt(sum(sizes))


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
