"""The two compiled functions of a step: sum a block, release the sum."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from hushgrad.clip import Rule
from hushgrad.gradients import Clipped
from hushgrad.mechanism import Mechanism
from hushgrad.noise import COUNT_STREAM, standard_normal

__all__ = [
    "Places",
    "Releasing",
    "State",
    "Summand",
    "Sums",
    "accumulate",
    "added",
    "averaged",
    "empty_sums",
    "in_place",
    "initial_state",
    "noised",
    "on_mesh",
    "release",
]


@runtime_checkable
class Summand(Protocol):
    """Sums the bounded contributions of a block: `ClippedGrad`, or another with its face."""

    def __call__(
        self, params: Any, *batch: Any, mask: Any, norm: Float[Array, ""] | None = None
    ) -> Clipped:
        """The sum over the rows that count."""
        ...


@runtime_checkable
class Releasing(Protocol):
    """What one release needs to know of a mechanism."""

    @property
    def clip(self) -> Rule:
        """How each contribution was bounded."""
        ...

    @property
    def batch_size(self) -> int:
        """Expected number of contributions, a public fact."""
        ...

    def noise(
        self, norm: Float[Array, ""] | float | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """What makes a sum private that was clipped to `norm`."""
        ...


# Of a tree's arrays on a mesh, in order; None on one device.
Places = tuple[NamedSharding, ...] | None


class State(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      params: the parameters; may be published.
      optimizer: the optimizer's state.
      noise: the noise's state.
      norm: what the next step clips to, where that moves, else None. Follows from
        noised counts and may be published.
      average: state of the parameters' moving average, where one is kept, else None.
    """

    params: PyTree[Array]
    optimizer: optax.OptState
    noise: optax.OptState
    norm: Float[Array, ""] | None
    average: optax.OptState | None


class Sums(NamedTuple):
    """Sums over the blocks of one batch. None of them is private yet.

    Attributes:
      grads: of clipped gradients.
      loss: of the finite losses.
      finite: how many losses are finite.
      clipped: how many finite gradients were scaled down.
      nonfinite: how many gradients were not finite, and so left out.
      centred_bits: half the number of gradients left whole, less half that of others.
    """

    grads: PyTree[Float[Array, "..."]]
    loss: Float[Array, ""]
    finite: Int[Array, ""]
    clipped: Int[Array, ""]
    nonfinite: Int[Array, ""]
    centred_bits: Float[Array, ""]


def initial_state(
    params: PyTree[Array],
    mechanism: Mechanism,
    optimizer: optax.GradientTransformation,
    average: float | None = None,
    shaped: Callable[[PyTree[Array]], PyTree[Array]] = lambda params: params,
) -> State:
    """The state before the first step, in the types that every later state has.

    Some optimizers begin in the parameters' type and go on in a wider one; a
    checkpoint restored in the first would not repeat the steps after it. What a step
    releases is `shaped` like the parameters, or has more than they.
    """
    norm = mechanism.clip.init()
    noise = mechanism.noise(norm).init(shaped(params))
    mean = None if average is None else _average(average).init(_floating(params))
    state = State(params, optimizer.init(params), noise, norm, mean)
    grads = jax.tree.map(
        lambda p: (
            jax.ShapeDtypeStruct(p.shape, jnp.promote_types(p.dtype, jnp.float32))
            if jnp.issubdtype(p.dtype, jnp.floating)
            else p
        ),
        shaped(params),
    )
    key = jax.ShapeDtypeStruct((8,), jnp.uint32)
    bits = jax.ShapeDtypeStruct((), jnp.float32)
    after = jax.eval_shape(
        lambda s, g, b, k: release(mechanism, optimizer, s, g, b, k, average),
        state,
        grads,
        bits,
        key,
    )
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, after)


@functools.partial(jax.jit, static_argnames=("clipped_grad", "places"))
def empty_sums(
    clipped_grad: Summand,
    params: PyTree[Array],
    batch: Any,
    mask: Bool[Array, " block"],
    places: Places = None,
) -> Sums:
    """Sums over no example at all, shaped as `accumulate` needs them."""
    out = jax.eval_shape(clipped_grad, params, *batch, mask=mask)
    zero, loss = jnp.zeros((), jnp.int32), jnp.zeros((), out.losses.dtype)
    bits = jnp.zeros((), out.centred_bits.dtype)
    grads = jax.tree.map(lambda g: jnp.zeros(g.shape, g.dtype), out.grads)
    return Sums(in_place(grads, places), loss, zero, zero, zero, bits)


@functools.partial(jax.jit, static_argnames=("clipped_grad", "places"), donate_argnames="sums")
def accumulate(
    clipped_grad: Summand,
    params: PyTree[Array],
    sums: Sums,
    batch: tuple[Any, ...],
    mask: Bool[Array, " block"],
    norm: Float[Array, ""] | None = None,
    places: Places = None,
) -> Sums:
    """Adds one block to the sums of a batch, clipped to `norm` where the clip's moves.

    On several devices each adds up its own examples' gradients; `places` are those of the
    parameters, and each device is given the sum of its part of them.
    """
    made = added(sums, clipped_grad(params, *batch, mask=mask, norm=norm), mask)
    return made._replace(grads=in_place(made.grads, places))


