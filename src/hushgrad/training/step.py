"""The two compiled functions of a step: sum a block, release the sum."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from hushgrad.gradients import ClippedGrad
from hushgrad.mechanism import Mechanism

__all__ = ["State", "Sums", "accumulate", "empty_sums", "initial_state", "release"]


class State(NamedTuple):
    """What a checkpoint holds."""

    params: PyTree[Array]
    optimizer: optax.OptState
    noise: optax.OptState


class Sums(NamedTuple):
    """Sums over the blocks of one batch. None of them is private yet.

    Attributes:
      grads: of clipped gradients.
      loss: of the finite losses.
      finite: how many losses are finite.
      clipped: how many gradients were longer than the clip.
      nonfinite: how many gradients were not finite, and so left out.
    """

    grads: PyTree[Float[Array, "..."]]
    loss: Float[Array, ""]
    finite: Int[Array, ""]
    clipped: Int[Array, ""]
    nonfinite: Int[Array, ""]


def initial_state(
    params: PyTree[Array], mechanism: Mechanism, optimizer: optax.GradientTransformation
) -> State:
    """The state before the first step, in the types that every later state has.

    Some optimizers begin in the parameters' type and go on in a wider one; a
    checkpoint restored in the first would not repeat the steps after it.
    """
    state = State(params, optimizer.init(params), mechanism.noise().init(params))
    grads = jax.tree.map(
        lambda p: (
            jax.ShapeDtypeStruct(p.shape, jnp.promote_types(p.dtype, jnp.float32))
            if jnp.issubdtype(p.dtype, jnp.floating)
            else p
        ),
        params,
    )
    key = jax.ShapeDtypeStruct((8,), jnp.uint32)
    after = jax.eval_shape(
        lambda s, g, k: release(mechanism, optimizer, s, g, k), state, grads, key
    )
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, after)


@functools.partial(jax.jit, static_argnames="clipped_grad")
def empty_sums(
    clipped_grad: ClippedGrad, params: PyTree[Array], batch: Any, mask: Bool[Array, " block"]
) -> Sums:
    """Sums over no example at all, shaped as `accumulate` needs them."""
    out = jax.eval_shape(clipped_grad, params, *batch, mask=mask)
    zero = jnp.zeros((), jnp.int32)
    grads = jax.tree.map(lambda g: jnp.zeros(g.shape, g.dtype), out.grads)
    return Sums(grads, jnp.zeros((), out.losses.dtype), zero, zero, zero)


@functools.partial(jax.jit, static_argnames="clipped_grad", donate_argnames="sums")
def accumulate(
    clipped_grad: ClippedGrad,
    params: PyTree[Array],
    sums: Sums,
    batch: tuple[Any, ...],
    mask: Bool[Array, " block"],
) -> Sums:
    """Adds one block to the sums of a batch."""
    out = clipped_grad(params, *batch, mask=mask)
    good = mask & jnp.isfinite(out.losses)
    return Sums(
        grads=jax.tree.map(jnp.add, sums.grads, out.grads),
        loss=sums.loss + jnp.sum(jnp.where(good, out.losses, 0)),
        finite=sums.finite + jnp.sum(good, dtype=jnp.int32),
        clipped=sums.clipped + jnp.sum(out.norms > clipped_grad.clip.norm, dtype=jnp.int32),
        nonfinite=sums.nonfinite + out.nonfinite,
    )


@functools.partial(jax.jit, static_argnames=("mechanism", "optimizer"))
def release(
    mechanism: Mechanism,
    optimizer: optax.GradientTransformation,
    state: State,
    grads: PyTree[Float[Array, "..."]],
    key: UInt32[Array, "8"],
) -> State:
    """Adds the step's noise to the sum, divides by the public batch size, and updates.

    Formal guarantee: the new state is a function of the old one and of one Gaussian
    mechanism with the mechanism's noise multiplier, whatever was in the batch.
    """
    noisy, noise_state = mechanism.noise().update(grads, state.noise, state.params, key=key)
    # The expected size, not the drawn one: how many were drawn depends on who is there.
    mean = jax.tree.map(lambda g: g / mechanism.batch_size, noisy)
    updates, optimizer_state = optimizer.update(mean, state.optimizer, state.params)
    return State(optax.apply_updates(state.params, updates), optimizer_state, noise_state)
