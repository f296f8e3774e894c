"""Parts of the data that are attacked by themselves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from hushgrad._check import whole
from hushgrad.audit.outputs import Outputs
from hushgrad.errors import InputError

__all__ = ["Slice", "Slices", "cut"]

_MOST_VALUES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
    """Which parts of the data are attacked by themselves.

    ```python
    hg.audit.Slices(by_class=True, columns={"sex": (train["sex"], test["sex"])})
    ```

    Attributes:
      entire: all examples together.
      by_class: one slice for each label.
      by_percentile: ten, by the loss of members and others together.
      by_correctness: what the model has right, and what it has wrong.
      columns: name -> (of members, of non-members): one slice for each value that occurs.
      fewest: slices with fewer on either side are left out, and named.
    """

    entire: bool = True
    by_class: bool = False
    by_percentile: bool = False
    by_correctness: bool = False
    columns: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None
    fewest: int = 20

    def __post_init__(self) -> None:
        whole("fewest", self.fewest)
        chosen = self.entire, self.by_class, self.by_percentile, self.by_correctness, self.columns
        if not any(chosen):
            raise InputError("slices must be of at least one kind, got none; set entire=True")


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """One part of the data.

    Attributes:
      name: for people.
      members: which of them are in it.
      non_members: which of them are.
      fixed: whether it is known without looking at the model. What a promise of epsilon says of
        the population holds in such a slice too; not in one that the model chose.
    """

    name: str
    members: Bool[np.ndarray, " m"]
    non_members: Bool[np.ndarray, " n"]
    fixed: bool


def cut(slices: Slices, members: Outputs, non_members: Outputs) -> list[Slice]:
    """All parts, small ones too.

    Raises:
      InputError: if the outputs do not hold what a split needs.
    """
    found = []
    if slices.entire:
        every = np.ones(len(members), bool), np.ones(len(non_members), bool)
        found.append(Slice("all", *every, True))
    if slices.by_class:
        found += _by_class(members, non_members)
    for name, pair in (slices.columns or {}).items():
        found += _by_column(name, pair, (len(members), len(non_members)))
    if slices.by_percentile:
        found += _by_percentile(members, non_members)
    if slices.by_correctness:
        right = members.correct, non_members.correct
        found.append(Slice("correct", *right, False))
        found.append(Slice("wrong", ~right[0], ~right[1], False))
    return found


def _by_class(members: Outputs, non_members: Outputs) -> Iterator[Slice]:
    if members.multi_label or non_members.multi_label:
        raise InputError(
            "by_class=True needs one class for each example, got multi-label ones; pass a label of "
            "them as one of `columns`"
        )
    if members.labels is None or non_members.labels is None:
        raise InputError("by_class=True needs labels of members and non-members, got none")
    inside, outside = np.asarray(members.labels), np.asarray(non_members.labels)
    classes = np.unique(np.concatenate([inside, outside]))
    if len(classes) < 2:
        raise InputError(
            f"by_class=True needs two classes at least, all examples are of class {classes[0]}"
        )
    _check_count("by_class=True", classes)
    return (Slice(f"class {c}", inside == c, outside == c, True) for c in classes)


def _by_column(name: str, pair: Any, counts: tuple[int, int]) -> Iterator[Slice]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(f"columns[{name!r}] must be (of members, of non-members)")
    inside, outside = (np.asarray(side) for side in pair)
    if (inside.shape, outside.shape) != ((counts[0],), (counts[1],)):
        raise InputError(
            f"columns[{name!r}] must be of {counts[0]} members and {counts[1]} non-members, got "
            f"shapes {inside.shape} and {outside.shape}"
        )
    values = np.unique(np.concatenate([inside, outside]))
    _check_count(f"columns[{name!r}]", values)
    return (Slice(f"{name} = {v}", inside == v, outside == v, True) for v in values)


def _check_count(name: str, values: np.ndarray) -> None:
    if len(values) > _MOST_VALUES:
        raise InputError(
            f"{name} has {len(values)} different values, {_MOST_VALUES} at most; put them in groups"
        )


def _by_percentile(members: Outputs, non_members: Outputs) -> Iterator[Slice]:
    inside, outside = members.loss, non_members.loss
    edges = np.percentile(np.concatenate([inside, outside]), np.arange(0, 101, 10))
    # Everybody is in exactly one; equal losses stay together.
    edges[-1] = np.inf
    for place, (low, high) in enumerate(itertools.pairwise(edges)):
        name = f"loss {10 * place}-{10 * place + 10} %"
        yield Slice(
            name, (low <= inside) & (inside < high), (low <= outside) & (outside < high), False
        )
