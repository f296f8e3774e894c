"""A mechanism: who is sampled, how gradients are bounded, which noise, how often.

The cost in privacy is derived from these facts and never stated beside them: what
is accounted is what runs.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import dp_accounting
import optax
from jaxtyping import Array, Float

from hushgrad import accounting
from hushgrad._check import fraction, positive, whole
from hushgrad.clip import Rule, as_rule
from hushgrad.errors import InputError
from hushgrad.noise import gaussian
from hushgrad.sampling import SAMPLERS, BallsInBins, FixedSize, Poisson, Shuffle

__all__ = ["Mechanism", "dp_sgd"]

Sampler = Poisson | FixedSize | Shuffle | BallsInBins


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mechanism:
    """DP-SGD as plain immutable data; made by `hushgrad.dp_sgd`.

    Attributes:
      examples: number of examples in the data set, a public fact.
      batch_size: expected batch size, the public divisor of every sum.
      sampling: how a batch is drawn.
      clip: how each example's gradient is bounded.
      noise_multiplier: standard deviation of the noise over the sensitivity, of
        all that a step releases together.
      steps: number of noisy releases.
      delta: at which epsilon is stated unless another is asked for.
      unit: whose presence is hidden.
    """

    examples: int
    batch_size: int
    sampling: Sampler
    clip: Rule
    noise_multiplier: float
    steps: int
    delta: float
    unit: str = dataclasses.field(default="example", init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, SAMPLERS):
            raise InputError(
                f"sampling must be a sampler from hushgrad.sampling, got {self.sampling!r}"
            )
        if not isinstance(self.clip, Rule):
            raise InputError(f"clip must be a rule from hushgrad.clip, got {self.clip!r}")
        positive("noise_multiplier", self.noise_multiplier)
        whole("steps", self.steps, at_least=0)
        fraction("delta", self.delta)
        self.clip.sum_noise_multiplier(self.noise_multiplier)  # or an error

    @property
    def neighbouring_relation(self) -> str:
        """What may differ between two data sets that nobody can tell apart."""
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
    def event(self) -> dp_accounting.DpEvent:
        """All releases of the mechanism, in `dp_accounting`'s language."""
        return _event(self.sampling, self.examples, self.noise_multiplier, self.steps)

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
        return gaussian(self.sum_noise_multiplier * self.clip.sensitivity_at(norm))

    def statement(self, *, max_examples_per_user: int | None = None) -> str:
        """What the mechanism promises, to whom and against what, in plain words.

        Args:
          max_examples_per_user: also what it promises a user who has so many examples.
        """
        return accounting.statement(self, max_examples_per_user=max_examples_per_user)

    def to_dict(self) -> dict[str, Any]:
        """The mechanism as plain data; equal dictionaries mean equal mechanisms."""
        return {
            "unit": self.unit,
            "neighbouring_relation": self.neighbouring_relation,
            "examples": self.examples,
            "batch_size": self.batch_size,
            "sampling": {"kind": self.sampling.kind, **dataclasses.asdict(self.sampling)},
            "clip": self.clip.to_dict(),
            "noise": {"kind": "gaussian", "noise_multiplier": self.noise_multiplier},
            "steps": self.steps,
            "delta": self.delta,
        }

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
    sampling: type[Sampler] = Poisson,
) -> Mechanism:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133).

    ```python
    m = hg.dp_sgd(examples=60_000, batch_size=256, epochs=60, clip=1.0, delta=1e-5, epsilon=3.0)
    ```

    Formal guarantee: the sequence of all `steps` noisy sums, and whatever is
    computed from them, is (epsilon, delta)-differentially private under the sampler's
    neighbouring relation: adding or removing one example with Poisson sampling.

    Args:
      examples: number of examples, a public fact.
      batch_size: (expected) batch size, the divisor of every sum.
      epochs: passes over the data, rounded up to whole steps.
      steps: number of steps, in place of `epochs`.
      clip: bound on one example's gradient norm, or a rule from `hushgrad.clip`.
      delta: in (0, 1), well below 1 / examples.
      epsilon: the smallest noise that keeps it is found.
      noise_multiplier: noise over the clip's sensitivity, in place of `epsilon`.
      sampling: a sampler of `hushgrad.sampling`: how batches are drawn.

    Raises:
      InputError: if an argument is out of range, not exactly one of each pair is
        given, or an adaptive clip's count has too little noise beside the sum's.

    Warns: if delta is above 1 / examples.
    """
    examples, batch_size = whole("examples", examples), whole("batch_size", batch_size)
    if batch_size > examples:
        raise InputError(
            f"batch_size must be at most the number of examples, got batch_size={batch_size} "
            f"for {examples} examples"
        )
    if sampling not in SAMPLERS:
        raise InputError(f"sampling must be a sampler of hushgrad.sampling, got {sampling!r}")
    drawn = sampling.of(examples, batch_size)
    clip = as_rule(clip).for_batch(batch_size)
    delta = _delta(delta, examples)
    steps = _steps(examples, batch_size, epochs, steps)
    return Mechanism(
        examples=examples,
        batch_size=batch_size,
        sampling=drawn,
        clip=clip,
        noise_multiplier=_noise(epsilon, noise_multiplier, delta, drawn, examples, steps),
        steps=steps,
        delta=delta,
    )


def _event(
    sampling: Sampler, examples: int, noise_multiplier: float, steps: int
) -> dp_accounting.DpEvent:
    """What is released, in the words of the accountants; one line for each sampler."""
    if isinstance(sampling, FixedSize):
        released = dp_accounting.GaussianDpEvent(float(noise_multiplier))
        one = dp_accounting.SampledWithoutReplacementDpEvent(
            examples, sampling.batch_size, released
        )
        return dp_accounting.SelfComposedDpEvent(one, steps)
    if isinstance(sampling, Shuffle | BallsInBins):
        epochs = -(-steps // sampling.per_epoch(examples))
        return accounting.poisson_gaussian(1.0, noise_multiplier, epochs)
    return accounting.poisson_gaussian(sampling.rate, noise_multiplier, steps)


def _delta(delta: float, examples: int) -> float:
    delta = fraction("delta", delta)
    if delta > 1 / examples:
        warnings.warn(
            f"delta={delta:g} is above 1/examples = {1 / examples:.3g}: a mechanism that "
            "publishes one record at random would pass; choose a smaller delta",
            stacklevel=3,
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
    sampling: Sampler,
    examples: int,
    steps: int,
) -> float:
    if (epsilon is None) == (noise_multiplier is None):
        raise InputError(
            "give one of epsilon and noise_multiplier, got "
            f"epsilon={epsilon!r}, noise_multiplier={noise_multiplier!r}"
        )
    if noise_multiplier is not None:
        return positive("noise_multiplier", noise_multiplier)
    return accounting.smallest_noise(
        lambda z: _event(sampling, examples, z, steps),
        positive("epsilon", epsilon),
        delta,
        relation=sampling.neighbouring_relation,
    )
