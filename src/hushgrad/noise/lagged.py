"""Noise that takes off shares of the last steps' noise: banded matrices, streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, UInt32

from hushgrad.noise.gaussian import gaussian, normals_for, plus, step_key, wide

__all__ = ["KeptState", "combined", "lagged", "streamed"]


class KeptState(NamedTuple):
    """What the noise of later steps depends on. As secret as the key.

    Attributes:
      step: how many were made.
      kept: for each leaf of the parameters so many arrays of its shape, in standard deviations.
    """

    step: Int[Array, ""]
    kept: PyTree[Float[Array, "kept ..."]]


# The step's number, its normals and what is kept of earlier ones -> its noise, what is kept now.
_Next = Callable[[Array, Array, Array], tuple[Array, Array]]


def streamed(
    stddev: float | Float[Array, ""], kept: int, following: _Next
) -> optax.GradientTransformationExtraArgs:
    """Adds noise that follows from fresh normals and from so many arrays per leaf."""
    gaussian(stddev)  # or an error

    def init(params: optax.Params) -> optax.OptState:
        def empty(leaf: Array) -> Array | None:
            dtype = wide(jnp.asarray(leaf))
            return None if dtype is None else jnp.zeros((kept, *leaf.shape), dtype)

        return KeptState(jnp.zeros((), jnp.int32), jax.tree.map(empty, params))

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
        assert isinstance(state, KeptState)
        leaves, treedef = jax.tree.flatten(updates)
        before = treedef.flatten_up_to(state.kept)
        made: list[Array | None] = []
        after: list[Array | None] = []
        for normals, one in zip(normals_for(key, leaves), before, strict=True):
            both = (None, None) if normals is None else following(state.step, normals, one)
            made.append(both[0])
            after.append(both[1])
        state = KeptState(state.step + 1, jax.tree.unflatten(treedef, after))
        return jax.tree.unflatten(treedef, plus(leaves, made, stddev)), state

    return optax.GradientTransformationExtraArgs(init, update)


def lagged(
    stddev: float | Float[Array, ""], rows: Callable[[Array], Float[Array, " bands"]], bands: int
) -> optax.GradientTransformationExtraArgs:
    """Noise y with C y = z for fresh normals z and a lower-triangular C of so many bands.

    Args:
      stddev: of z.
      rows: step t -> C[t, t], C[t, t - 1], .. of row t.
      bands: how many there are. The noise of the last `bands - 1` steps is kept.
    """
    slots = max(1, bands - 1)

    def following(step: Array, normals: Array, past: Array) -> tuple[Array, Array]:
        row = jnp.pad(rows(step), (0, slots + 1 - bands)).astype(normals.dtype)
        # Step s is kept in place s modulo `slots`.
        weights = row[1:][(step - 1 - jnp.arange(slots)) % slots]
        made = (normals - combined(weights, past)) / row[0]
        return made, lax.dynamic_update_index_in_dim(past, made, step % slots, 0)

    return streamed(stddev, slots, following)


def combined(weights: Array, kept: Array) -> Array:
    """A weighted sum of arrays, in their own precision on every device."""
    return jnp.tensordot(weights, kept, 1, precision=lax.Precision.HIGHEST)
