"""Canaries that are records: rows of the data, mislabelled ones, and mixtures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from hushgrad.audit.found import CanariesFound
from hushgrad.audit.places import Replaced
from hushgrad.errors import InputError
from hushgrad.mechanism import Plan
from hushgrad.sampling import blocks
from hushgrad.training.data import Source
from hushgrad.training.planting import Planted
from hushgrad.training.step import State

if TYPE_CHECKING:
    from hushgrad.audit.canaries import Canaries

__all__ = ["draw_inputs", "draw_mislabelled", "draw_rows", "plant"]

# Rows that are looked at for a label that differs.
_TRIES = 32
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
    """For each canary a row whose label it takes."""
    _one_each(mechanism, "mislabelled")
    others = rng.integers(0, source.size, (_TRIES, len(places)))
    mine = _label(_read(source, places))
    theirs = np.stack([_label(_read(source, rows)) for rows in others])
    differs = (theirs != mine).reshape(_TRIES, len(places), -1).any(axis=2)
    if not differs.any(axis=0).all():
        raise InputError(
            "audit of kind 'mislabelled' found no other label for a row among "
            f"{_TRIES} others: take kind='input' or 'gradient'"
        )
    return {"labels": others[differs.argmax(axis=0), np.arange(len(places))].tolist()}


def draw_inputs(
    source: Source,
    mechanism: Plan,
    params: PyTree[Array],
    places: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """For each canary two rows that it is mixed of, a third for its label, and a seed."""
    _one_each(mechanism, "input")
    rows = rng.integers(0, source.size, (3, len(places)))
    return {
        "mixed": rows[:2].tolist(),
        "labels": rows[2].tolist(),
        "seed": int(rng.integers(2**31)),
    }


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
    source = Replaced(given.source, places, included, rows)
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
        found.append(np.asarray(of(params, *batch))[block.mask])
    losses = np.concatenate(found).astype(float)
    # Such a record says nothing, and must not stop a run.
    return np.nan_to_num(losses, nan=0.0, posinf=1e30, neginf=-1e30)


def _arguments(source: Source) -> int:
    return len(source.rows(np.zeros(1, np.int64), np.random.default_rng(0)))
