"""`hg.train` gives a run; while it lasts it tells how far it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hushgrad import accounting
from hushgrad.errors import InputError
from hushgrad.mechanism import Plan
from hushgrad.noise import Chosen
from hushgrad.training.step import Sums
from hushgrad.training.team import Team, whole

__all__ = ["Progress", "Run", "StopTraining"]


class StopTraining(Exception):
    """Raised by a callback: the run ends after this step, as a finished one.

    When to stop may follow from what is released, or from other data than the run's; not
    from its un-noised losses, which would tell more than the statement says.
    """


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      params: the trained parameters; safe to publish under the statement. Where several
        processes made them each may have a part: `export` writes them whole.
      mechanism: what ran.
      steps: how many steps were charged and released.
      directory: where its ledger and checkpoints are.
      seeded: its secrets came from a seed, so it is not private from whoever knows it.
      average: the moving average of the parameters, if one was kept; as safe to publish.
      validation: "public" or "private", if such a set chose parameters or when to stop.
      audit: what `hg.train(audit=...)` measured, if it did; not private.
    """

    params: PyTree[Array]
    mechanism: Plan
    steps: int
    directory: Path
    seeded: bool
    average: PyTree[Array] | None = None
    validation: str | None = None
    audit: Any = None

    @property
    def epsilon(self) -> float:
        """What was spent, at the mechanism's delta (PLD)."""
        return self.mechanism.epsilon(steps=self.steps)

    def export(self, file: str | Path, *, average: bool = False) -> Path:
        """Writes the parameters as safetensors, with the statement in the file's metadata.

        Where several processes made the run, all call this, and the first of them writes.

        Args:
          file: where to; `hushgrad` is not needed to read it. Names are the parameters'
            paths, joined by dots.
          average: the moving average in place of the last parameters.

        Raises:
          InputError: if there is no average, or the parameters' names are not distinct.
        """
        from safetensors.numpy import save_file

        if average and self.average is None:
            raise InputError("average=True needs a run with hg.Options(average=...)")
        params = self.average if average else self.params
        arrays: dict[str, np.ndarray] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            name = ".".join(_part(key) for key in path) or "params"
            if name in arrays:
                raise InputError(f"two parameters are called {name!r}; rename one")
            arrays[name] = np.ascontiguousarray(whole(leaf))
        facts = accounting.statement_facts(
            self.mechanism, steps=self.steps, seeded=self.seeded, validation=self.validation
        )
        file = Path(file).expanduser()
        metadata = {
            "format": "np",
            "privacy_statement": self.statement(),
            "privacy_facts": json.dumps(facts, sort_keys=True),
        }

        def write() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(arrays, file, metadata)

        Team().first(write)
        return file

    def statement(self) -> str:
        """What the run promises, to whom and against what, in plain words."""
        return accounting.statement(
            self.mechanism, steps=self.steps, seeded=self.seeded, validation=self.validation
        )


def _part(key: Any) -> str:
    """One part of a path: a name, an attribute or a number."""
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback sees after each step.

    The numbers named `unprotected_...` carry no noise: they are for the eyes of
    those who hold the data, and publishing them is not covered by the guarantee.
    Reading one waits for the device.

    Attributes:
      step: how many steps have been made.
      mechanism: what runs.
      params: after the step; safe to publish under the statement.
      norm: what the next step clips to, where an adaptive clip moves it, else None;
        safe to publish, since it follows from counts with noise.
      unprotected_sums: of the step.
      average: the moving average of the parameters, if one is kept.
      chosen: how many rows sparse noise chose in the step, where it is that; safe to publish.
    """

    step: int
    mechanism: Plan
    params: PyTree[Array]
    norm: Float[Array, ""] | None
    unprotected_sums: Sums
    average: PyTree[Array] | None = None
    chosen: Chosen | None = None

    @property
    def steps(self) -> int:
        """How many steps the run has in all."""
        return self.mechanism.steps

    def epsilon(self) -> float:
        """Spent so far, at the mechanism's delta (PLD); takes some tens of milliseconds."""
        return self.mechanism.epsilon(steps=self.step)

    @property
    def unprotected_loss(self) -> float:
        """Mean loss of the step's batch before the update; NaN for an empty batch."""
        count = int(self.unprotected_sums.finite)
        return float(self.unprotected_sums.loss) / count if count else float("nan")

    @property
    def unprotected_examples(self) -> int:
        """How many examples were drawn whose loss was finite."""
        return int(self.unprotected_sums.finite)

    @property
    def unprotected_sum_norm(self) -> float:
        """Norm of the sum of clipped gradients before the noise.

        NaN where other processes hold parts of it.
        """
        grads = self.unprotected_sums.grads
        if isinstance(grads, tuple) and not self._is_shaped(grads):
            grads = grads[0]  # what an audit adds stands beside it
        if not self._is_shaped(grads):
            return float("nan")
        leaves = []
        for leaf in jax.tree.leaves(grads):
            if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                return float("nan")
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                leaves.append(leaf.addressable_data(0) if leaf.is_fully_replicated else leaf)
        return float(np.sqrt(sum(float(jnp.vdot(leaf, leaf)) for leaf in leaves)))

    def _is_shaped(self, grads: Any) -> bool:
        return jax.tree.structure(grads) == jax.tree.structure(self.params)

    @property
    def unprotected_clipped(self) -> int:
        """How many of the batch's finite gradients were clipped."""
        return int(self.unprotected_sums.clipped)

    @property
    def unprotected_nonfinite(self) -> int:
        """How many examples were left out because their gradient was not finite."""
        return int(self.unprotected_sums.nonfinite)
