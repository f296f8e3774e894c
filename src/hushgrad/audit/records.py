"""Canaries that are records: rows of the data, mislabelled ones, and mixtures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from hushgrad.audit.found import CanariesFound
from hushgrad.audit.places import Replaced
from hushgrad.errors import InputError
from hushgrad.mechanism import Plan
from hushgrad.sampling import blocks
from hushgrad.training.data import Source
from hushgrad.training.planting import Planted
from hushgrad.training.step import State
from hushgrad.training.team import whole

if TYPE_CHECKING:
    from hushgrad.audit.canaries import Canaries

__all__ = ["draw_inputs", "draw_mislabelled", "draw_rows", "plant"]

_BLOCK = 256


def draw_rows(
    source: Source,
    mechanism: Plan,
    params: PyTree[Array],
    places: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Nothing more: the canaries are the rows."""
    return {}


def draw_mislabelled(
    source: Source,
    mechanism: Plan,
    params: PyTree[Array],
    places: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """For each canary a row whose label it takes.

    By chance alone: to look for one that differs would let a label move others' canaries.
    """
    _one_each(mechanism, "mislabelled")
    lenders = _lenders(source, places, rng, 1)[0]
    pairs = zip(
        *(jax.tree.leaves(_label(_read(source, rows))) for rows in (places, lenders)), strict=True
    )
    if all(np.array_equal(mine, theirs) for mine, theirs in pairs):
        raise InputError(
            f"audit of kind 'mislabelled' found no other label for any of {len(places):,} rows: "
            "take kind='input' or 'gradient'"
        )
    return {"labels": lenders.tolist()}


def draw_inputs(
    source: Source,
    mechanism: Plan,
    params: PyTree[Array],
    places: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """For each canary a row that its own is mixed with, a third for its label, and a seed."""
    _one_each(mechanism, "input")
    mixed, labels = _lenders(source, places, rng, 2)
    return {
        "mixed": [places.tolist(), mixed.tolist()],
        "labels": labels.tolist(),
        "seed": int(rng.integers(2**31)),
    }


def _lenders(
    source: Source, places: np.ndarray, rng: np.random.Generator, each: int
) -> Int[np.ndarray, "each canaries"]:
    """Rows that canaries are made of, so many for each: each lends to one, and is not there."""
    rest = np.setdiff1d(np.arange(source.size), places)
    return rng.choice(rest, (each, len(places)), replace=False)


def plant(
    canaries: Canaries,
    drawn: dict[str, Any],
    given: Planted,
    loss: Callable[..., Any],
    mechanism: Plan,
    params: PyTree[Array],
) -> Planted:
    """Puts the records into the data; their scores are how far their loss fell."""
    places, included = np.array(drawn["places"]), np.array(drawn["included"])
    rows = _made(given.source, places, drawn)
    lent = [*drawn.get("mixed", [])[1:], drawn.get("labels", [])]
    lenders = np.concatenate(lent).astype(np.int64)
    source = Replaced(given.source, places, included, rows, lenders)
    before = _losses(source, loss, params, places)

    def found(state: State, steps: int) -> CanariesFound:
        scores = before - _losses(source, loss, state.params, places)
        return CanariesFound.of(canaries, scores, included, mechanism.after(steps))

    return dataclasses.replace(given, source=source, found=found)


def _made(source: Source, places: np.ndarray, drawn: dict[str, Any]) -> Any:
    """The canaries, as the loss's arguments; None where they are the rows themselves."""
    if "labels" not in drawn:
        return None
    *inputs, _ = _read(source, places)
    label = _label(_read(source, np.array(drawn["labels"])))
    if "mixed" in drawn:
        rng = np.random.default_rng(drawn["seed"])
        one, other = (_read(source, np.array(rows))[:-1] for rows in drawn["mixed"])
        mix = lambda a, b: np.where(rng.random(a.shape) < 0.5, a, b)  # noqa: E731
        inputs = jax.tree.map(mix, one, other)
    return (*inputs, label)


def _read(source: Source, rows: np.ndarray) -> tuple[Any, ...]:
    read = source.rows(rows, np.random.default_rng(0))
    if len(read) < 2:
        raise InputError(
            "audit by records with other labels needs data whose last argument is the label, got "
            f"{len(read)} argument(s): take kind='rows' or 'gradient'"
        )
    return read


def _label(read: tuple[Any, ...]) -> Any:
    return read[-1]


def _one_each(mechanism: Plan, kind: str) -> None:
    if mechanism.unit == "user":
        raise InputError(
            f"audit of kind {kind!r} makes single records, and the mechanism hides users with all "
            "of theirs: take kind='rows' or 'gradient'"
        )


def _losses(
    source: Replaced, loss: Callable[..., Any], params: PyTree[Array], places: np.ndarray
) -> Float[np.ndarray, " canaries"]:
    """Of each canary, whether it is there or not."""
    of = jax.jit(jax.vmap(source.loss(loss), (None, *[0] * _arguments(source))))
    found = []
    for block in blocks(places, min(_BLOCK, len(places))):
        batch = source.rows(block.rows, np.random.default_rng(0))
        found.append(whole(of(params, *batch))[block.mask])
    losses = np.concatenate(found).astype(float)
    # Such a record says nothing, and must not stop a run.
    return np.nan_to_num(losses, nan=0.0, posinf=1e30, neginf=-1e30)


def _arguments(source: Source) -> int:
    return len(source.rows(np.zeros(1, np.int64), np.random.default_rng(0)))
