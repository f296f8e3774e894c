"""From clients' updates to a private mean: clip, sum, noise, public divisor."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, UInt32

from hushgrad._check import positive, whole
from hushgrad.clip import Adaptive, Rule, as_rule
from hushgrad.errors import InputError
from hushgrad.federated.clipping import bounded
from hushgrad.mechanism import Mechanism
from hushgrad.noise import Independent, Strategy
from hushgrad.planning import dp_ftrl, dp_sgd
from hushgrad.sampling import Poisson, Sampler
from hushgrad.training.step import Sums, noised

__all__ = ["Aggregator", "AggregatorState", "dp_aggregator", "empty", "with_update"]


class AggregatorState(NamedTuple):
    """What a round needs of those before it.

    Attributes:
      norm: what updates are clipped to, where that moves, else None; may be published.
      noise: what later rounds' noise depends on; as secret as the keys.
    """

    norm: Float[Array, ""] | None
    noise: optax.OptState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregator:
    """How updates of one round become a private mean; made by `dp_aggregator`.

    ```python
    aggregator = hg.federated.dp_aggregator(noise_multiplier=1.0, clients_per_round=50)
    state = aggregator.init(params)
    sums = aggregator.empty(params)
    for update in updates:
        sums = aggregator.add(sums, update, state)
    mean, state = aggregator.release(sums, state, key=key)
    ```

    Attributes:
      noise_multiplier: of all that a round releases together, over its sensitivity.
      clients_per_round: expected number of clients, the public divisor of every sum.
      clip: how each update is bounded.
      strategy: how the rounds' noises depend on each other.
    """

    noise_multiplier: float
    clients_per_round: int
    clip: Rule
    strategy: Strategy = dataclasses.field(default_factory=Independent)

    def __post_init__(self) -> None:
        positive("noise_multiplier", self.noise_multiplier)
        whole("clients_per_round", self.clients_per_round)
        self.clip.sum_noise_multiplier(self.noise_multiplier)  # or an error
        if self.strategy.counts:
            raise InputError(
                f"strategy={self.strategy!r} counts the rows that an example looks up, which a "
                "client's update does not tell; it goes with hg.train alone"
            )
        if self.strategy.correlated and self.clip.init() is not None:
            raise InputError(
                f"clip={self.clip!r} moves from round to round, which noise that depends on other "
                "rounds' does not follow; take a clip that stays, such as hg.clip.Flat"
            )

    @property
    def batch_size(self) -> int:
        """Clients are the examples."""
        return self.clients_per_round

    @property
    def sum_noise_multiplier(self) -> float:
        """Of the noise on the sum of updates alone: z_delta of Andrew et al. 2021."""
        return self.clip.sum_noise_multiplier(self.noise_multiplier)

    def noise(
        self, norm: Float[Array, ""] | float | None = None, *, rounds: int = 1
    ) -> optax.GradientTransformationExtraArgs:
        """What makes a clipped sum private."""
        stddev = self.sum_noise_multiplier * self.clip.sensitivity_at(norm)
        return self.strategy.transformation(stddev, rounds)

    def init(self, params: PyTree[Array], *, rounds: int | None = None) -> AggregatorState:
        """The state before the first round.

        Args:
          params: the model's.
          rounds: how many are made at most; noise that is alone in each does without.

        Raises:
          InputError: if noise depends on other rounds' and it is not said how many there are.
        """
        if rounds is None and self.strategy.correlated:
            raise InputError(
                f"rounds must be given for {self.strategy.kind!r} noise, which depends on other "
                "rounds': init(params, rounds=...), as many as are made at most"
            )
        norm = self.clip.init()
        return AggregatorState(norm, self.noise(norm, rounds=rounds or 1).init(params))

    def empty(self, params: PyTree[Array]) -> Sums:
        """Sums over nobody."""
        return empty(params)

    def add(self, sums: Sums, update: PyTree[Array], state: AggregatorState) -> Sums:
        """The sums with one client's update more, clipped to the norm of this round.

        An update that is not finite adds exactly zero.
        """
        return with_update(self.clip, sums, update, state.norm)

    def release(
        self, sums: Sums, state: AggregatorState, *, key: UInt32[Any, "8"]
    ) -> tuple[PyTree[Array], AggregatorState]:
        """The noisy mean, and the state of the next round.

        Formal guarantee: a Gaussian mechanism with the aggregator's noise multiplier, of sums
        that one client changes by their one update; the clip's count included. Noise is for
        the norm that this round's updates were clipped to, and the divisor is the expected
        number of clients, whoever came.

        Args:
          sums: over the clients of the round.
          state: with which they were made.
          key: 256 secret bits, used for no other sums.
        """
        mean, norm, noise = noised(
            self,
            sums.grads,
            sums.grads,
            sums.centred_bits,
            state.norm,
            state.noise,
            jnp.asarray(key),
        )
        return mean, AggregatorState(norm, noise)

    def mechanism(
        self,
        *,
        clients: int,
        rounds: int,
        delta: float,
        sampling: type[Sampler] | Sampler | None = None,
    ) -> Mechanism:
        """What so many rounds with clients of a population release, and so cost.

        Args:
          clients: how many there are in all.
          rounds: how many are made.
          delta: in (0, 1), well below 1 / clients.
          sampling: how cohorts are found; Poisson sampling by default, for correlated noise
            each client once per pass.
        """
        settings: dict[str, Any] = {
            "examples": clients,
            "batch_size": self.clients_per_round,
            "steps": rounds,
            "clip": self.clip,
            "delta": delta,
            "noise_multiplier": self.noise_multiplier,
        }
        if self.strategy.correlated:
            m = dp_ftrl(**settings, sampling=sampling, strategy=self.strategy)
            return dataclasses.replace(m, unit="user")
        return dp_sgd(**settings, sampling=sampling or Poisson, unit="user")


def dp_aggregator(
    noise_multiplier: float,
    clients_per_round: int,
    *,
    clip: float | Rule | None = None,
    strategy: Strategy | None = None,
) -> Aggregator:
    """Clipping and noise for clients' updates, with TensorFlow Federated's defaults.

    By default the clip follows the median norm (Andrew et al. 2021, arXiv 1905.03871): from 0.1,
    at a learning rate of 0.2, by counts with noise of deviation `clients_per_round / 20`. The
    noise is shared between count and sum so that the two together are one Gaussian mechanism
    with `noise_multiplier`: with s that deviation, the sum has

        z_delta = (z^-2 - (2 s)^-2)^(-1/2).

    Unlike there, nothing is zeroed by an un-noised quantile of the norms.

    Args:
      noise_multiplier: of all that a round releases.
      clients_per_round: expected number of clients.
      clip: a fixed norm, or a rule of `hushgrad.clip`, in place of the adaptive one.
      strategy: noise that cancels between rounds, such as `hg.noise.Tree()`, with a fixed clip.

    Raises:
      InputError: if an argument is out of range, or z >= 2 s: the count alone would cost all
        that a round may.
    """
    clients_per_round = whole("clients_per_round", clients_per_round)
    rule = Adaptive() if clip is None else as_rule(clip)
    return Aggregator(
        noise_multiplier=positive("noise_multiplier", noise_multiplier),
        clients_per_round=clients_per_round,
        clip=rule.for_batch(clients_per_round),
        strategy=Independent() if strategy is None else strategy,
    )


@jax.jit
def empty(params: PyTree[Array]) -> Sums:
    """Sums over nobody, shaped like the parameters, in float32 or wider."""

    def zeros(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))
        return jnp.zeros_like(leaf)

    # Each with an array of its own: they are given away when the next client is added.
    return Sums(
        grads=jax.tree.map(zeros, params),
        loss=jnp.zeros((), jnp.float32),
        finite=jnp.zeros((), jnp.int32),
        clipped=jnp.zeros((), jnp.int32),
        nonfinite=jnp.zeros((), jnp.int32),
        centred_bits=jnp.zeros((), jnp.float32),
    )


def with_update(
    clip: Rule,
    sums: Sums,
    update: PyTree[Array],
    norm: Float[Array, ""] | None,
    loss: float = float("nan"),
    clipped: bool = False,
) -> Sums:
    """Sums with one client's update more, which may have been clipped before."""
    return _with_update(clip, sums, update, norm, jnp.float32(loss), jnp.asarray(clipped))


@jax.jit(static_argnames="clip")
def _with_update(
    clip: Rule, sums: Sums, update: Any, norm: Any, loss: Array, before: Array
) -> Sums:
    one = bounded(update, clip, norm)
    bit = jnp.where(before, -0.5, one.centred_bit)
    known = jnp.isfinite(loss)
    clipped = one.finite & (bit < 0)
    return Sums(
        grads=jax.tree.map(jnp.add, sums.grads, one.update),
        loss=sums.loss + jnp.where(known, loss, 0),
        finite=sums.finite + known.astype(jnp.int32),
        clipped=sums.clipped + clipped.astype(jnp.int32),
        nonfinite=sums.nonfinite + (~one.finite).astype(jnp.int32),
        centred_bits=sums.centred_bits + bit,
    )
