"""What to run for a given cost: the one number that is left open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from scipy import optimize

from hushgrad._check import fraction, positive, whole
from hushgrad.accounting.accountants import epsilon as epsilon_of
from hushgrad.accounting.events import poisson_gaussian
from hushgrad.accounting.losses import gaussian_epsilon
from hushgrad.errors import InputError

__all__ = ["Calibration", "calibrate", "smallest_noise", "whole_steps"]

# The answer's epsilon lies within this share below the target, never above it.
_TOLERANCE = 1e-3
_SMALLEST_NOISE, _LARGEST_NOISE = 0.01, 1e5
_LARGEST_WHOLE = 10**12
_SECANTS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """DP-SGD with Poisson sampling, all its numbers, and which of them was found.

    Attributes:
      found: name of the number that was not given.
      epsilon: what all of it costs at `delta`: at most the target.
      accountant: which bound that is.
    """

    examples: int
    batch_size: int
    steps: int
    noise_multiplier: float
    epsilon: float
    delta: float
    accountant: str
    found: str

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        return self.steps * self.batch_size / self.examples


def calibrate(
    *,
    delta: float,
    examples: int | None = None,
    batch_size: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    accountant: str = "pld",
) -> Calibration:
    """DP-SGD with Poisson sampling: the one number that is not given.

    ```python
    hg.accounting.calibrate(
        examples=60_000, batch_size=256, epochs=60, epsilon=3.0, delta=1e-5
    ).noise_multiplier
    ```

    The answer is on the private side: the smallest noise or number of examples, the
    largest number of steps or batch size, whose epsilon is at most the target; that of a
    noise multiplier is within 0.1% of it, unless it would have to be below 0.01.

    Args:
      delta: in (0, 1).
      examples: number of examples.
      batch_size: expected batch size.
      epochs: passes over the data.
      steps: number of releases, in place of `epochs`.
      noise_multiplier: standard deviation of the noise over the clip.
      epsilon: the target.
      accountant: "pld" or "rdp": the bound that holds the target.

    Raises:
      InputError: if not exactly one is open, or no value keeps the target.
    """
    given = {
        "examples": examples,
        "batch_size": batch_size,
        "steps": steps if epochs is None else epochs,
        "noise_multiplier": noise_multiplier,
        "epsilon": epsilon,
    }
    left = [name for name in given if given[name] is None]
    if len(left) != 1 or None not in (epochs, steps):
        raise InputError(
            "leave exactly one of examples, batch_size, epochs (or steps), noise_multiplier and "
            f"epsilon open, got {given} with epochs={epochs!r} and steps={steps!r}"
        )
    plan = _Plan(
        examples=_given(whole, "examples", examples),
        batch_size=_given(whole, "batch_size", batch_size),
        epochs=_given(positive, "epochs", epochs),
        steps=_given(whole, "steps", steps),
        noise_multiplier=_given(positive, "noise_multiplier", noise_multiplier),
        delta=fraction("delta", delta),
        accountant=accountant,
    )
    return plan.solved(left[0], _given(positive, "epsilon", epsilon))


def _given(check: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    return None if value is None else check(name, value)


def whole_steps(examples: int, batch_size: int, epochs: float) -> int:
    """Steps of so many passes over the data, rounded up."""
    # In fractions: 0.1 epochs of 600 in batches of 60 is one step, not two.
    return math.ceil(Fraction(repr(float(epochs))) * examples / batch_size)


@dataclasses.dataclass(frozen=True)
class _Plan:
    examples: int | None
    batch_size: int | None
    epochs: float | None
    steps: int | None
    noise_multiplier: float | None
    delta: float
    accountant: str

    def solved(self, name: str, target: float | None) -> Calibration:
        if target is None:
            return self.made("epsilon")
        if name == "noise_multiplier":
            found: float = smallest_noise(
                lambda z: self.event(noise_multiplier=z), target, self.delta, self.accountant
            )
        elif name == "examples":
            assert self.batch_size is not None
            found = _smallest(lambda n: self.cost(examples=n) <= target, self.batch_size, name)
        elif name == "steps":
            found = _largest(lambda n: self.cost(steps=n, epochs=None) <= target, None, name)
        else:
            found = _largest(lambda n: self.cost(batch_size=n) <= target, self.examples, name)
        changed = {name: found, **({"epochs": None} if name == "steps" else {})}
        return dataclasses.replace(self, **changed).made(name)

    def made(self, found: str) -> Calibration:
        assert self.examples is not None
        assert self.batch_size is not None
        assert self.noise_multiplier is not None
        return Calibration(
            examples=self.examples,
            batch_size=self.batch_size,
            steps=self.count(),
            noise_multiplier=self.noise_multiplier,
            epsilon=self.cost(),
            delta=self.delta,
            accountant=self.accountant,
            found=found,
        )

    def count(self) -> int:
        assert self.examples is not None
        assert self.batch_size is not None
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return whole_steps(self.examples, self.batch_size, self.epochs)

    def event(self, **changed: Any) -> Any:
        plan = dataclasses.replace(self, **changed)
        assert plan.examples is not None
        assert plan.batch_size is not None
        assert plan.noise_multiplier is not None
        if plan.batch_size > plan.examples:
            raise InputError(
                f"batch_size must be at most the number of examples, got {plan.batch_size} of "
                f"{plan.examples}"
            )
        rate = plan.batch_size / plan.examples
        return poisson_gaussian(rate, plan.noise_multiplier, plan.count())

    def cost(self, **changed: Any) -> float:
        return epsilon_of(self.event(**changed), self.delta, self.accountant)


def smallest_noise(
    make_event: Callable[[float], Any],
    epsilon: float,
    delta: float,
    accountant: str = "pld",
    relation: str | None = None,
) -> float:
    """The noise multiplier at which `make_event` costs at most `epsilon` at `delta`.

    The search ends on the private side: the epsilon of the result is at most the
    target, and within 0.1% of it unless that would take a noise multiplier below 0.01.

    Args:
      make_event: noise multiplier -> event; more noise must cost less.
      epsilon: the target, positive.
      delta: in (0, 1).
      accountant: which bound to hold the target by.
      relation: the neighbouring relation; by default the event's.

    Raises:
      InputError: if no noise multiplier up to 1e5 keeps the target.
    """
    target, delta = positive("epsilon", epsilon), fraction("delta", delta)

    def cost(noise: float) -> float:
        return epsilon_of(make_event(noise), delta, accountant, relation=relation)

    return _search(cost, target, _first_guess(target, delta, make_event))


def _first_guess(target: float, delta: float, make_event: Callable[[float], Any]) -> float:
    """By the central limit of Gaussian differential privacy, where that is quick."""
    from hushgrad.accounting.bounds import central_limit

    def gap(log_noise: float) -> float:
        shift = central_limit(make_event(math.exp(log_noise)))
        return math.log(max(1e-12, gaussian_epsilon(shift, delta)) / target)

    ends = (math.log(_SMALLEST_NOISE * 10), math.log(_LARGEST_NOISE))
    try:
        if gap(ends[0]) * gap(ends[1]) < 0:
            return math.exp(optimize.root_scalar(gap, bracket=ends, xtol=1e-4).root)
    except (InputError, OverflowError):
        pass
    return 1.0


def _search(cost: Callable[[float], float], target: float, guess: float) -> float:
    """Root of a decreasing function, on the side where it is at most the target."""
    worst, best = 0.0, math.inf
    seen: list[tuple[float, float]] = []
    noise = min(max(guess, _SMALLEST_NOISE), _LARGEST_NOISE)
    while best / max(worst, 1e-300) > 1 + 1e-7:
        spent = cost(noise)
        if spent <= target:
            best = noise
            if spent >= target * (1 - _TOLERANCE) or noise <= _SMALLEST_NOISE:
                return noise
        elif noise >= _LARGEST_NOISE:
            raise InputError(
                f"epsilon={target} cannot be reached with any noise multiplier up to "
                f"{_LARGEST_NOISE:g}; allow a larger epsilon or delta, or fewer steps"
            )
        else:
            worst = noise
        seen.append((math.log(noise), math.log(max(spent, 1e-12))))
        noise = _next(seen, math.log(target * (1 - _TOLERANCE / 2)), worst, best)
    return best


def _next(seen: list[tuple[float, float]], goal: float, worst: float, best: float) -> float:
    """By the secant through the last two, or the middle of where the root must be."""
    (x, y), slope = seen[-1], -1.0
    if len(seen) > 1 and seen[-2][0] != x:
        slope = min(-0.2, max(-20.0, (y - seen[-2][1]) / (x - seen[-2][0])))
    noise = math.exp(min(x + 1.5, max(x - 1.5, x + (goal - y) / slope)))
    bracketed = worst > 0 and best < math.inf
    if bracketed and (len(seen) > _SECANTS or not worst < noise < best):
        noise = math.sqrt(worst * best)
    return min(max(noise, _SMALLEST_NOISE), _LARGEST_NOISE)


def _largest(keeps: Callable[[int], bool], most: int | None, name: str) -> int:
    """The largest whole number that keeps the target, up to `most`."""
    if not keeps(1):
        raise InputError(f"not even {name}=1 keeps the target; allow a larger epsilon or delta")
    good, step = 1, 1
    limit = _LARGEST_WHOLE if most is None else most
    while good < limit and keeps(min(limit, good + step)):
        good, step = min(limit, good + step), step * 4
    if good >= limit:
        return good
    bad = min(limit, good + step)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if keeps(middle) else (good, middle)
    return good


def _smallest(keeps: Callable[[int], bool], least: int, name: str) -> int:
    """The smallest whole number from `least` on that keeps the target."""
    if keeps(least):
        return least
    bad, good = least, least * 2
    while not keeps(good):
        bad, good = good, good * 4
        if good > _LARGEST_WHOLE:
            raise InputError(
                f"no {name} up to {_LARGEST_WHOLE:g} keeps the target; take more noise"
            )
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if keeps(middle) else (good, middle)
    return good
