"""A mechanism: who is sampled, how gradients are bounded, which noise, how often.

The cost in privacy is derived from these facts and never stated beside them: what
is accounted is what runs.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import dp_accounting
import optax
from jaxtyping import Array, Float

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.clip import Rule
from hushgrad.clip import from_dict as clip_from_dict
from hushgrad.costs import released
from hushgrad.errors import InputError
from hushgrad.noise import Independent, Strategy
from hushgrad.noise import from_dict as strategy_from_dict
from hushgrad.sampling import SAMPLERS, Sampler, Shuffle, Stream
from hushgrad.sampling import from_dict as sampler_from_dict
from hushgrad.sampling import to_dict as sampler_to_dict

__all__ = ["Guarantee", "Mechanism", "Plan", "group_of"]

_INDEPENDENT = Independent()
_GROUP = re.compile(r"group of ([1-9][0-9]*)")


class Guarantee(abc.ABC):
    """What has an event, a relation and a delta, and so a cost in privacy.

    Attributes:
      delta: at which epsilon is stated unless another is asked for.
      steps: number of noisy releases in all.
      unit: whose presence is hidden.
    """

    delta: float
    steps: int
    unit: str

    @property
    @abc.abstractmethod
    def event(self) -> dp_accounting.DpEvent:
        """All releases, in `dp_accounting`'s language."""

    @property
    @abc.abstractmethod
    def neighbouring_relation(self) -> str:
        """What may differ between two data sets that nobody can tell apart."""

    @abc.abstractmethod
    def after(self, steps: int | None) -> Guarantee:
        """The same, stopped after so many steps."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data; equal dictionaries mean equal mechanisms."""

    def epsilon(
        self, delta: float | None = None, accountant: str = "pld", *, steps: int | None = None
    ) -> float:
        """Upper bound on epsilon.

        Args:
          delta: in (0, 1); the mechanism's own by default.
          accountant: "pld" (tight) or "rdp".
          steps: of a run that has made only so many; all by default.
        """
        delta = self.delta if delta is None else delta
        return accounting.epsilon(self.after(steps), delta, accountant)

    def delta_at(self, epsilon: float, accountant: str = "pld") -> float:
        """Upper bound on delta at `epsilon` (zero or more)."""
        return accounting.delta(self, epsilon, accountant)

    def profile(self, epsilons: Sequence[float] | None = None) -> accounting.Profile:
        """Upper bounds on delta at many epsilons: the whole guarantee."""
        return accounting.profile(self, epsilons)

    def trade_off(self, false_positives: Sequence[float] | None = None) -> accounting.TradeOff:
        """The least false negatives of any membership attack, by its false positives."""
        return accounting.trade_off(self, false_positives)


