"""How exposed each single example is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from hushgrad._check import whole
from hushgrad.audit.bounds import as_scores
from hushgrad.audit.outputs import Outputs
from hushgrad.errors import InputError

__all__ = ["RiskRow", "RiskScores", "privacy_risk_score"]

_SMALLEST = 1e-10
_THRESHOLDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclasses.dataclass(frozen=True)
class RiskRow:
    """An attacker who accuses everybody of this risk or more.

    Attributes:
      threshold: the risk.
      precision: share of members among the accused.
      recall: share of the members that are accused.
    """

    threshold: float
    precision: float
    recall: float


@dataclasses.dataclass(frozen=True, eq=False)
class RiskScores:
    """The posterior probability that an example is a member, from its loss alone.

    Attributes:
      members: of each member, in their order.
      non_members: of each non-member.
    """

    members: Float[np.ndarray, " m"]
    non_members: Float[np.ndarray, " n"]

    def table(self, thresholds: Sequence[float] = _THRESHOLDS) -> tuple[RiskRow, ...]:
        """Precision and recall by threshold; without those that nobody reaches."""
        rows = []
        for threshold in thresholds:
            found = int(np.sum(self.members >= threshold))
            taken = int(np.sum(self.non_members >= threshold))
            if found + taken:
                rows.append(
                    RiskRow(float(threshold), found / (found + taken), found / len(self.members))
                )
        return tuple(rows)

    def most_exposed(self, count: int = 10) -> list[int]:
        """Rows of the members with the largest risk, the largest first."""
        return np.argsort(-self.members, kind="stable")[: whole("count", count)].tolist()


def privacy_risk_score(
    members: Outputs | ArrayLike, non_members: Outputs | ArrayLike, bins: int = 15
) -> RiskScores:
    """How sure an attacker is of each example, who held membership for as likely as not.

    ```python
    risk = hg.audit.privacy_risk_score(members, others)
    risk.most_exposed(5), risk.table()
    ```

    Song and Mittal 2021 (arXiv 2003.10595), as TensorFlow Privacy's membership probability: the
    share of members' losses in a bin over that of both, in bins of equal width on a log
    scale. The bins are counted on the same examples, so that rare losses look more telling
    than they are: it ranks examples and proves nothing of the model. Scores are un-noised and
    belong to single people: see `reidentification`.

    Args:
      members: outputs, of which the loss is taken, or else the entropy; or one value of zero or
        more for each example.
      non_members: the same of others.
      bins: how many.

    Raises:
      InputError: if a value is negative or NaN, or there are none.
    """
    inside, outside = _values("members", members), _values("non_members", non_members)
    count = whole("bins", bins)
    both = np.concatenate([inside, outside])
    edges = np.geomspace(both.min(), both.max(), count + 1)
    # Rounding must put nobody outside.
    places = [
        np.clip(np.searchsorted(edges, side, side="right") - 1, 0, count - 1)
        for side in (inside, outside)
    ]
    shares = [np.bincount(place, minlength=count) / len(place) for place in places]
    total = shares[0] + shares[1]
    risk = np.divide(shares[0], total, out=np.zeros(count), where=total > 0)
    return RiskScores(risk[places[0]], risk[places[1]])


def _values(name: str, side: Outputs | ArrayLike) -> Float[np.ndarray, " n"]:
    if isinstance(side, Outputs):
        has_loss = side.losses is not None or side.labels is not None
        side = side.loss if has_loss else side.entropy
    values = as_scores(name, side)
    if values.min() < 0 or not np.isfinite(values).all():
        raise InputError(
            f"{name} must have losses or entropies of zero or more, finite, got "
            f"{values.min():g} to {values.max():g}"
        )
    return np.maximum(values, _SMALLEST)