def added(sums: Sums, out: Clipped, mask: Bool[Array, " block"]) -> Sums:
    """The sums with those of one block more."""
    mask = jnp.any(mask.reshape(len(out.losses), -1), axis=1)
    good = mask & jnp.isfinite(out.losses)
    scaled = jnp.sum(mask) / 2 - out.centred_bits  # those that are not finite among them
    return Sums(
        grads=jax.tree.map(jnp.add, sums.grads, out.grads),
        loss=sums.loss + jnp.sum(jnp.where(good, out.losses, 0)),
        finite=sums.finite + jnp.sum(good, dtype=jnp.int32),
        clipped=sums.clipped + scaled.astype(jnp.int32) - out.nonfinite,
        nonfinite=sums.nonfinite + out.nonfinite,
        centred_bits=sums.centred_bits + out.centred_bits,
    )


@functools.partial(jax.jit, static_argnames=("mechanism", "optimizer", "average", "places"))
def release(
    mechanism: Mechanism,
    optimizer: optax.GradientTransformation,
    state: State,
    grads: PyTree[Float[Array, "..."]],
    centred_bits: Float[Array, ""],
    key: UInt32[Array, "8"],
    average: float | None = None,
    places: Places = None,
) -> State:
    """Adds the step's noise to the sum, divides by the public batch size, and updates.

    The sum was clipped to `state.norm` where the clip's moves; its noise is for that
    norm, and the norm of the next step follows from the noised count of this one.

    Formal guarantee: the new state is a function of the old one and of one Gaussian
    mechanism with the mechanism's noise multiplier, whatever was in the batch. (See
    `hushgrad.clip.Adaptive` for the proof where the count is released too; other
    rules do not look at it.)
    """
    with on_mesh(places):
        mean, norm, noise_state = noised(
            mechanism, state.params, grads, centred_bits, state.norm, state.noise, key
        )
    updates, optimizer_state = optimizer.update(mean, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    kept = None
    if average is not None and state.average is not None:
        _, kept = _average(average).update(_floating(params), state.average)
    return in_place(State(params, optimizer_state, noise_state, norm, kept), places)


def noised(
    mechanism: Releasing,
    params: PyTree[Array],
    grads: PyTree[Float[Array, "..."]],
    centred_bits: Float[Array, ""],
    norm: Float[Array, ""] | None,
    noise_state: optax.OptState,
    key: UInt32[Array, "8"],
) -> tuple[PyTree[Float[Array, "..."]], Float[Array, ""] | None, optax.OptState]:
    """What one step releases: the noisy mean gradient, the next norm, the noise's state.

    The norm is None where the clip's does not move. See `release` for the guarantee.
    """
    noise = mechanism.noise(norm)
    noisy, noise_state = noise.update(grads, noise_state, params, key=key)
    if norm is not None:
        normal = standard_normal(key, COUNT_STREAM, (), jnp.dtype("float32"))
        norm = mechanism.clip.update(norm, centred_bits, normal, mechanism.batch_size)
    # The expected size, not the drawn one: how many were drawn depends on who is there.
    # A sum over microbatches is one of their means.
    size = mechanism.batch_size / mechanism.clip.group
    mean = jax.tree.map(lambda g: g / size, noisy)
    return mean, norm, noise_state


@functools.partial(jax.jit, static_argnames="average")
def averaged(state: State, average: float) -> PyTree[Array]:
    """The moving average of the parameters after each step, without the zeros it began with."""
    assert isinstance(state.average, optax.EmaState)
    mean, count = state.average.ema, state.average.count
    scale = 1 / (1 - jnp.float32(average) ** count)
    return jax.tree.map(
        lambda p, m: p if m is None else (m * scale).astype(p.dtype),
        state.params,
        mean,
        is_leaf=lambda x: x is None,
    )


def _average(decay: float) -> optax.GradientTransformation:
    # In float32, or small changes would be lost beside narrow parameters.
    return optax.ema(decay, debias=False, accumulator_dtype=jnp.float32)


def in_place(tree: PyTree[Array], places: Places) -> PyTree[Array]:
    """The same, each array in its place."""
    if places is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    held = [jax.lax.with_sharding_constraint(x, p) for x, p in zip(leaves, places, strict=True)]
    return jax.tree.unflatten(structure, held)


def on_mesh(places: Places) -> AbstractContextManager[Any]:
    """Where noise is made by each device for its own part."""
    if not places:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(places[0].mesh.abstract_mesh)


def _floating(params: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda p: p if jnp.issubdtype(p.dtype, jnp.floating) else None, params)
