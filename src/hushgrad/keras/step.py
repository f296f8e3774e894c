"""The two compiled functions of a private step of a Keras model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from hushgrad.gradients import clipped_grad
from hushgrad.keras.example import (
    has_own_loss,
    listed,
    loss_of_one,
    named,
    penalised,
    penalty,
    seeds_after,
)
from hushgrad.mechanism import Mechanism
from hushgrad.training.step import Sums, added, noised

__all__ = ["State", "Step"]


class State(NamedTuple):
    """What Keras keeps of a model while it trains: values by kind of variable."""

    trainable: list[Array]
    frozen: list[Array]
    optimizer: list[Array]
    metrics: list[Array]


class Step:
    """Sums a block of examples; releases the sum.

    Args:
      model: built and compiled.
      mechanism: whose clip and noise.
      loss_scale: for float16.
      compiled: False to run operation by operation, as `run_eagerly` asks.
      devices: among how many a block is shared out.
    """

    def __init__(
        self, model: Any, mechanism: Mechanism, loss_scale: float, compiled: bool, devices: int
    ) -> None:
        self._model, self._mechanism, self._loss_scale = model, mechanism, loss_scale
        self._devices = devices
        self.sum: Callable[..., Any] = self._sum
        self.release: Callable[..., Any] = self._release
        self.zeros: Callable[..., Any] = self._zeros
        if compiled:
            self.sum = jax.jit(self.sum, donate_argnums=(2, 3))
            self.zeros = jax.jit(self.zeros)
            self.release = jax.jit(self.release, donate_argnums=(0, 2))

    def noise(self, trainable: list[Array], mechanism: Mechanism) -> Any:
        """The state of a mechanism's noise before its first step."""
        return mechanism.noise().init(named(self._model, trainable))

    def _zeros(self, trainable: list[Array]) -> Sums:
        """Sums over no example at all; each array of its own, for they are given away."""
        params = named(self._model, trainable)
        grads = jax.tree.map(
            lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params
        )
        loss, bits = jnp.zeros(()), jnp.zeros(())
        finite, clipped, nonfinite = (jnp.zeros((), jnp.int32) for _ in range(3))
        return Sums(grads, loss, finite, clipped, nonfinite, bits)

    def _sum(
        self,
        trainable: list[Array],
        frozen: list[Array],
        metrics: list[Array],
        sums: Sums,
        block: tuple[Any, ...],
        mask: Bool[Array, " block"],
        norm: Float[Array, ""] | None,
    ) -> tuple[dict[str, Any], list[Array], Sums]:
        """What metrics say, their state, and the sums with those of a block.

        Rows of the block that count come first.
        """
        model = self._model
        clipped = clipped_grad(
            loss_of_one(model, frozen),
            self._mechanism.clip,
            has_aux=True,
            loss_scale=self._loss_scale,
            devices=self._devices,
        )
        params = named(model, trainable)
        out = clipped(params, *block, mask=mask, norm=norm)
        made = added(sums, out, mask)
        pairs = [
            *zip(model.trainable_variables, trainable, strict=True),
            *zip(model.non_trainable_variables, frozen, strict=True),
        ]
        _, x, y, weight = block
        losses, predicted = out.aux
        if penalised(model) and not has_own_loss(model):
            losses = losses + penalty(model, params)
        logs, metrics = _measured(
            model, pairs, metrics, (x, y, predicted, weight, losses), jnp.sum(mask)
        )
        return logs, metrics, made

    def _release(
        self,
        trainable: list[Array],
        frozen: list[Array],
        optimizer: list[Array],
        sums: Sums,
        key: UInt32[Any, "8"],
        carried: tuple[Float[Array, ""] | None, Any],
    ) -> tuple[list[Array], list[Array], list[Array], tuple[Float[Array, ""] | None, Any]]:
        """The state after the step: the sum with noise, seen by the optimizer.

        What is carried is the bound of an adaptive clip, and the noise's state.
        """
        model, m = self._model, self._mechanism
        params = named(model, trainable)
        norm, noise = carried
        mean, norm, noise = noised(m, params, sums.grads, sums.centred_bits, norm, noise, key)
        if penalised(model) and not has_own_loss(model):
            # Follows from the weights alone, so it needs no clip and no noise.
            pull = jax.grad(lambda p: penalty(model, p))(params)
            mean = jax.tree.map(lambda g, p: g + p.astype(g.dtype), mean, pull)
        grads = [g.astype(p.dtype) for g, p in zip(listed(model, mean), trainable, strict=True)]
        trainable, optimizer = model.updated(optimizer, grads, trainable)
        return list(trainable), seeds_after(model, frozen), list(optimizer), (norm, noise)


def _measured(
    model: keras.Model,
    pairs: list[tuple[keras.Variable, Array]],
    metrics: list[Array],
    seen: tuple[Any, ...],
    count: Int[Array, ""],
) -> tuple[dict[str, Any], list[Array]]:
    """Metrics that have seen the first `count` rows, which need not be all.

    Metrics have no mask of their own: rows are shown in pieces of one, two, four... rows, those
    that add up to `count`.
    """
    rows = len(seen[-1])
    start, power = jnp.zeros((), count.dtype), 1 << (rows.bit_length() - 1)
    while power:
        wanted = count & power

        def shown(metrics: list[Array], start: Any = start, power: int = power) -> list[Array]:
            piece = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, power), seen)
            return _updated(model, pairs, metrics, piece)

        metrics = lax.cond(wanted > 0, shown, lambda metrics: metrics, metrics)
        start, power = start + wanted, power // 2
    with keras.StatelessScope(state_mapping=_mapped(model, metrics)):
        return model.get_metrics_result(), metrics


def _updated(
    model: keras.Model,
    pairs: list[tuple[keras.Variable, Array]],
    metrics: list[Array],
    seen: tuple[Any, ...],
) -> list[Array]:
    x, y, predicted, weight, losses = seen
    mapping = [*pairs, *_mapped(model, metrics)]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        for metric in model.metrics:
            if metric.name == "loss":
                good = jnp.isfinite(losses)
                metric.update_state(jnp.where(good, losses, 0), sample_weight=good)
        if len(jax.tree.leaves(predicted)) > 1:  # each output's loss has a metric of its own
            model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=True)
        model.compute_metrics(x, y, predicted, weight)
        return [jnp.asarray(scope.get_current_value(v)) for v in model.metrics_variables]


def _mapped(model: keras.Model, metrics: list[Array]) -> list[tuple[keras.Variable, Array]]:
    return list(zip(model.metrics_variables, metrics, strict=True))
