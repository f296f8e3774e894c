"""Histograms of several columns, released together once, and their cost."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import dp_accounting
from dp_accounting import dp_event
from scipy import stats

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.errors import InputError
from hushgrad.mechanism import Guarantee

__all__ = ["Histograms"]

# How far away, in standard deviations, a name is put that only one record has: shown, it tells
# all. What noise so far out would hide has a probability below 1e-18.
_FAR = 20.0
_LEAST_NOISE = 1.0
# The share of delta that names which only one record has may take.
_CHANCE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histograms(Guarantee):
    """One release of the noisy histograms of all columns of a table.

    ```python
    h = Histograms.of(examples=32_561, columns=14, named=8, epsilon=0.1, delta=1e-5)
    h.stddev, h.threshold
    ```

    A record adds 1 to one count in each column, so it moves all counts together by at most
    sqrt(columns) in Euclidean norm: the noise on every count is `noise_multiplier` times that.
    Columns whose categories nobody declared count the names that occur: a name is shown
    if its noisy count exceeds `threshold`, which names that one record alone has do with
    probability `chance` at most, all columns together (Korolova et al. 2009; Wilson et
    al. 2020, arXiv 1909.01917).

    Formal guarantee: `event` under add-or-remove-one. A record changes the names that can be
    shown only through those it alone has. But for an event of probability `chance` those stay
    hidden and the rest is the Gaussian mechanism: the mixture of that with a release that
    tells all, as `event` has it, dominates both.

    Attributes:
      examples: number of records, a public fact.
      columns: how many histograms there are, one count of each record in each.
      named: how many of them count names that are not declared.
      noise_multiplier: standard deviation of the noise over sqrt(columns).
      chance: with which a name that one record alone has is shown; zero without `named`.
      delta: at which epsilon is stated unless another is asked for.
      steps: one, or zero of one that was stopped before.
    """

    examples: int
    columns: int
    named: int
    noise_multiplier: float
    chance: float
    delta: float
    steps: int = 1
    unit: str = "example"

    def __post_init__(self) -> None:
        whole("examples", self.examples)
        whole("columns", self.columns)
        named = whole("named", self.named, at_least=0)
        fraction("delta", self.delta)
        positive("noise_multiplier", self.noise_multiplier)
        if not named:
            return
        fraction("chance", self.chance)
        if named > self.columns or self.noise_multiplier < _LEAST_NOISE:
            raise InputError(
                f"named must be at most columns={self.columns} and needs a noise_multiplier of "
                f"at least {_LEAST_NOISE:g}, got named={named} and {self.noise_multiplier:g}"
            )

    @classmethod
    def of(
        cls, *, examples: int, columns: int, named: int = 0, epsilon: float, delta: float
    ) -> Histograms:
        """Those with the least noise that keeps `epsilon` at `delta`.

        Raises:
          InputError: if an argument is out of range.
        """
        fraction("delta", delta)
        chance = _CHANCE * delta if named else 0.0
        least = _LEAST_NOISE if named else 0.0
        found = accounting.smallest_noise(
            lambda z: _event(max(z, least), chance), positive("epsilon", epsilon), delta
        )
        return cls(
            examples=examples,
            columns=columns,
            named=named,
            noise_multiplier=max(found, least),
            chance=chance,
            delta=delta,
        )

    @property
    def event(self) -> dp_accounting.DpEvent:
        """The release in `dp_accounting`'s language."""
        if not self.steps:
            return dp_accounting.NoOpDpEvent()
        return _event(self.noise_multiplier, self.chance)

    @property
    def neighbouring_relation(self) -> str:
        """That of a record that is there or not."""
        return "add-or-remove-one"

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise on every count."""
        return self.noise_multiplier * math.sqrt(self.columns)

    @property
    def threshold(self) -> float:
        """Above it a noisy count shows the name that it counts."""
        if not self.named:
            return 0.0
        return 1 + self.stddev * float(stats.norm.isf(self.chance / self.named))

    def after(self, steps: int | None) -> Histograms:
        """Itself, or nothing at all: there is one release."""
        return dataclasses.replace(self, steps=0) if steps == 0 else self

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"histograms": dataclasses.asdict(self)}


def _event(noise_multiplier: float, chance: float) -> dp_accounting.DpEvent:
    if not chance:
        return accounting.poisson_gaussian(1.0, noise_multiplier, 1)
    far = 1 + _FAR * noise_multiplier
    return dp_event.MixtureOfGaussiansDpEvent(noise_multiplier, [1.0, far], [1 - chance, chance])
