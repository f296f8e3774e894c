"""Membership inference: can who sees a model's outputs tell who it was trained on?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hushgrad._check import fraction, whole
from hushgrad.audit.attackers import ATTACKS, Scores
from hushgrad.audit.bounds import LowerBound, epsilon_lower_bound, most_that_can_be_shown
from hushgrad.audit.outputs import Outputs
from hushgrad.audit.reidentification import warn_if_published
from hushgrad.audit.roc import Roc
from hushgrad.audit.slices import Slice, Slices, cut
from hushgrad.audit.tables import as_table
from hushgrad.errors import InputError

__all__ = ["Attack", "Membership", "membership"]

_SHARES = (0.01, 0.001)
_BY = ("auc", "advantage", "epsilon")
_SHARED = ("losses", "logits", "probabilities", "labels", "features")


@dataclasses.dataclass(frozen=True, eq=False)
class Attack:
    """One attack on one slice.

    Attributes:
      attack: its name in `hushgrad.audit.attackers.ATTACKS`.
      slice: the slice's name.
      members: how many there are in it.
      non_members: how many.
      roc: its curve.
      scores: of every example in the slice: un-noised, and of single people.
      bound: what it proves of epsilon, as the largest of all attacks and slices of the audit; None
        in a slice that the model chose (by loss or correctness), of which a promise says nothing.
      confidence: of the intervals, each by itself.
    """

    attack: str
    slice: str
    members: int
    non_members: int
    roc: Roc = dataclasses.field(repr=False)
    scores: Scores = dataclasses.field(repr=False)
    bound: LowerBound | None
    confidence: float

    @property
    def auc(self) -> float:
        """Area under its curve."""
        return self.roc.auc

    @property
    def advantage(self) -> float:
        """True less false positives, at the best threshold."""
        return self.roc.advantage

    @property
    def epsilon(self) -> float:
        """That it proves; zero without a bound."""
        return 0.0 if self.bound is None else self.bound.epsilon

    def to_dict(self, *, per_example: bool = False) -> dict[str, Any]:
        """All of it as plain data; with the scores of every example only if that is asked."""
        roc, confidence = self.roc, self.confidence
        found: dict[str, Any] = {
            "attack": self.attack,
            "slice": self.slice,
            "members": self.members,
            "non_members": self.non_members,
            "auc": roc.auc,
            "auc_interval": list(roc.auc_interval(confidence)),
            "advantage": roc.advantage,
            "advantage_interval": list(roc.advantage_interval(confidence)),
            "positive_predictive_value": roc.positive_predictive_value,
            "true_positives": {
                f"{share:g}": {
                    "share": roc.true_positives_at(share),
                    "interval": list(roc.true_positives_interval(share, confidence)),
                }
                for share in _SHARES
            },
            "bound": None if self.bound is None else self.bound.to_dict(),
        }
        if per_example:
            found["member_scores"] = self.scores.members.tolist()
            found["non_member_scores"] = self.scores.non_members.tolist()
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Membership:
    """What all attacks found on all slices. Computed from private data, without noise.

    Attributes:
      attacks: one result for each attack and slice.
      left_out: slices that were too small, as "name (members, non-members)".
      members: how many were given.
      non_members: how many were given.
      confidence: of every interval by itself, and of the largest epsilon of all.
      delta: of the epsilons.
      most: the largest epsilon that these many examples could have shown.
    """

    attacks: tuple[Attack, ...]
    left_out: tuple[str, ...]
    members: int
    non_members: int
    confidence: float
    delta: float
    most: float

    @property
    def epsilon(self) -> float:
        """The largest that was proved: the confidence holds although it is the largest."""
        return max(attack.epsilon for attack in self.attacks)

    def worst(self, by: str = "auc") -> Attack:
        """The attack and slice that find most.

        Args:
          by: "auc", "advantage" or "epsilon".

        Raises:
          InputError: if `by` is none of these.
        """
        if by not in _BY:
            raise InputError(f"by must be one of {', '.join(_BY)}, got {by!r}")
        return max(self.attacks, key=lambda attack: getattr(attack, by))

    def exceeds(self, promised_epsilon: float) -> bool:
        """Whether more was found than a promise of this epsilon, at `delta`, allows.

        False proves nothing: there are better attacks.
        """
        if not promised_epsilon >= 0:
            raise InputError(f"promised_epsilon must be zero or more, got {promised_epsilon!r}")
        return self.epsilon > promised_epsilon

    def table(self) -> str:
        """Every attack in a line of at most 80 columns, and what they prove."""
        return as_table(self)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self, *, per_example: bool = False) -> dict[str, Any]:
        """All of it as plain data, which JSON can hold.

        Args:
          per_example: also every example's scores, with a warning of whom they single out.
        """
        if per_example:
            for side in ("members", "non_members"):
                scores = np.stack([getattr(a.scores, side) for a in self._entire()], axis=1)
                warn_if_published(scores, f"scores of {side}")
        return {
            "attacks": [attack.to_dict(per_example=per_example) for attack in self.attacks],
            "left_out": list(self.left_out),
            "members": self.members,
            "non_members": self.non_members,
            "confidence": self.confidence,
            "delta": self.delta,
            "epsilon": self.epsilon,
            "most": self.most,
        }

    def _entire(self) -> list[Attack]:
        """Results of the first slice, whose scores can stand side by side."""
        return [attack for attack in self.attacks if attack.slice == self.attacks[0].slice]


def membership(
    members: Outputs,
    non_members: Outputs,
    *,
    attacks: Sequence[str] | None = None,
    slices: Slices | None = None,
    confidence: float = 0.95,
    delta: float = 1e-5,
    seed: int = 0,
    balanced: bool = True,
) -> Membership:
    """Attacks a model through its outputs, and says how well that went.

    ```python
    members = hg.audit.Outputs(logits=model(x_train), labels=y_train)
    others = hg.audit.Outputs(logits=model(x_test), labels=y_test)
    found = hg.audit.membership(members, others, attacks=["threshold", "logistic"])
    print(found)
    found.exceeds(promised_epsilon=m.epsilon())
    ```

    Non-members must come from the same population as members: else the attacks find the
    difference between the populations. Trained attacks are cross-fitted in two halves: each
    example is scored by an attacker that did not see it, and epsilon is proved by each half by
    itself. Epsilon is corrected for all thresholds, directions, halves, attacks and slices; it
    takes scores for independent, as `epsilon_lower_bound` says.

    Args:
      members: outputs for examples that the model was trained on.
      non_members: the same fields, for others.
      attacks: of "threshold" (loss), "entropy", "logistic", "forest", "neighbours" and "mlp"; by
        default the first two, as far as the outputs allow: without predictions the first.
      slices: parts to attack by themselves; by default all examples together.
      confidence: in (0, 1).
      delta: in [0, 1), of the promise that is audited.
      seed: of the halves and of the trained attacks.
      balanced: trains attacks on as many members as non-members; the others are scored too.

    Raises:
      InputError: if the two sides do not hold the same fields, or not what an attack needs.
    """
    fraction("confidence", confidence)
    _check_pair(members, non_members)
    names = _names(attacks, members)
    parts = cut(slices or Slices(), members, non_members)
    fewest = (slices or Slices()).fewest
    large = [part for part in parts if part.name == "all" or min(_counts(part)) >= fewest]
    left_out = [f"{part.name} {_counts(part)}" for part in parts if part not in large]
    if not large:
        raise InputError(
            f"slices must hold {fewest} members and non-members at least, got "
            f"{', '.join(left_out)}; set a smaller `fewest`, or entire=True"
        )
    # How many epsilons there are of which the largest is quoted.
    tries = sum(part.fixed for part in large) * sum(ATTACKS[name].folds for name in names)
    results = []
    for part in large:
        sides = members.take(part.members), non_members.take(part.non_members)
        for name in names:
            scores = ATTACKS[name].score(*sides, whole("seed", seed, at_least=0), balanced)
            bound = _bound(scores, delta, confidence, tries) if part.fixed else None
            roc = Roc.of(scores.members, scores.non_members)
            results.append(Attack(name, part.name, *_counts(part), roc, scores, bound, confidence))
    counts = len(members), len(non_members)
    most = most_that_can_be_shown(*counts, confidence, delta=delta, attacks=max(1, tries))
    return Membership(tuple(results), tuple(left_out), *counts, confidence, delta, most)


def _bound(scores: Scores, delta: float, confidence: float, tries: int) -> LowerBound:
    """The best of the folds: of one attacker alone are scores independent of each other."""
    found = [
        epsilon_lower_bound(
            scores.members[scores.member_folds == fold],
            scores.non_members[scores.non_member_folds == fold],
            delta=delta,
            confidence=confidence,
            attacks=tries,
        )
        for fold in np.unique(scores.member_folds)
    ]
    return max(found, key=lambda bound: bound.epsilon)


def _counts(part: Slice) -> tuple[int, int]:
    return int(part.members.sum()), int(part.non_members.sum())


def _names(attacks: Sequence[str] | None, members: Outputs) -> tuple[str, ...]:
    if attacks is None:
        if not members.predictions:
            return ("threshold",)
        known = members.losses is not None or members.labels is not None
        return ("threshold", "entropy") if known else ("entropy",)
    names = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    wrong = [name for name in names if name not in ATTACKS]
    if wrong or not names or len(set(names)) < len(names):
        raise InputError(
            f"attacks must be some of {', '.join(ATTACKS)}, each once, got {attacks!r}"
        )
    return names


def _check_pair(members: Outputs, non_members: Outputs) -> None:
    for name, side in (("members", members), ("non_members", non_members)):
        if not isinstance(side, Outputs):
            raise InputError(
                f"{name} must be hushgrad.audit.Outputs, got {type(side).__name__}; "
                f"Outputs(losses=...) is the least"
            )
    for name in _SHARED:
        inside, outside = getattr(members, name), getattr(non_members, name)
        if (inside is None) != (outside is None):
            there, missing = ("members", "non_members")[:: 1 if outside is None else -1]
            raise InputError(f"{name} are given for {there} and not for {missing}; pass both")
        if inside is not None and inside.shape[1:] != outside.shape[1:]:
            raise InputError(
                f"{name} must have the same columns on both sides, got {inside.shape[1:]} of "
                f"members and {outside.shape[1:]} of non_members"
            )
