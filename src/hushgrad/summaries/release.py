"""Counting what is in a table's columns, and releasing the counts with noise."""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from hushgrad.errors import BudgetError, InputError
from hushgrad.mechanism import Guarantee
from hushgrad.noise import gaussian
from hushgrad.summaries.bounds import cells
from hushgrad.summaries.histograms import Histograms
from hushgrad.training import Budget, Reservation
from hushgrad.training.secret import RunSecret

__all__ = ["Counts", "Noisy", "charged", "survey", "with_noise"]


@dataclasses.dataclass(frozen=True)
class Counts:
    """What is in one column, without noise: not private.

    A record counts once in it: as a number, as a name, or not at all.

    Attributes:
      numbers: how many records are in each cell of the fixed grid of numbers.
      names: how many records have each text, or None where texts are not counted.
    """

    numbers: Float[np.ndarray, " cells"]
    names: Mapping[str, int] | None = None

    @classmethod
    def of_numbers(cls, values: Float[np.ndarray, " examples"]) -> Counts:
        """Of a column of numbers; NaN is not counted."""
        return cls(cells(values))

    @classmethod
    def of_texts(cls, texts: Sequence[str | None], *, numbers: bool = True) -> Counts:
        """Of a column of texts; None is not counted.

        Args:
          texts: one for each record.
          numbers: those that read as a number count as such, and not as names.
        """
        values, names = [], {}
        for text in texts:
            number = _number(text) if numbers else math.nan
            if number == number:
                values.append(number)
            elif text is not None:
                names[text] = names.get(text, 0) + 1
        return cls(cells(np.array(values, np.float64)), names)


@dataclasses.dataclass(frozen=True)
class Noisy:
    """One column's counts with noise: safe to publish at the price of the histograms.

    Attributes:
      numbers: of each cell of the grid of numbers.
      names: those above the threshold, with their noisy counts, in alphabetical order.
      stddev: of the noise on every count.
    """

    numbers: Float[np.ndarray, " cells"]
    names: dict[str, float]
    stddev: float


def survey(
    columns: Sequence[Counts],
    mechanism: Histograms,
    *,
    budget: Budget | None = None,
    run: str | None = None,
    then: Guarantee | None = None,
    directory: str = "",
    seed: int | None = None,
) -> list[Noisy]:
    """Releases the counts of all columns, once, with noise.

    Formal guarantee: that of `mechanism`.

    Args:
      columns: as many as `mechanism` accounts for, of the same records.
      mechanism: the noise, and its cost.
      budget: that is charged, durably, before the noise is drawn.
      run: the release's name in the budget; a new one by default.
      then: what will be released next: the budget must hold it too, or nothing is spent.
      directory: where the result goes, for people to read.
      seed: for tests: not private against whoever knows it.

    Raises:
      InputError: if the columns are not those that the mechanism accounts for.
      BudgetError: if the budget does not hold it; nothing has been spent.
    """
    named = sum(column.names is not None for column in columns)
    if (len(columns), named) != (mechanism.columns, mechanism.named):
        raise InputError(
            f"columns must be {mechanism.columns}, {mechanism.named} of them with names, as the "
            f"mechanism accounts for, got {len(columns)} and {named}"
        )
    counts = [_listed(column) for column in columns]
    secret = charged(mechanism, budget, run, then, directory=directory, seed=seed)
    noisy = with_noise([values for _, values in counts], mechanism.stddev, secret)
    return [
        _shown(names, values, mechanism) for (names, _), values in zip(counts, noisy, strict=True)
    ]


def charged(
    mechanism: Guarantee,
    budget: Budget | None,
    run: str | None,
    then: Guarantee | None,
    *,
    directory: str = "",
    seed: int | None = None,
) -> RunSecret:
    """The secret for the noise of one release, once it is charged, durably.

    Raises:
      InputError: if the mechanism accounts for no release.
      BudgetError: if the budget does not hold the release and what comes then; nothing is spent.
    """
    if mechanism.steps != 1:
        raise InputError(
            f"mechanism must account for this one release, got steps={mechanism.steps}: a release "
            "that was stopped cannot be made"
        )
    if budget is not None:
        held = budget.reserve(mechanism, run or uuid.uuid4().hex, directory=directory)
        _leaves_room(budget, held, then)
        held.charge(1)
        held.finish(1)
    return RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)


def _leaves_room(budget: Budget, held: Reservation, then: Guarantee | None) -> None:
    left = None if then is None else budget.left(then)
    if then is not None and left != then.steps:
        held.finish(0)
        raise BudgetError(
            f"budget {budget.name!r} holds this release, but then only {left:,} of the "
            f"{then.steps:,} steps that follow; take a smaller epsilon"
        )


def _listed(column: Counts) -> tuple[list[str], np.ndarray]:
    """A column's names in an order that tells nothing, and all of its counts."""
    names = sorted(column.names or {})
    counted = [float((column.names or {})[name]) for name in names]
    return names, np.concatenate([column.numbers, np.array(counted)]).astype(np.float32)


def with_noise(
    sums: list[np.ndarray], stddev: float, secret: RunSecret
) -> list[Float[np.ndarray, "..."]]:
    """Each array with noise on every number; once for a secret."""
    key = np.frombuffer(secret.derive("summary", 0), "<u4").astype(np.uint32)
    release = gaussian(stddev)
    flat = jnp.asarray(np.concatenate(sums))
    noisy, _ = release.update(flat, optax.EmptyState(), key=jnp.asarray(key))
    ends = np.cumsum([len(part) for part in sums])[:-1]
    return np.split(np.asarray(jax.device_get(noisy), np.float64), ends)


def _shown(names: list[str], values: np.ndarray, mechanism: Histograms) -> Noisy:
    numbers, counted = np.split(values, [len(values) - len(names)])
    above = {
        name: float(count)
        for name, count in zip(names, counted, strict=True)
        if count > mechanism.threshold
    }
    return Noisy(numbers, above, mechanism.stddev)


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
