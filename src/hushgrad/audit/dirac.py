"""Canaries in the space of gradients: one coordinate each, watched in every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from hushgrad.audit.found import CanariesFound
from hushgrad.audit.places import Places
from hushgrad.clip import Rule
from hushgrad.gradients import Clipped
from hushgrad.mechanism import Mechanism, Plan
from hushgrad.sampling import Poisson
from hushgrad.training.data import Source
from hushgrad.training.planting import Planted
from hushgrad.training.step import State, Summand
from hushgrad.training.team import whole

if TYPE_CHECKING:
    from hushgrad.audit.canaries import Canaries

__all__ = ["draw", "plant"]


@dataclasses.dataclass(frozen=True)
class _WithCanaries:
    """The sum of a block, and beside it one coordinate for each canary.

    Formal guarantee: one row, canary or not, changes both together by at most the clip's
    sensitivity: a canary has no gradient but its coordinate, and no other row has one there.
    """

    clipped: Summand
    clip: Rule
    count: int

    def __call__(
        self,
        params: PyTree[Array],
        numbers: Array,
        *batch: Any,
        mask: Bool[Array, " block"],
        norm: Float[Array, ""] | None = None,
    ) -> Clipped:
        canary = numbers >= 0
        out = self.clipped(params, *batch, mask=mask & ~canary, norm=norm)
        there = mask & canary
        seats = jnp.where(there, numbers, self.count)
        added = jnp.zeros(self.count).at[seats].add(1.0, mode="drop")
        return out._replace(
            grads=(out.grads, added * self.clip.sensitivity_at(norm)),
            # They have no loss, and count as clipped.
            losses=jnp.where(there, jnp.nan, out.losses),
            centred_bits=out.centred_bits - there.sum() / 2,
        )


class _Watched(NamedTuple):
    """An optimizer's state, and what was seen of each canary so far."""

    inner: optax.OptState
    scores: Float[Array, " canaries"]


def draw(
    source: Source,
    mechanism: Plan,
    params: PyTree[Array],
    places: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Nothing more: each canary has a coordinate of its own."""
    return {}


def plant(
    canaries: Canaries,
    drawn: dict[str, Any],
    given: Planted,
    loss: Callable[..., Any],
    mechanism: Plan,
    params: PyTree[Array],
) -> Planted:
    """Adds the canaries beside the sums, and watches what is released of them."""
    included, count = np.array(drawn["included"]), canaries.count

    def found(state: State, steps: int) -> CanariesFound:
        assert isinstance(state.optimizer, _Watched)
        scores = whole(state.optimizer.scores)
        return CanariesFound.of(canaries, scores, included, mechanism.after(steps))

    return dataclasses.replace(
        given,
        source=Places(given.source, np.array(drawn["places"]), included),
        optimizer=_watching(given.optimizer, count, _gain(mechanism)),
        summand=lambda clipped: _WithCanaries(given.summand(clipped), clipped.clip, count),  # type: ignore[attr-defined]
        shaped=lambda params: (given.shaped(params), jnp.zeros(count)),
        found=found,
    )


def _gain(mechanism: Plan) -> Callable[[Array], Array]:
    """What one step's released coordinate adds to a score.

    For independent noise and coins the logarithm of the likelihood ratio, which no other score
    beats; a sum otherwise.
    """
    m = mechanism
    if not (isinstance(m, Mechanism) and isinstance(m.sampling, Poisson)):
        return lambda seen: seen
    if m.strategy.correlated or m.clip.init() is not None:
        return lambda seen: seen
    noise, rate = m.sum_noise_multiplier, m.sampling_rate
    unit = m.batch_size / m.clip.group / m.clip.sensitivity

    def gain(seen: Array) -> Array:
        inside = (seen * unit - 0.5) / noise**2 + np.log(rate)
        # Rate one leaves nobody out.
        return jnp.logaddexp(np.log1p(-rate), inside) if rate < 1 else inside

    return gain


def _watching(
    optimizer: optax.GradientTransformation, count: int, gain: Callable[[Array], Array]
) -> optax.GradientTransformation:
    """The optimizer, that also keeps what it sees of the canaries, and takes them off."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> optax.OptState:
        return _Watched(optimizer.init(params), jnp.zeros(count))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, _Watched)
        seen: Array
        updates, seen = updates  # type: ignore[misc, assignment]
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        return updates, _Watched(inner, state.scores + gain(seen))

    return optax.GradientTransformationExtraArgs(init, update)
