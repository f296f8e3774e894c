"""What a client does with its own examples: local training, or one gradient."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, UInt32

from hushgrad.training.secret import RunSecret

__all__ = ["Done", "Gradient", "Local", "Work", "chance_of", "order_of"]

_PADDING = -1


class Done(NamedTuple):
    """What a client's work gives.

    Attributes:
      update: what the server is to go down along: the parameters it was given less those that it
        ended with, or a gradient; float32 or wider.
      loss: mean over the examples seen, as they were seen; not private.
    """

    update: PyTree[Float[Array, "..."]]
    loss: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Work(abc.ABC):
    """A client's work as a pure function; whatever it does, its update is clipped.

    Attributes:
      loss: of one example, `loss(params, *example)`.
      batch_size: examples that are looked at together.
      draws: whether the loss takes two words of chance before the example.
    """

    loss: Callable[..., Any]
    batch_size: int
    draws: bool = dataclasses.field(default=False, kw_only=True)

    @property
    @abc.abstractmethod
    def passes(self) -> int:
        """How often each example is seen."""

    @abc.abstractmethod
    def __call__(
        self,
        params: PyTree[Array],
        examples: PyTree[Array],
        order: Int[Array, "most batch"],
        steps: Int[Array, ""],
        words: UInt32[Array, "2"],
    ) -> Done:
        """What is done with one client's examples.

        Args:
          params: that the server sent.
          examples: each array with a row for each, and padding.
          order: rows of each local batch; -1 for none.
          steps: how many batches there are; the rest is padding.
          words: the client's own chance.
        """

    def mean_loss(
        self, params: PyTree[Array], examples: Any, rows: Array, words: Array, step: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Over one batch; and how many examples it has."""
        mask = rows >= 0
        batch = jax.tree.map(lambda x: x[jnp.maximum(rows, 0)], examples)
        if self.draws:
            key = jax.random.wrap_key_data(words, impl="threefry2x32")
            drawn = jax.random.bits(jax.random.fold_in(key, step), (len(rows), 2), jnp.uint32)
            batch = (drawn, *batch)
        losses = jax.vmap(lambda *example: self.loss(params, *example))(*batch)
        losses = jnp.asarray(losses, jnp.promote_types(losses.dtype, jnp.float32))
        count = jnp.sum(mask).astype(losses.dtype)
        # What pads is a real row, or zeros: its loss is taken out, and its gradient with it.
        return jnp.sum(jnp.where(mask, losses, 0)) / jnp.maximum(count, 1), count


