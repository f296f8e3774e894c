"""Linear models and small networks for tables, with settings that suit noise.

```python
net = Network(features=x.shape[1], outputs=1, hidden=(), task="classes")
m = tabular_mechanism(len(x), epsilon=1.0, delta=1e-5)
run = hg.train(net.loss, net.init(0), (x, weight, y), m, optimizer=net.optimizer(m), directory=...)
```
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import dp_accounting
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num

from hushgrad import accounting
from hushgrad._check import positive
from hushgrad.clip import Rule
from hushgrad.mechanism import Mechanism
from hushgrad.planning import dp_sgd
from hushgrad.recipes.recipe import glorot_uniform

__all__ = ["CLIPS", "STEPS", "Network", "batch_size_for", "tabular_mechanism"]

STEPS = 200
_LEAST_BATCH, _BATCHES = 512, 16
_MOMENTUM = 0.9
# Where there is little noise, what is stable bounds the step size. A squared error has no bound
# on its slope, as a cross-entropy has, and a network's hidden layer saturates.
_LARGEST = {"classes": 8.0, "number": 1.0}
_LARGEST_HIDDEN = 1.0
# How far noise may move an output in all, by the order of magnitude of what outputs are: scores
# before a sigmoid, or numbers within -1 .. 1.
_MOVED = {"classes": 10.0, "number": 1.5}
# An error of a number within -1 .. 1 is small, and so is its gradient.
CLIPS = {"classes": 1.0, "number": 0.2}


@dataclasses.dataclass(frozen=True)
class Network:
    """A linear model, or a network with tanh layers, for one row of a table.

    Attributes:
      features: numbers in a row.
      outputs: numbers that come out: one for two classes or a regression, else one for each
        class.
      hidden: units of each hidden layer; none makes a linear model.
      task: "classes" (cross-entropy) or "number" (half the squared error).
    """

    features: int
    outputs: int
    hidden: tuple[int, ...]
    task: Literal["classes", "number"]

    def init(self, seed: int) -> dict[str, Array]:
        """Where training starts, which is public: zero, below random hidden layers."""
        rng, params = np.random.default_rng(seed), {}
        sizes = (self.features, *self.hidden)
        for number, (before, after) in enumerate(zip(sizes, self.hidden, strict=False), start=1):
            params[f"dense{number}"] = glorot_uniform(rng, (before, after), before, after)
            params[f"bias{number}"] = jnp.zeros(after)
        last = len(self.hidden) + 1
        params[f"dense{last}"] = jnp.zeros((sizes[-1], self.outputs))
        params[f"bias{last}"] = jnp.zeros(self.outputs)
        return params

    def apply(
        self, params: dict[str, Any], x: Num[Any, "*batch features"], tanh: Callable[..., Any]
    ) -> Any:
        """The outputs for one row or many, by JAX or NumPy, whose `tanh` is given."""
        # tanh bounds the activations, which suits clipping (Papernot et al. 2021, 2007.14191).
        for number in range(1, len(self.hidden) + 1):
            x = tanh(x @ params[f"dense{number}"] + params[f"bias{number}"])
        last = len(self.hidden) + 1
        return x @ params[f"dense{last}"] + params[f"bias{last}"]

    def loss(
        self,
        params: dict[str, Array],
        x: Float[Array, " features"],
        weight: Float[Array, ""],
        y: Num[Array, ""],
    ) -> Float[Array, ""]:
        """Of one example: its weight times the cross-entropy or half the squared error."""
        out = self.apply(params, x, jnp.tanh)
        if self.task == "number":
            return weight * 0.5 * (out[0] - y) ** 2
        if self.outputs == 1:
            return weight * optax.losses.sigmoid_binary_cross_entropy(out[0], y)
        return weight * optax.losses.softmax_cross_entropy_with_integer_labels(out, y)

    def learning_rate(self, mechanism: Mechanism) -> float:
        """A step size that follows from public numbers alone.

        The noise of all steps moves an output by at most about the step size times
        `noise_stddev / batch_size * sqrt(steps * features) / (1 - momentum)`. The step size at
        which that is 10 was the best or near it for classes on Adult, digits, breast cancer and
        made-up data, from 400 to 33,000 examples, at epsilon 1 and 4; for numbers that at which
        it is about 1.5, on diabetes and Friedman's function.
        """
        noise = mechanism.noise_stddev / mechanism.batch_size / (1 - _MOMENTUM)
        found = _MOVED[self.task] / (noise * math.sqrt(mechanism.steps * self.features))
        return min(found, _LARGEST_HIDDEN if self.hidden else _LARGEST[self.task])

    def optimizer(
        self, mechanism: Mechanism, learning_rate: float | None = None
    ) -> optax.GradientTransformation:
        """SGD with momentum, its step size falling to zero in a line.

        Args:
          mechanism: what will run.
          learning_rate: of the first step; `learning_rate(mechanism)` by default.
        """
        rate = self.learning_rate(mechanism) if learning_rate is None else learning_rate
        rate = positive("learning_rate", rate)
        return optax.sgd(optax.linear_schedule(rate, 0.0, mechanism.steps), momentum=_MOMENTUM)


def batch_size_for(examples: int) -> int:
    """A sixteenth of the examples, or 512, or all of them."""
    return min(examples, max(_LEAST_BATCH, examples // _BATCHES))


def tabular_mechanism(
    examples: int,
    *,
    epsilon: float,
    delta: float,
    batch_size: int | None = None,
    steps: int = STEPS,
    clip: float | Rule = 1.0,
    before: dp_accounting.DpEvent | None = None,
) -> Mechanism:
    """DP-SGD that keeps epsilon together with what was released of the data before.

    Args:
      examples: a public number.
      epsilon: of `before` and the training together.
      delta: likewise.
      batch_size: expected; a sixteenth of the examples, or 512, or all of them by default.
      steps: noisy gradients.
      clip: bound on one example's gradient norm.
      before: earlier releases; their losses are composed with the training's, exactly.

    Raises:
      InputError: if an argument is out of range, or `before` leaves nothing of epsilon.
    """
    mechanism = dp_sgd(
        examples=examples,
        batch_size=batch_size_for(examples) if batch_size is None else batch_size,
        steps=steps,
        clip=clip,
        delta=delta,
        epsilon=positive("epsilon", epsilon),
    )
    if before is None:
        return mechanism

    def together(noise_multiplier: float) -> dp_accounting.DpEvent:
        training = dataclasses.replace(mechanism, noise_multiplier=noise_multiplier)
        return dp_accounting.ComposedDpEvent([before, training.event])

    noise = accounting.smallest_noise(
        together, epsilon, delta, relation=mechanism.neighbouring_relation
    )
    return dataclasses.replace(mechanism, noise_multiplier=noise)
