"""The curve of an attack's true positives over its false positives."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from hushgrad._check import fraction
from hushgrad.audit.bounds import as_scores, clopper_pearson
from hushgrad.errors import InputError

__all__ = ["Roc"]


@dataclasses.dataclass(frozen=True, eq=False)
class Roc:
    """How many members an attack finds, by how many others it takes for members.

    ```python
    roc = hg.audit.Roc.of(-member_losses, -other_losses)
    roc.auc, roc.auc_interval(0.95), roc.true_positives_at(0.001)
    ```

    One point for each threshold, from the highest to the lowest: whoever scores it or more is
    taken for a member.

    Attributes:
      thresholds: infinity, then every score that occurs, from above.
      false_positives: share of the non-members taken for members.
      true_positives: share of the members.
      members: how many there are.
      non_members: how many there are.
    """

    thresholds: Float[np.ndarray, " points"]
    false_positives: Float[np.ndarray, " points"]
    true_positives: Float[np.ndarray, " points"]
    members: int
    non_members: int

    @classmethod
    def of(cls, members: ArrayLike, non_members: ArrayLike) -> Roc:
        """The curve of two arrays of scores, higher where the attack tends to "member".

        Raises:
          InputError: if there are no scores, or one is NaN.
        """
        inside, outside = as_scores("members", members), as_scores("non_members", non_members)
        scores = np.concatenate([inside, outside])
        order = np.argsort(scores)[::-1]
        scores, is_member = scores[order], order < len(inside)
        # Only after the last of equal scores there is a point.
        last = np.append(scores[1:] != scores[:-1], True)
        found = np.cumsum(is_member)[last]
        taken = np.flatnonzero(last) + 1 - found
        return cls(
            np.append(np.inf, scores[last]),
            np.append(0.0, taken / len(outside)),
            np.append(0.0, found / len(inside)),
            len(inside),
            len(outside),
        )

    @property
    def auc(self) -> float:
        """Chance that a member scores above a non-member; equal scores count half."""
        heights = (self.true_positives[1:] + self.true_positives[:-1]) / 2
        return float(np.sum(heights * np.diff(self.false_positives)))

    @property
    def advantage(self) -> float:
        """The most that true positives exceed false positives (Yeom et al. 2018, 1709.01604)."""
        return float(np.max(self.true_positives - self.false_positives))

    @property
    def positive_predictive_value(self) -> float:
        """The largest share of members among those taken for such, over all thresholds.

        Of as many members and others as there are here. Where the highest score is a member's
        it is 1, if only one is found.
        """
        found = self.true_positives[1:] * self.members
        taken = self.false_positives[1:] * self.non_members
        return float(np.max(found / (found + taken)))

    def true_positives_at(self, false_positives: float) -> float:
        """Share of the members found where at most this share of the others is accused.

        Raises:
          InputError: if the share is not in [0, 1].
        """
        return float(self.true_positives[self._place(false_positives)])

    def threshold_at(self, false_positives: float) -> float:
        """The lowest threshold at which at most this share of non-members is accused."""
        return float(self.thresholds[self._place(false_positives)])

    def auc_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Both ends of an interval that holds the AUC of the population.

        DeLong, DeLong and Clarke-Pearson 1988, cut to [0, 1]. Where their variance is
        zero, as for perfect separation, or has no meaning, as for one example: the interval of
        Clopper and Pearson for as many independent pairs of a member and another as there are.

        Args:
          confidence: in (0, 1); approximate for DeLong's, at least this for the other.
        """
        fraction("confidence", confidence)
        auc, error = self.auc, math.sqrt(self._auc_variance())
        if not error > 1e-9:
            pairs = min(self.members, self.non_members)
            return _both(auc * pairs, pairs, confidence)
        from scipy import stats

        reach = float(stats.norm.isf((1 - confidence) / 2)) * error
        return max(0.0, auc - reach), min(1.0, auc + reach)

    def true_positives_interval(
        self, false_positives: float, confidence: float = 0.95
    ) -> tuple[float, float]:
        """Both ends of Clopper and Pearson's interval around `true_positives_at`.

        For the threshold that was found, as if it had been given: how many non-members
        are above it is uncertain too, and that is not in it.
        """
        share = self.true_positives_at(false_positives)
        return _both(float(round(share * self.members)), self.members, confidence)

    def advantage_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Both ends of an interval that holds the advantage in the population.

        Valid for any distribution and sample size: both shares are off by no more than
        sqrt(log(4 / (1 - confidence)) / (2 n)) at any threshold (Dvoretzky, Kiefer and Wolfowitz
        1956; Massart 1990), one half of the risk for each side, and so is their largest difference
        by the sum.
        """
        alpha = 1 - fraction("confidence", confidence)
        reach = sum(
            math.sqrt(math.log(4 / alpha) / (2 * n)) for n in (self.members, self.non_members)
        )
        return max(0.0, self.advantage - reach), min(1.0, self.advantage + reach)

    def _place(self, false_positives: float) -> int:
        if not 0 <= false_positives <= 1:
            raise InputError(f"false_positives must lie in [0, 1], got {false_positives!r}")
        # Shares are fractions: 0.1 is to allow three of thirty.
        most = math.floor(false_positives * self.non_members + 1e-9)
        counts = np.round(self.false_positives * self.non_members)
        return int(np.searchsorted(counts, most, side="right")) - 1

    def _auc_variance(self) -> float:
        """Of the members' and of the non-members' places among each other."""
        if min(self.members, self.non_members) < 2:
            return 0.0
        member_share, other_share = np.diff(self.true_positives), np.diff(self.false_positives)
        # Share of the others below a member's score, and of the members above another's.
        below = 1 - self.false_positives[1:] + other_share / 2
        above = self.true_positives[:-1] + member_share / 2
        auc, total = self.auc, 0.0
        sides = (below, member_share, self.members), (above, other_share, self.non_members)
        for places, shares, count in sides:
            total += float(np.sum(shares * (places - auc) ** 2)) / (count - 1)
        return total


def _both(successes: float, trials: int, confidence: float) -> tuple[float, float]:
    """An interval with the same risk at either end."""
    low, high = clopper_pearson(successes, trials, (1 + fraction("confidence", confidence)) / 2)
    return float(low), float(high)
