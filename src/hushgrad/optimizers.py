"""Optimizers that know how much noise is in their gradients. Any other of optax's works too."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from hushgrad._check import positive
from hushgrad.errors import InputError
from hushgrad.mechanism import Plan

__all__ = ["dp_adam"]


class _State(NamedTuple):
    count: Int[Array, ""]
    mean: PyTree[Array]
    square: PyTree[Array]


def dp_adam(
    learning_rate: optax.ScalarOrSchedule,
    mechanism: Plan,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    floor: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
    """Adam without the noise's share in its second moment.

    ```python
    run = hg.train(loss, params, data, m, optimizer=hg.optimizers.dp_adam(1e-3, m), directory=...)
    ```

    Noise dominates the mean square that plain Adam divides by the root of. Here the noise's
    variance, a public number, is subtracted first (Tang, Shpilevskiy and Lecuyer 2023, arXiv
    2312.14334). It works on what is released, so it costs nothing.

    Args:
      learning_rate: a number, or an optax schedule.
      mechanism: that the run is made of; tells the variance.
      b1: decay of the mean.
      b2: decay of the mean square.
      floor: least second moment, as a share of the noise's variance. With b2 = 0.999 the mean
        square of pure noise deviates by 3% of its variance: noise never passes 0.1.

    Raises:
      InputError: if a number is out of range, or the noise changes during the run.
    """
    for name, value in {"b1": b1, "b2": b2}.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} must lie in [0, 1), got {value!r}")
    variance, least = _variance(mechanism), positive("floor", floor)

    def update(
        grads: PyTree[Array], state: _State, params: PyTree[Array] | None = None, **_: object
    ) -> tuple[PyTree[Array], _State]:
        del params
        count = state.count + 1
        mean = optax.tree.update_moment(grads, state.mean, b1, 1)
        square = optax.tree.update_moment(grads, state.square, b2, 2)
        unbiased = optax.tree.bias_correction(mean, b1, count)
        spread = optax.tree.bias_correction(square, b2, count)
        steps = jax.tree.map(
            lambda m, s, g: (m / jnp.sqrt(jnp.maximum(s - variance, least * variance))).astype(
                g.dtype
            ),
            unbiased,
            spread,
            grads,
        )
        return steps, _State(count, mean, square)

    return optax.chain(
        optax.GradientTransformationExtraArgs(_init, update),  # pyright: ignore[reportArgumentType]
        optax.scale_by_learning_rate(learning_rate),
    )


def _init(params: PyTree[Array]) -> _State:
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    return _State(jnp.zeros((), jnp.int32), zeros, zeros)


def _variance(mechanism: Plan) -> float:
    """Of the noise on one coordinate of the mean gradient."""
    if not isinstance(mechanism, Plan):
        raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
    if any(m.strategy.counts for m in mechanism.phases):
        raise InputError(
            "dp_adam needs noise on every coordinate, which sparse noise does not have; take "
            "optax.adam, or optax.sgd, which leaves rows without a gradient as they are"
        )
    found = {m.noise_stddev / m.batch_size for m in mechanism.phases}
    moves = any(m.clip.init() is not None for m in mechanism.phases)
    if moves or len(found) > 1:
        raise InputError(
            "dp_adam needs noise that stays the same; with an adaptive clip or noise that is "
            "scheduled, take optax.adam"
        )
    return found.pop() ** 2
