"""Which mechanism to take: all that fit a task, by the noise they leave in sums of gradients."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hushgrad._check import positive
from hushgrad.mechanism import Mechanism
from hushgrad.noise import BLT, Banded, Dense, Strategy, Toeplitz, Tree
from hushgrad.planning import dp_banded, dp_ftrl, dp_sgd
from hushgrad.sampling import CheckIn, InOrder, Shuffle

__all__ = ["Choice", "choices"]

# Dense matrices of more steps take too long to find.
_DENSE_STEPS = 512
_DRAWN = "random draws"
_ORDERED = "rows in order"
_SHUFFLED = "shuffled rows"
_GIVEN = "whoever comes"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One mechanism that keeps an epsilon, and what it is worth.

    Attributes:
      name: for people.
      batches: who is in a batch, for people.
      sampled: whether it needs batches drawn at random, anew for every step.
      mechanism: with which to run it.
      squared_error: expected square of the noise in a sum of clipped gradients over steps 1..t,
        mean over t, for one parameter and a clip of 1.
      memory: what the noise keeps between steps, in copies of the parameters.
    """

    name: str
    batches: str
    sampled: bool
    mechanism: Mechanism
    squared_error: float
    memory: int

    @property
    def error(self) -> float:
        """The root of the squared error: in clips."""
        return math.sqrt(self.squared_error)


def choices(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    epsilon: float,
    delta: float,
    min_separation: int | None = None,
    max_participations: int | None = None,
) -> tuple[Choice, ...]:
    """Mechanisms that keep an epsilon, those with the least noise in sums of gradients first.

    ```python
    for choice in hg.choices(examples=60_000, batch_size=500, epochs=10, epsilon=3.0, delta=1e-6):
        print(choice.name, choice.batches, choice.error)
    ```

    Model parameters move by sums of noisy gradients, so this error is what the privacy costs
    them, before anything is trained and without looking at data (Denisov et al. 2022, arXiv
    2202.08312). It does not tell how much noise a model bears.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      epsilon: what each is to keep.
      delta: at which.
      min_separation: also those for cohorts that are given: as `dp_ftrl`'s.
      max_participations: as `dp_ftrl`'s.

    Raises:
      InputError: if an argument is out of range.
    """
    plan: dict[str, Any] = {
        "examples": examples,
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": steps,
        "epsilon": positive("epsilon", epsilon),
        "delta": delta,
    }
    first = dp_sgd(**plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the first has said it all
        made = _all(plan, first, min_separation, max_participations)
    return tuple(sorted(made, key=lambda choice: choice.squared_error))


def _all(
    plan: dict[str, Any],
    first: Mechanism,
    min_separation: int | None,
    max_participations: int | None,
) -> list[Choice]:
    batch_size = plan["batch_size"]
    made = [
        _choice("DP-SGD", _DRAWN, True, first),
        _choice("BandMF", _DRAWN, True, dp_banded(**plan)),
    ]
    kinds = [Tree, Toeplitz, Banded, BLT] + ([Dense] if first.steps <= _DENSE_STEPS else [])
    ordered = functools.partial(dp_ftrl, **plan, sampling=InOrder)
    shuffled = functools.partial(dp_ftrl, **plan, sampling=Shuffle)
    made.append(_choice("DP-SGD", _SHUFFLED, False, dp_sgd(**plan, sampling=Shuffle)))
    made += _of(kinds, _ORDERED, ordered) + _of([Tree, BLT], _SHUFFLED, shuffled)
    if min_separation is not None or max_participations is not None:
        rules = CheckIn(
            batch_size,
            min_separation=1 if min_separation is None else min_separation,
            max_participations=max_participations,
        )
        given = functools.partial(dp_ftrl, **plan, sampling=rules)
        made.append(_choice("DP-SGD", _GIVEN, False, dp_sgd(**plan, sampling=rules)))
        made += _of(kinds, _GIVEN, given)
    return made


def _of(kinds: list[type[Strategy]], batches: str, make: Callable[..., Mechanism]) -> list[Choice]:
    return [_choice(kind.__name__, batches, False, make(strategy=kind)) for kind in kinds]


def _choice(name: str, batches: str, sampled: bool, m: Mechanism) -> Choice:
    error = m.noise_multiplier**2 * float(m.strategy.variances(m.steps).mean())
    return Choice(name, batches, sampled, m, error, _copies(m))


def _copies(m: Mechanism) -> int:
    """How much the state of the noise grows for one parameter more."""
    init = m.strategy.transformation(1.0, m.steps).init

    def held(params: int) -> int:
        state = jax.eval_shape(init, jax.ShapeDtypeStruct((params,), jnp.float32))
        return sum(part.size for part in jax.tree.leaves(state))

    return held(2) - held(1)
