"""The two compiled functions of a private step of a Keras model."""

from __future__ import annotations

import functools
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
from hushgrad.training.layout import Layout
from hushgrad.training.program import fingerprint
from hushgrad.training.step import Places, Sums, added, in_place, noised, on_mesh
from hushgrad.training.step import State as TrainingState
from hushgrad.training.team import Team

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
      layout: where arrays are.
    """

    def __init__(
        self, model: Any, mechanism: Mechanism, loss_scale: float, compiled: bool, layout: Layout
    ) -> None:
        self._model, self._mechanism, self._loss_scale = model, mechanism, loss_scale
        self._layout = layout
        self._summing: Callable[..., Any] = self._sum
        self._releasing: Callable[..., Any] = self._release
        self._zeroing: Callable[..., Any] = self._zeros
        if compiled:
            self._summing = jax.jit(self._summing, donate_argnums=(2, 3), static_argnames="places")
            self._zeroing = jax.jit(self._zeroing, static_argnames="places")
            self._releasing = jax.jit(
                self._releasing, donate_argnums=(0, 2), static_argnames="places"
            )

    def noise(self, trainable: list[Array], mechanism: Mechanism) -> Any:
        """The state of a mechanism's noise before its first step."""
        params = named(self._model, trainable)
        begun = mechanism.noise().init(params)
        return self._layout.noise(TrainingState(params, (), begun, None, None)).noise

    def zeros(self, trainable: list[Array]) -> Sums:
        """Sums over no example at all; each array of its own, for they are given away."""
        return self._zeroing(trainable, places=self._layout.places(trainable))

    def sum(
        self,
        state: State,
        metrics: list[Array],
        sums: Sums,
        block: tuple[Any, ...],
        mask: Bool[Array, " block"],
        norm: Float[Array, ""] | None,
    ) -> tuple[dict[str, Any], list[Array], Sums]:
        """What metrics say, their state, and the sums with those of a block.

        Rows of the block that count come first. Metrics and sums are given away.
        """
        places = self._layout.places((state.trainable, metrics))
        given = state.trainable, state.frozen, metrics, sums, block, mask, norm
        return self._summing(*given, places=places)

    def release(
        self,
        state: State,
        sums: Sums,
        key: UInt32[Any, "8"],
        carried: tuple[Float[Array, ""] | None, Any],
    ) -> tuple[list[Array], list[Array], list[Array], tuple[Float[Array, ""] | None, Any]]:
        """The state after the step: the sum with noise, seen by the optimizer.

        What is carried is the bound of an adaptive clip, and the noise's state. Weights and
        the optimizer's variables are given away.
        """
        kept = state.trainable, state.frozen, state.optimizer
        places = self._layout.places((*kept, carried))
        return self._releasing(*kept, sums, key, carried, places=places)

    def check_alike(
        self,
        team: Team,
        state: State,
        sums: Sums,
        block: tuple[Any, ...],
        mask: Bool[Array, " block"],
        key: UInt32[Any, "8"],
        carried: tuple[Float[Array, ""] | None, Any],
    ) -> None:
        """Compares what all processes are about to compute together, before they do.

        Raises:
          InputError: if it differs.
        """
        with team.alike() as facts:
            sums_at = self._layout.places((state.trainable, state.metrics))
            kept = state.trainable, state.frozen, state.optimizer
            kept_at = self._layout.places((*kept, carried))
            summing = functools.partial(self._summing, places=sums_at)
            releasing = functools.partial(self._releasing, places=kept_at)
            given = state.trainable, state.frozen, state.metrics, sums, block, mask, carried[0]
            traced = [
                jax.make_jaxpr(summing)(*given),
                jax.make_jaxpr(releasing)(*kept, sums, key, carried),
            ]
            told = fingerprint(traced, jax.tree.structure(state))
            facts["a hash of the program (model, loss, metrics, optimizer)"] = told

    def _zeros(self, trainable: list[Array], places: Places = None) -> Sums:
        params = named(self._model, trainable)
        grads = jax.tree.map(
            lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params
        )
        loss, bits = jnp.zeros(()), jnp.zeros(())
        finite, clipped, nonfinite = (jnp.zeros((), jnp.int32) for _ in range(3))
        return Sums(in_place(grads, places), loss, finite, clipped, nonfinite, bits)

    def _sum(
        self,
        trainable: list[Array],
        frozen: list[Array],
        metrics: list[Array],
        sums: Sums,
        block: tuple[Any, ...],
        mask: Bool[Array, " block"],
        norm: Float[Array, ""] | None,
        places: Places = None,
    ) -> tuple[dict[str, Any], list[Array], Sums]:
        model = self._model
        clipped = clipped_grad(
            loss_of_one(model, frozen),
            self._mechanism.clip,
            has_aux=True,
            loss_scale=self._loss_scale,
            devices=self._layout.shards,
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
        grads, metrics = in_place((made.grads, metrics), places)
        return logs, metrics, made._replace(grads=grads)

    def _release(
        self,
        trainable: list[Array],
        frozen: list[Array],
        optimizer: list[Array],
        sums: Sums,
        key: UInt32[Any, "8"],
        carried: tuple[Float[Array, ""] | None, Any],
        places: Places = None,
    ) -> tuple[list[Array], list[Array], list[Array], tuple[Float[Array, ""] | None, Any]]:
        model, m = self._model, self._mechanism
        params = named(model, trainable)
        norm, noise = carried
        with on_mesh(places):
            mean, norm, noise = noised(m, params, sums.grads, sums.centred_bits, norm, noise, key)
        if penalised(model) and not has_own_loss(model):
            # Follows from the weights alone, so it needs no clip and no noise.
            pull = jax.grad(lambda p: penalty(model, p))(params)
            mean = jax.tree.map(lambda g, p: g + p.astype(g.dtype), mean, pull)
        grads = [g.astype(p.dtype) for g, p in zip(listed(model, mean), trainable, strict=True)]
        trainable, optimizer = model.updated(optimizer, grads, trainable)
        made = list(trainable), seeds_after(model, frozen), list(optimizer), (norm, noise)
        return in_place(made, places)


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
