"""Independent Gaussian noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, UInt32

from hushgrad._check import positive
from hushgrad.errors import InputError
from hushgrad.noise.normal import Wanted, standard_normals
from hushgrad.noise.participation import Participation, Spaced
from hushgrad.noise.strategy import Strategy
from hushgrad.noise.workload import Workload

__all__ = ["Independent", "gaussian", "normals_for", "plus", "step_key", "wide"]


def gaussian(stddev: float | Float[Array, ""]) -> optax.GradientTransformationExtraArgs:
    """Adds independent normal noise to every coordinate of a sum.

    ```python
    noise = hg.noise.gaussian(stddev=1.1 * clip)
    private_sum, state = noise.update(clipped.grads, noise.init(params), key=key)
    ```

    The noise is a pure function of `key`: 256 bits, secret, and fresh for every
    release. Two releases under one key differ by what they release, without noise.
    Bits come from ChaCha20, normals from a Box-Muller transform of 64 bits.

    Formal guarantee: if one example changes the sum by at most `s` in Euclidean
    norm, the result is the Gaussian mechanism with noise multiplier `stddev / s`,
    up to float rounding (Mironov 2012 describes attacks on that rounding).

    Args:
      stddev: standard deviation, in the units of the sum; under `jit` it may be
        traced, and is then taken as it comes. Leaves that are not numbers with a
        fraction (integers) pass through unchanged.

    Raises:
      InputError: if `stddev` is not positive and finite, `key` is missing or not uint32[8], or
        a leaf is complex.
    """
    if not isinstance(stddev, Tracer):
        # The array itself, not its value as a float: that would be another program.
        positive("stddev", stddev.item() if isinstance(stddev, jax.Array) else stddev)

    def init(params: optax.Params) -> optax.OptState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        key: UInt32[Array, "8"] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra
        key = step_key(key)
        leaves, treedef = jax.tree.flatten(updates)
        noisy = plus(leaves, normals_for(key, leaves), stddev)
        return jax.tree.unflatten(treedef, noisy), state

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class Independent(Strategy):
    """Each step has noise of its own: `gaussian`."""

    kind = "gaussian"
    correlated = False

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Independent:
        """There is one of this kind."""
        return cls()

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `gaussian`, whatever the number of steps."""
        return gaussian(stddev)

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """The root of how often somebody takes part."""
        if isinstance(pattern, Spaced):
            return math.sqrt(min(pattern.turns, -(-steps // pattern.apart)))
        return math.sqrt(-(-steps // pattern.length))

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """They add up."""
        return np.arange(1.0, steps + 1)

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        return f"Gaussian noise with multiplier {noise_multiplier:.6g}"


def step_key(key: Any) -> Array:
    """The key of a step's noise, checked.

    Raises:
      InputError: if there is none or it is not uint32[8].
    """
    if key is None:
        raise InputError("key is missing: pass the step's 256 secret bits, update(..., key=...)")
    key = jnp.asarray(key)
    if key.shape != (8,) or key.dtype != jnp.uint32:
        raise InputError(f"key must be uint32 of shape (8,), got {key.dtype} of {key.shape}")
    return key


def wide(leaf: Array) -> jnp.dtype | None:
    """The type that a leaf's noise is made in; None for one that gets none.

    Raises:
      InputError: if the leaf is complex.
    """
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return None
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise InputError(f"updates must be real numbers, got {leaf.dtype}: it would get no noise")
    # Noise in a narrower type would be rounded to a coarse, attackable grid.
    return jnp.promote_types(leaf.dtype, jnp.float32)


def normals_for(
    key: Array, leaves: Sequence[Array], draw: int | Array = 0
) -> list[Float[Array, "..."] | None]:
    """Standard normals for each array of a sum; None for one that gets no noise."""
    types = [wide(leaf) for leaf in leaves]
    wanted = [
        Wanted(number, leaf.shape, dtype)
        for number, (leaf, dtype) in enumerate(zip(leaves, types, strict=True))
        if dtype is not None
    ]
    made = iter(standard_normals(key, wanted, draw))
    return [None if dtype is None else next(made) for dtype in types]


def plus(
    leaves: Sequence[Array],
    normals: Sequence[Float[Array, "..."] | None],
    stddev: float | Float[Array, ""],
) -> list[Array]:
    """Arrays with so many standard deviations of noise."""
    return [
        leaf if made is None else leaf.astype(made.dtype) + jnp.asarray(stddev, made.dtype) * made
        for leaf, made in zip(leaves, normals, strict=True)
    ]