class Plan(Guarantee):
    """What `hg.train` can run, step by step.

    Attributes:
      phases: what runs, one after the other.
    """

    phases: tuple[Mechanism, ...]

    @abc.abstractmethod
    def at(self, step: int) -> tuple[Mechanism, int]:
        """The phase that a step belongs to, and the number of that phase's first step."""

    @abc.abstractmethod
    def after(self, steps: int | None) -> Plan:
        """The same, stopped after so many steps."""

    def statement(
        self, *, max_examples_per_user: int | None = None, microbatching: bool = False
    ) -> str:
        """What is promised, to whom and against what, in plain words.

        Args:
          max_examples_per_user: also what is promised to a user who has so many examples.
          microbatching: of other systems that average the gradients of several examples
            before they clip; hushgrad never does.
        """
        return accounting.statement(
            self, max_examples_per_user=max_examples_per_user, microbatching=microbatching
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mechanism(Plan):
    """DP-SGD or DP-FTRL as plain immutable data; made by `hushgrad.dp_sgd` and its kin.

    Attributes:
      examples: number of examples in the data set, a public fact.
      batch_size: expected batch size, the public divisor of every sum.
      sampling: how a batch is drawn.
      clip: how each example's gradient is bounded.
      noise_multiplier: standard deviation of the noise over the sensitivity, of
        all that a step releases together.
      steps: number of noisy releases.
      delta: at which epsilon is stated unless another is asked for.
      unit: whose presence is hidden: "example", "user" (a row of the data is a user, and
        `examples` counts users) or, say, "group of 4" for any four examples together.
      strategy: how the noises of the steps depend on each other.
    """

    examples: int
    batch_size: int
    sampling: Sampler
    clip: Rule
    noise_multiplier: float
    steps: int
    delta: float
    unit: str = "example"
    strategy: Strategy = _INDEPENDENT

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, SAMPLERS):
            raise InputError(
                f"sampling must be a sampler from hushgrad.sampling, got {self.sampling!r}"
            )
        if not isinstance(self.clip, Rule):
            raise InputError(f"clip must be a rule from hushgrad.clip, got {self.clip!r}")
        if self.clip.group > 1 and not isinstance(self.sampling, Shuffle | Stream):
            raise InputError(
                f"clip={self.clip!r} needs batches in which everybody has a place of their "
                "own: take sampling=hg.sampling.Shuffle, or clip each example by hg.clip.Flat"
            )
        positive("noise_multiplier", self.noise_multiplier)
        whole("steps", self.steps, at_least=0)
        fraction("delta", self.delta)
        if not isinstance(self.strategy, Strategy):
            raise InputError(f"strategy must be of hushgrad.noise, got {self.strategy!r}")
        if self.strategy.correlated and self.clip.init() is not None:
            raise InputError(
                f"clip={self.clip!r} moves from step to step, which noise that depends on other "
                "steps' does not follow; take a clip that stays, such as hg.clip.Flat"
            )
        if self.strategy.counts and self.clip.group > 1:
            raise InputError(
                f"clip={self.clip!r} does not go with noise that counts who looks up a row; take "
                "hg.clip.Flat"
            )
        self.event_with(1.0)  # or an error
        self.strategy.transformation(1.0, max(self.steps, 1))  # or an error
        self.clip.sum_noise_multiplier(self.noise_multiplier)  # or an error

    @property
    def neighbouring_relation(self) -> str:
        """What may differ between two data sets, once for each of the unit's examples."""
        return self.sampling.neighbouring_relation

    @property
    def sampling_rate(self) -> float:
        """Expected share of the examples in one batch."""
        return self.batch_size / self.examples

    @property
    def sum_noise_multiplier(self) -> float:
        """Of the noise on the sum of gradients alone.

        Above `noise_multiplier` where the clip or the noise release counts beside the sum;
        then all of it together has `noise_multiplier`.
        """
        left = self.clip.sum_noise_multiplier(self.noise_multiplier)
        return self.strategy.sum_noise_multiplier(left)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on the sum, in the first step of an adaptive clip."""
        return self.sum_noise_multiplier * self.clip.sensitivity

    @property
    def group(self) -> int:
        """How many rows the unit has at most."""
        return group_of(self.unit)

    @property
    def phases(self) -> tuple[Mechanism, ...]:
        """The mechanism alone."""
        return (self,)

    def at(self, step: int) -> tuple[Mechanism, int]:
        """The mechanism alone, whose first step is 0."""
        return self, 0

    @property
    def event(self) -> dp_accounting.DpEvent:
        """All releases of the mechanism, in `dp_accounting`'s language."""
        return self.event_with(self.noise_multiplier)

    def event_with(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        """What `event` would be with other noise."""
        return released(
            self.sampling, self.strategy, self.examples, noise_multiplier, self.steps, self.group
        )

    def noise(
        self, norm: Float[Array, ""] | float | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The transformation that makes a clipped sum private.

        Args:
          norm: what the sum was clipped to by an adaptive clip; its initial norm by
            default.

        Raises:
          InputError: if a norm is given and the clip's does not move.
        """
        sensitivity = self.clip.sensitivity_at(norm)
        return self.strategy.noise(self.sum_noise_multiplier, sensitivity, max(self.steps, 1))

    def to_dict(self) -> dict[str, Any]:
        """The mechanism as plain data; equal dictionaries mean equal mechanisms."""
        return {
            "unit": self.unit,
            "neighbouring_relation": self.neighbouring_relation,
            "examples": self.examples,
            "batch_size": self.batch_size,
            "sampling": sampler_to_dict(self.sampling),
            "clip": self.clip.to_dict(),
            "noise": {**self.strategy.to_dict(), "noise_multiplier": self.noise_multiplier},
            "steps": self.steps,
            "delta": self.delta,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Mechanism:
        """The mechanism that `to_dict` wrote."""
        noise = dict(plain["noise"])
        noise_multiplier = noise.pop("noise_multiplier")
        return cls(
            examples=plain["examples"],
            batch_size=plain["batch_size"],
            sampling=sampler_from_dict(plain["sampling"]),
            clip=clip_from_dict(plain["clip"]),
            noise_multiplier=noise_multiplier,
            strategy=strategy_from_dict(noise),
            steps=plain["steps"],
            delta=plain["delta"],
            unit=plain["unit"],
        )

    def after(self, steps: int | None) -> Mechanism:
        """The same mechanism, stopped after so many steps."""
        if steps is None:
            return self
        return dataclasses.replace(self, steps=whole("steps", steps, at_least=0))


def group_of(unit: Any) -> int:
    """How many rows a unit has at most.

    Raises:
      InputError: if it is none.
    """
    if unit in ("example", "user"):
        return 1
    found = _GROUP.fullmatch(unit) if isinstance(unit, str) else None
    if found is None:
        raise InputError(f"unit must be 'example', 'user' or 'group of 4', got {unit!r}")
    return int(found[1])
