"""A mechanism: who is sampled, how gradients are bounded, which noise, how often.

The cost in privacy is derived from these facts and never stated beside them: what
is accounted is what runs.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dp_accounting
import optax
from jaxtyping import Array, Float

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.clip import Rule, as_rule
from hushgrad.clip import from_dict as clip_from_dict
from hushgrad.costs import released
from hushgrad.errors import InputError
from hushgrad.noise import Independent, Strategy, Tree
from hushgrad.noise import from_dict as strategy_from_dict
from hushgrad.sampling import SAMPLERS, Poisson, Sampler, Shuffle, Stream
from hushgrad.sampling import from_dict as sampler_from_dict
from hushgrad.sampling import to_dict as sampler_to_dict

__all__ = ["Guarantee", "Mechanism", "Plan", "dp_ftrl", "dp_sgd", "group_of", "planned"]

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
    """DP-SGD or DP-FTRL as plain immutable data; made by `hushgrad.dp_sgd` or `hushgrad.dp_ftrl`.

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
        self.event_with(1.0)  # or an error
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

        Above `noise_multiplier` where the clip releases a count beside the sum; then
        the two together have `noise_multiplier`.
        """
        return self.clip.sum_noise_multiplier(self.noise_multiplier)

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
        stddev = self.sum_noise_multiplier * self.clip.sensitivity_at(norm)
        return self.strategy.transformation(stddev, max(self.steps, 1))

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


def dp_sgd(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    clip: float | Rule = 1.0,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    sampling: type[Sampler] | Sampler = Poisson,
    unit: str = "example",
) -> Mechanism:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133).

    ```python
    m = hg.dp_sgd(examples=60_000, batch_size=256, epochs=60, clip=1.0, delta=1e-5, epsilon=3.0)
    ```

    Formal guarantee: the sequence of all `steps` noisy sums, and whatever is computed from
    them, is (epsilon, delta)-differentially private under the sampler's neighbouring relation.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm, or a rule from `hushgrad.clip`.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: noise over the clip's sensitivity, in place of `epsilon`.
      sampling: a sampler of `hushgrad.sampling`, or one made for these examples.
      unit: "example", "user" (`examples` and `batch_size` count users) or "group of 4".

    Raises:
      InputError: if an argument is out of range, not exactly one of each pair is
        given, or an adaptive clip's count has too little noise beside the sum's.

    Warns: if delta is above 1 / examples.
    """
    return planned(
        examples,
        batch_size,
        (epochs, steps),
        clip,
        delta,
        functools.partial(_noise, epsilon, noise_multiplier, delta),
        sampling,
        _INDEPENDENT,
        unit,
    )


def dp_ftrl(
    *,
    examples: int,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    clip: float | Rule = 1.0,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    sampling: type[Sampler] | Sampler = Shuffle,
    restart_every: int | None = None,
) -> Mechanism:
    """DP-FTRL (Kairouz et al. 2021, arXiv 2103.00039): noise of a tree over the steps.

    ```python
    m = hg.dp_ftrl(examples=60_000, batch_size=500, epochs=20, clip=1.0, delta=1e-5, epsilon=3.0)
    ```

    For data that cannot be sampled at random: the noise of a sum over many steps grows with
    their logarithm, and needs no amplification by sampling. Where Poisson sampling can be
    had, `dp_sgd` is most often better at small epsilon. See `hushgrad.noise.tree`.

    Formal guarantee: as `dp_sgd`'s, under the sampler's neighbouring relation. What is charged
    is the exact cost of one Gaussian mechanism over all nodes of the tree, for the worst
    steps in which an example may take part with this sampler.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm, or a rule of `hushgrad.clip` that stays.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: of a node's noise over the clip's sensitivity, in place of `epsilon`.
      sampling: `Shuffle`, `BallsInBins`, `CyclicPoisson`, or one made for these examples.
      restart_every: begin a new tree after so many steps, such as an epoch's.

    Raises:
      InputError: as `dp_sgd`; or if the sampler leaves it to chance when an example takes part,
        or the clip moves.

    Warns: if delta is above 1 / examples.
    """
    return planned(
        examples,
        batch_size,
        (epochs, steps),
        clip,
        delta,
        functools.partial(_noise, epsilon, noise_multiplier, delta),
        sampling,
        Tree(restart_every),
        "example",
    )


def planned(
    examples: int,
    batch_size: int,
    length: tuple[float | None, int | None],
    clip: float | Rule,
    delta: float,
    noise: Callable[[str, Callable[[float], dp_accounting.DpEvent]], float],
    sampling: type[Sampler] | Sampler,
    strategy: Strategy,
    unit: str,
) -> Mechanism:
    """A mechanism from what users say.

    The length is epochs or steps, the other one None; `noise` gives the noise multiplier from
    the neighbouring relation and from what would be released with any one.
    """
    examples, batch_size = whole("examples", examples), whole("batch_size", batch_size)
    if batch_size > examples:
        raise InputError(
            f"batch_size must be at most the number of examples, got batch_size={batch_size} "
            f"for {examples} examples"
        )
    drawn = _drawn(sampling, examples, batch_size)
    clip = as_rule(clip).for_batch(batch_size)
    delta = _delta(delta, examples)
    steps, group = _steps(examples, batch_size, *length), group_of(unit)
    noise_multiplier = noise(
        drawn.neighbouring_relation,
        lambda z: released(drawn, strategy, examples, z, steps, group),
    )
    return Mechanism(
        examples=examples,
        batch_size=batch_size,
        sampling=drawn,
        clip=clip,
        noise_multiplier=noise_multiplier,
        steps=steps,
        delta=delta,
        unit=unit,
        strategy=strategy,
    )


def _drawn(sampling: type[Sampler] | Sampler, examples: int, batch_size: int) -> Sampler:
    if sampling in SAMPLERS:
        return sampling.of(examples, batch_size)
    if not isinstance(sampling, SAMPLERS):
        raise InputError(f"sampling must be a sampler of hushgrad.sampling, got {sampling!r}")
    expected = sampling.expected_size(examples)
    if abs(expected - batch_size) > max(1.0, 0.01 * batch_size):
        raise InputError(
            f"batch_size must be what {sampling!r} draws of {examples} examples, {expected:g}, "
            f"got {batch_size}"
        )
    return sampling


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


def _delta(delta: float, examples: int) -> float:
    delta = fraction("delta", delta)
    if delta > 1 / examples:
        warnings.warn(
            f"delta={delta:g} is above 1/examples = {1 / examples:.3g}: a mechanism that "
            "publishes one record at random would pass; choose a smaller delta",
            stacklevel=4,
        )
    return delta


def _steps(examples: int, batch_size: int, epochs: float | None, steps: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise InputError(f"give one of epochs and steps, got epochs={epochs!r}, steps={steps!r}")
    if epochs is None:
        return whole("steps", steps)
    return accounting.whole_steps(examples, batch_size, positive("epochs", epochs))


def _noise(
    epsilon: float | None,
    noise_multiplier: float | None,
    delta: float,
    relation: str,
    event: Callable[[float], dp_accounting.DpEvent],
) -> float:
    if (epsilon is None) == (noise_multiplier is None):
        raise InputError(
            "give one of epsilon and noise_multiplier, got "
            f"epsilon={epsilon!r}, noise_multiplier={noise_multiplier!r}"
        )
    if noise_multiplier is not None:
        return positive("noise_multiplier", noise_multiplier)
    return accounting.smallest_noise(event, positive("epsilon", epsilon), delta, relation=relation)
