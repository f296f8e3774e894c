"""Failures that other systems had, put into the real training code, one at a time."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import hushgrad as hg
from hushgrad.gradients import Clipped
from hushgrad.noise import Independent
from hushgrad.sampling import Poisson, Shuffle
from hushgrad.training import job
from hushgrad.training.secret import RunSecret

__all__ = ["FAULTS", "mechanism"]

Patch = pytest.MonkeyPatch
# The module: in its package a function has the same name.
gaussian = importlib.import_module("hushgrad.noise.gaussian")


def mechanism(**changes: Any) -> hg.Mechanism:
    """Small, and with little noise, so that a few thousand runs tell much."""
    settings: dict[str, Any] = {
        "examples": 8,
        "batch_size": 4,
        "steps": 2,
        "clip": 2.0,
        "delta": 1e-2,
        "noise_multiplier": 1.0,
    }
    return hg.dp_sgd(**settings | changes)


def no_noise(patch: Patch) -> None:
    # As good as none, and still a number that the noise's own checks take.
    made = Independent.transformation
    patch.setattr(Independent, "transformation", lambda s, stddev, n: made(s, 1e-6, n))


def noise_in_some_arrays(patch: Patch) -> None:
    made = gaussian.normals_for

    def normals_for(key: Any, leaves: Any, draw: Any = 0) -> Any:
        return [made(key, leaves, draw)[0], *(jnp.zeros_like(leaf) for leaf in leaves[1:])]

    patch.setattr(gaussian, "normals_for", normals_for)


def one_number_for_all(patch: Patch) -> None:
    """As from a key that is used anew for every coordinate."""
    made = gaussian.normals_for

    def normals_for(key: Any, leaves: Any, draw: Any = 0) -> Any:
        first = made(key, leaves, draw)[0]
        return [jnp.full_like(leaf, first.ravel()[0]) for leaf in leaves]

    patch.setattr(gaussian, "normals_for", normals_for)


def wrong_clip(patch: Patch) -> None:
    """Noise for a clip of 1 where gradients are clipped to 2."""
    patch.setattr(
        hg.Mechanism,
        "noise",
        lambda m, norm=None: m.strategy.transformation(m.sum_noise_multiplier * 1.0, m.steps),
    )


@dataclasses.dataclass(frozen=True)
class _ClippedMean:
    loss: Callable[..., Any]
    norm: float

    def __call__(self, params: Any, *batch: Any, mask: Any, norm: Any = None) -> Clipped:
        grads = jax.vmap(jax.grad(self.loss), (None, *(0,) * len(batch)))(params, *batch)
        total = jax.tree.map(lambda g: jnp.tensordot(mask.astype(g.dtype), g, 1), grads)
        count = jnp.maximum(mask.sum(), 1)
        length = optax.tree.norm(total) / count
        scale = jnp.minimum(1.0, self.norm / jnp.maximum(length, 1e-12))
        zeros = jnp.zeros(mask.shape)
        grads = jax.tree.map(lambda g: g * scale, total)
        return Clipped(grads, zeros, zeros, jnp.zeros((), jnp.int32), jnp.zeros(()))


def clipped_after_averaging(patch: Patch) -> None:
    patch.setattr(job, "clipped_grad", lambda loss, clip, devices=1: _ClippedMean(loss, clip.norm))


def batch_of_one(patch: Patch) -> None:
    """Where fewer than two were drawn, the step goes out as it is."""
    made = job.Job.released

    def released(self: Any, state: Any, sums: Any, secret: Any, number: int) -> Any:
        after = made(self, state, sums, secret, number)
        size = self.mechanism.batch_size
        bare = jax.tree.map(lambda p, g: p - g / size, state.params, sums.grads)
        few = sums.finite < 2
        return after._replace(
            params=jax.tree.map(lambda a, b: jnp.where(few, b, a), after.params, bare)
        )

    patch.setattr(job.Job, "released", released)


def reused_noise(patch: Patch) -> None:
    made = RunSecret.noise_key
    patch.setattr(RunSecret, "noise_key", lambda self, number: made(self, 0))


def shuffled(patch: Patch) -> None:
    """Poisson sampling is claimed, and every example is in one batch of every pass."""

    def batch(self: Poisson, number: int, examples: int, generator: Any) -> Any:
        return Shuffle(round(self.rate * examples)).batch(number, examples, generator)

    patch.setattr(Poisson, "batch", batch)


def drawn_divisor(patch: Patch) -> None:
    """The noisy sum is divided by how many were drawn."""
    made = job.Job.released

    def released(self: Any, state: Any, sums: Any, secret: Any, number: int) -> Any:
        after = made(self, state, sums, secret, number)
        share = self.mechanism.batch_size / jnp.maximum(sums.finite, 1)
        return after._replace(
            params=jax.tree.map(lambda a, b: b + (a - b) * share, after.params, state.params)
        )

    patch.setattr(job.Job, "released", released)


def larger_later_steps(patch: Patch) -> None:
    """From the second step on, sums are twice as large as what the noise is for."""
    made = job.Job.released

    def released(self: Any, state: Any, sums: Any, secret: Any, number: int) -> Any:
        if number:
            grads = jax.tree.map(lambda g: g * 2, sums.grads)
            sums = sums._replace(grads=grads)
        return made(self, state, sums, secret, number)

    patch.setattr(job.Job, "released", released)


def not_clipped(patch: Patch) -> None:
    """Gradients as long as they are."""
    patch.setattr(
        hg.clip.Flat,
        "coefficients",
        lambda self, squared_norms, slack, norm=None: jnp.ones_like(squared_norms),
    )


# The failure, and a mechanism under which it hurts.
FAULTS: dict[str, tuple[Callable[[Patch], None], Callable[[], hg.Mechanism]]] = {
    "no noise": (no_noise, mechanism),
    "noise in some arrays alone": (noise_in_some_arrays, mechanism),
    "one number for all coordinates": (one_number_for_all, mechanism),
    "noise for another clip": (wrong_clip, mechanism),
    "clipped after averaging": (clipped_after_averaging, mechanism),
    "not clipped": (not_clipped, mechanism),
    "batch of one without noise": (
        batch_of_one,
        lambda: mechanism(examples=4, batch_size=1, steps=3),
    ),
    "noise used again": (reused_noise, lambda: mechanism(steps=3)),
    "shuffled, Poisson claimed": (shuffled, lambda: mechanism(noise_multiplier=0.3)),
    "divided by the drawn": (
        drawn_divisor,
        lambda: mechanism(batch_size=8, steps=1),
    ),
    "later steps twice as large": (larger_later_steps, mechanism),
}
