"""Canaries: places in the training data that tell afterwards what a run gives away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from hushgrad._check import fraction, whole
from hushgrad.audit import dirac, records
from hushgrad.audit.one_run import fewest
from hushgrad.errors import InputError
from hushgrad.mechanism import Plan
from hushgrad.training.data import Source
from hushgrad.training.planting import Planted
from hushgrad.training.secret import RunSecret

__all__ = ["KINDS", "Canaries"]

# What a canary is: how its chance is drawn, and how it is put into a run.
KINDS = {
    "gradient": (dirac.draw, dirac.plant),
    "rows": (records.draw_rows, records.plant),
    "mislabelled": (records.draw_mislabelled, records.plant),
    "input": (records.draw_inputs, records.plant),
}
# With fewer, all coins may well fall the same way, which shows nothing.
_FEWEST = 32
# Rows that one canary takes: its own, and those that it is made of; and rows are left to learn of.
_ROWS = {"gradient": 2, "rows": 1, "mislabelled": 2, "input": 3}


@dataclasses.dataclass(frozen=True)
class Canaries:
    """Audits a run from inside: `hg.train(..., audit=hg.audit.Canaries(1000))`.

    ```python
    run = hg.train(loss, params, data, m, ..., audit=hg.audit.Canaries(1000))
    print(run.audit)            # at least so much was spent, with 95 % confidence
    ```

    Canaries take the place of as many rows of the data, drawn at random, so the mechanism and
    its cost stay as they are. A fair coin says for each whether it is there or its place is
    empty. After the run each has a score, and `hushgrad.audit.one_run` says what the scores prove
    (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846). What was drawn and found is kept in the
    run's directory for its owner alone: it is not private.

    Attributes:
      count: how many there are. More prove more: 1,000 can show no more than about 5.
      kind: "gradient": gradients of one coordinate each, as long as the clip lets through, watched
        in every released step: the strongest, at hardly any cost ("Dirac canaries", Nasr et al.
        2023, arXiv 2302.07956). "rows": the rows as they are, half of them left out, watched by
        how far their loss fell. "mislabelled": rows with the label (the last argument of the loss)
        of another. "input": rows mixed with another, value by value, with the label of a third.
        Others that lend to a canary lend to it alone and are left out, so that nobody has a part
        in two rows.
      confidence: of what is found, in (0, 1).

    Raises:
      InputError: if there are fewer than 32, too few for so much confidence, or the kind is none
        of these.
    """

    count: int
    kind: str = "gradient"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("count", self.count, at_least=_FEWEST))
        object.__setattr__(self, "confidence", fraction("confidence", self.confidence))
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        # Before the run, not when it is over.
        least = fewest(self.count, self.confidence)
        if self.count < least:
            raise InputError(
                f"count must be at least {least} for confidence {self.confidence:g}, or all right "
                f"guesses could be luck, got {self.count}"
            )

    def to_dict(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {"kind": self.kind, "canaries": self.count}

    def draw(
        self, source: Source, mechanism: Plan, params: PyTree[Array], secret: RunSecret
    ) -> dict[str, Any]:
        """Places, coins, and what else is left to chance.

        Raises:
          InputError: if the data or the parameters are too few for so many canaries.
        """
        most = source.size // _ROWS[self.kind]
        if self.count > most:
            raise InputError(
                f"audit has {self.count:,} canaries for {source.size:,} rows of data: take at most "
                f"{most:,}, for they take the place of rows"
            )
        rng = secret.generator("canaries", 0)
        places = np.sort(rng.choice(source.size, self.count, replace=False))
        included = rng.random(self.count) < 0.5
        drawn = {"places": places.tolist(), "included": included.tolist()}
        return drawn | KINDS[self.kind][0](source, mechanism, params, places, rng)

    def plant(
        self,
        drawn: dict[str, Any],
        given: Planted,
        loss: Callable[..., Any],
        mechanism: Plan,
        params: PyTree[Array],
    ) -> Planted:
        """The run with the canaries in it."""
        planted = KINDS[self.kind][1](self, drawn, given, loss, mechanism, params)
        return dataclasses.replace(planted, audit=self.to_dict())
