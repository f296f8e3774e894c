"""What the canaries of a run showed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from hushgrad.audit.one_run import OneRun, one_run
from hushgrad.audit.roc import Roc
from hushgrad.errors import InputError
from hushgrad.mechanism import Plan
from hushgrad.training.planting import RESULT

if TYPE_CHECKING:
    from hushgrad.audit.canaries import Canaries

__all__ = ["CanariesFound"]


@dataclasses.dataclass(frozen=True, eq=False)
class CanariesFound:
    """What a run gave away of its canaries. Not private.

    ```python
    print(run.audit)
    run.audit.epsilon, run.audit.promised, run.audit.exceeded
    ```

    Attributes:
      kind: what the canaries were.
      scores: of each; higher where it seems to have been there.
      included: whether it was.
      proved: what that proves: see `OneRun`.
      promised: the epsilon that the run's mechanism promises at the same delta.
    """

    kind: str
    scores: Float[np.ndarray, " canaries"]
    included: Bool[np.ndarray, " canaries"]
    proved: OneRun
    promised: float

    @classmethod
    def of(
        cls, canaries: Canaries, scores: np.ndarray, included: np.ndarray, promise: Plan
    ) -> CanariesFound:
        """From the scores that a run of this mechanism left."""
        scores = np.asarray(scores, float)
        proved = one_run(
            scores,
            included,
            delta=promise.delta,
            confidence=canaries.confidence,
            promise=promise,
        )
        return cls(canaries.kind, scores, included, proved, promise.epsilon())

    @property
    def epsilon(self) -> float:
        """At least so much was spent, with `proved.confidence`."""
        return self.proved.epsilon

    @property
    def exceeded(self) -> bool:
        """Whether more was given away than promised, with `proved.confidence`.

        That is what `proved.refuted` says: to hold `epsilon` against the promise, too, would be
        another chance to be wrong.
        """
        return bool(self.proved.refuted)

    @property
    def roc(self) -> Roc:
        """How well the scores tell canaries that were in from those that were not."""
        return Roc.of(self.scores[self.included], self.scores[~self.included])

    def __str__(self) -> str:
        p = self.proved
        verdict = "the promise does NOT hold" if self.exceeded else "the promise was not refuted"
        lines = [
            f"{p.canaries:,} canaries of kind {self.kind!r}, {self.included.sum():,} of them in; "
            f"{p.correct:,} of {p.guesses:,} guesses right.",
            f"At delta = {p.delta:g}, with {100 * p.confidence:g} % confidence:",
            f"    epsilon >= {p.epsilon:.3f}   whatever the mechanism",
            f"    epsilon >= {p.epsilon_trade_off:.3f}   if its trade-off is like a Gaussian's",
            f"    epsilon <= {self.promised:.3f}   was promised: {verdict}",
            "Not private: made from who was there.",
        ]
        return "\n".join(lines)

    def to_dict(self, *, per_canary: bool = False) -> dict[str, Any]:
        """All of it as plain data.

        Args:
          per_canary: also every canary's score and whether it was in.
        """
        plain: dict[str, Any] = {
            "kind": self.kind,
            "promised": self.promised,
            "exceeded": self.exceeded,
            "proved": self.proved.to_dict(),
        }
        if per_canary:
            plain |= {"scores": self.scores.tolist(), "included": self.included.tolist()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CanariesFound:
        """What `to_dict(per_canary=True)` wrote."""
        return cls(
            plain["kind"],
            np.array(plain["scores"], float),
            np.array(plain["included"], bool),
            OneRun(**plain["proved"]),
            plain["promised"],
        )

    @classmethod
    def load(cls, directory: str | Path) -> CanariesFound:
        """What the run in a directory found.

        Raises:
          InputError: if there is no such run, or it had no canaries.
        """
        file = Path(directory).expanduser() / RESULT
        try:
            return cls.from_dict(json.loads(file.read_text()))
        except FileNotFoundError as error:
            raise InputError(
                f"{str(directory)!r} has no {RESULT}: train with "
                "hg.train(..., audit=hg.audit.Canaries(1000)), and to the end"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} cannot be read ({error}): call hg.train again") from error
