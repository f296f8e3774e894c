"""Attacks: what turns a model's outputs into scores of membership."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from hushgrad.audit.outputs import Outputs
from hushgrad.errors import InputError

__all__ = ["ATTACKS", "Attacker", "Scores"]

_FOLDS = 2
_INNER = 3
# Each inner fold's training needs more than the neighbours that are asked.
_FEWEST = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores of every example, higher where the attack rather takes it for a member.

    Attributes:
      members: of each, in their order.
      non_members: of each.
      member_folds: which attacker scored each; one that had not seen it.
      non_member_folds: likewise.
    """

    members: Float[np.ndarray, " m"]
    non_members: Float[np.ndarray, " n"]
    member_folds: Int[np.ndarray, " m"]
    non_member_folds: Int[np.ndarray, " n"]


# (members, non-members, seed, balanced) -> their scores.
Score = Callable[[Outputs, Outputs, int, bool], Scores]


@dataclasses.dataclass(frozen=True)
class Attacker:
    """One way to attack.

    Attributes:
      score: gives both sides' scores.
      folds: how many attackers are trained, each on what the others score; 1 for those that are
        not trained.
    """

    score: Score
    folds: int = 1


def _threshold(members: Outputs, non_members: Outputs, seed: int, balanced: bool) -> Scores:
    """Low losses are members' (Yeom et al. 2018, arXiv 1709.01604)."""
    return _untrained(-members.loss, -non_members.loss)


def _entropy(members: Outputs, non_members: Outputs, seed: int, balanced: bool) -> Scores:
    """Low modified entropies are; without labels, low entropies (Song and Mittal 2021)."""
    if members.labels is None:
        return _untrained(-members.entropy, -non_members.entropy)
    return _untrained(-members.modified_entropy, -non_members.modified_entropy)


def _logistic(members: Outputs, non_members: Outputs, seed: int, balanced: bool) -> Scores:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression(max_iter=1000)
    grid = {"C": [1e-4, 1e-2, 1.0, 100.0]}
    return _trained(estimator, grid, members, non_members, seed, balanced)


def _forest(members: Outputs, non_members: Outputs, seed: int, balanced: bool) -> Scores:
    from sklearn.ensemble import RandomForestClassifier

    estimator = RandomForestClassifier(n_estimators=100, random_state=seed)
    grid = {"min_samples_leaf": [1, 4, 16]}
    return _trained(estimator, grid, members, non_members, seed, balanced)


def _neighbours(members: Outputs, non_members: Outputs, seed: int, balanced: bool) -> Scores:
    from sklearn.neighbors import KNeighborsClassifier

    grid = {"n_neighbors": [3, 5, 7]}
    return _trained(KNeighborsClassifier(), grid, members, non_members, seed, balanced)


def _mlp(members: Outputs, non_members: Outputs, seed: int, balanced: bool) -> Scores:
    from sklearn.neural_network import MLPClassifier

    estimator = MLPClassifier(early_stopping=True, max_iter=500, random_state=seed)
    grid = {"hidden_layer_sizes": [(64,), (32, 32)], "alpha": [1e-4, 1e-2]}
    return _trained(estimator, grid, members, non_members, seed, balanced)


ATTACKS: dict[str, Attacker] = {
    "threshold": Attacker(_threshold),
    "entropy": Attacker(_entropy),
    "logistic": Attacker(_logistic, _FOLDS),
    "forest": Attacker(_forest, _FOLDS),
    "neighbours": Attacker(_neighbours, _FOLDS),
    "mlp": Attacker(_mlp, _FOLDS),
}


def _untrained(members: np.ndarray, non_members: np.ndarray) -> Scores:
    folds = (np.zeros(len(side), int) for side in (members, non_members))
    return Scores(members, non_members, *folds)


def _trained(
    estimator: Any,
    grid: Mapping[str, Sequence[Any]],
    members: Outputs,
    non_members: Outputs,
    seed: int,
    balanced: bool,
) -> Scores:
    """Out-of-fold scores: nobody is scored by an attacker that was trained on them."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    counts = len(members), len(non_members)
    if min(counts) < _FEWEST:
        raise InputError(
            f"trained attacks need {_FEWEST} members and {_FEWEST} non-members at least, got "
            f"{counts[0]} and {counts[1]}; use threshold or entropy"
        )
    x = np.concatenate([_columns(members), _columns(non_members)])
    y = np.arange(sum(counts)) < counts[0]
    used, rest = _drawn(counts, seed, balanced)
    scores, folds = np.empty(len(x)), np.empty(len(x), int)
    named = {f"attacker__{name}": list(values) for name, values in grid.items()}
    pipeline = Pipeline([("scale", StandardScaler()), ("attacker", estimator)])
    split = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    for fold, (train, test) in enumerate(split.split(used, y[used])):
        search = GridSearchCV(pipeline, named, cv=_INNER, scoring="roc_auc")
        # No attacker was trained on those who were left out for balance.
        rows = np.concatenate([used[test], rest]) if fold == _FOLDS - 1 else used[test]
        # Matrices of a few columns: more threads only wait for each other, measured three times
        # as long where cores are busy.
        with threadpool_limits(1):
            search.fit(x[used[train]], y[used[train]])
            scores[rows], folds[rows] = _said(search, x[rows]), fold
    m = counts[0]
    return Scores(scores[:m], scores[m:], folds[:m], folds[m:])


def _drawn(counts: tuple[int, int], seed: int, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows that attackers are trained on, as many of either side if balanced; and the others."""
    rng = np.random.default_rng(seed)
    sides = rng.permutation(counts[0]), counts[0] + rng.permutation(counts[1])
    most = min(counts) if balanced else max(counts)
    used = np.concatenate([side[:most] for side in sides])
    return used, np.concatenate([side[most:] for side in sides])


def _said(search: Any, x: np.ndarray) -> np.ndarray:
    # Log-odds tell apart what as probabilities all rounds to 1.
    if hasattr(search, "decision_function"):
        return search.decision_function(x)
    return search.predict_proba(x)[:, 1]


def _columns(outputs: Outputs) -> Float[np.ndarray, "n columns"]:
    """Logits or else probabilities, the loss if it can be told, and other features."""
    columns = []
    said = outputs.logits if outputs.logits is not None else outputs.probabilities
    if said is not None:
        columns.append(np.asarray(said, float).reshape(len(outputs), -1))
    if outputs.losses is not None or (said is not None and outputs.labels is not None):
        columns.append(outputs.loss[:, None])
    if outputs.features is not None:
        columns.append(np.asarray(outputs.features, float))
    if not columns:
        raise InputError("trained attacks need losses, logits, probabilities or features, got none")
    return np.concatenate(columns, axis=1)