@dataclasses.dataclass(frozen=True)
class Local(Work):
    """Training on the client's own examples (McMahan et al. 2017, arXiv 1602.05629).

    Attributes:
      optimizer: any optax optimizer; begins afresh in every round.
      epochs: passes over the client's examples.
      proximal: weight of half the squared distance to the server's parameters, in the loss
        (Li et al. 2020, arXiv 1812.06127, "FedProx"); 0 for none.
    """

    optimizer: optax.GradientTransformation
    epochs: int = 1
    proximal: float = 0.0

    @property
    def passes(self) -> int:
        """How often each example is seen."""
        return self.epochs

    def __call__(
        self,
        params: PyTree[Array],
        examples: PyTree[Array],
        order: Int[Array, "most batch"],
        steps: Int[Array, ""],
        words: UInt32[Array, "2"],
    ) -> Done:
        """The parameters that were given less those after the last batch."""
        start = floating(params)

        def objective(weights: Any, rows: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
            mean, count = self.mean_loss(joined(weights, params), examples, rows, words, step)
            total = mean
            if self.proximal:
                total = total + self.proximal / 2 * _squared_distance(weights, start)
            return total, (mean, count)

        def one(step: Array, carry: Any) -> Any:
            weights, inner, total, seen = carry
            rows = lax.dynamic_index_in_dim(order, step, keepdims=False)
            grads, (mean, count) = jax.grad(objective, has_aux=True)(weights, rows, step)
            updates, inner = self.optimizer.update(grads, inner, weights)
            weights = optax.apply_updates(weights, updates)
            return weights, inner, total + mean * count, seen + count

        inner = _settled(self.optimizer, start)
        zero = jnp.zeros((), jnp.float32)
        loss_type = jax.eval_shape(objective, start, order[0], steps)[1][0].dtype
        begun = (start, inner, zero.astype(loss_type), zero.astype(loss_type))
        weights, _, total, seen = lax.fori_loop(0, steps, one, begun)
        moved = jax.tree.map(lambda a, b: _wide(a) - _wide(b), start, weights)
        return Done(zeros_elsewhere(moved, params), total / jnp.maximum(seen, 1))


@dataclasses.dataclass(frozen=True)
class Gradient(Work):
    """The gradient of the mean loss over all of the client's examples ("FedSGD")."""

    @property
    def passes(self) -> int:
        """How often each example is seen."""
        return 1

    def __call__(
        self,
        params: PyTree[Array],
        examples: PyTree[Array],
        order: Int[Array, "most batch"],
        steps: Int[Array, ""],
        words: UInt32[Array, "2"],
    ) -> Done:
        """A mean of all batches, by their numbers of examples."""
        weights = floating(params)

        def objective(weights: Any, rows: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
            mean, count = self.mean_loss(joined(weights, params), examples, rows, words, step)
            return mean, (mean, count)

        def one(step: Array, carry: Any) -> Any:
            sums, total, seen = carry
            rows = lax.dynamic_index_in_dim(order, step, keepdims=False)
            grads, (mean, count) = jax.grad(objective, has_aux=True)(weights, rows, step)
            sums = jax.tree.map(lambda s, g: s + count * g.astype(s.dtype), sums, grads)
            return sums, total + mean * count, seen + count

        nothing = jax.tree.map(lambda w: jnp.zeros_like(_wide(w)), weights)
        zero = jnp.zeros((), jax.eval_shape(objective, weights, order[0], steps)[1][0].dtype)
        sums, total, seen = lax.fori_loop(0, steps, one, (nothing, zero, zero))
        size = jnp.maximum(seen, 1)
        update = jax.tree.map(lambda s: s / size.astype(s.dtype), sums)
        return Done(zeros_elsewhere(update, params), total / size)


def order_of(examples: int, work: Work, chance: RunSecret) -> Int[np.ndarray, "steps batch"]:
    """The rows of a client's batches: each pass in an order of its own, -1 where there is none."""
    rng = chance.generator("order", 0)
    per_pass = -(-examples // work.batch_size)
    order = np.full((work.passes, per_pass * work.batch_size), _PADDING, np.int32)
    for number in range(work.passes):
        order[number, :examples] = rng.permutation(examples)
    return order.reshape(work.passes * per_pass, work.batch_size)


def chance_of(chance: RunSecret) -> UInt32[np.ndarray, "2"]:
    """Two words for what the loss draws on a client."""
    return np.frombuffer(chance.derive("words", 0)[:8], "<u4").astype(np.uint32)


def floating(params: PyTree[Array]) -> PyTree[Array]:
    """What can be trained; None in place of other leaves."""
    return jax.tree.map(lambda p: p if jnp.issubdtype(p.dtype, jnp.floating) else None, params)


def joined(weights: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
    """Parameters with other weights; what cannot be trained is as it was."""
    return jax.tree.map(
        lambda w, p: p if w is None else w, weights, params, is_leaf=lambda x: x is None
    )


def zeros_elsewhere(update: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
    """An update with zeros for what cannot be trained."""
    return jax.tree.map(
        lambda u, p: jnp.zeros_like(p) if u is None else u,
        update,
        params,
        is_leaf=lambda x: x is None,
    )


def _settled(optimizer: optax.GradientTransformation, weights: PyTree[Array]) -> Any:
    """An optimizer's first state in the types that later ones have."""
    first = optimizer.init(weights)
    after = jax.eval_shape(lambda s: optimizer.update(weights, s, weights)[1], first)
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), first, after)


def _wide(leaf: Array) -> Array:
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _squared_distance(one: PyTree[Array], other: PyTree[Array]) -> Float[Array, ""]:
    squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(_wide(a) - _wide(b))), one, other)
    return sum(jax.tree.leaves(squares), start=jnp.zeros((), jnp.float32))
