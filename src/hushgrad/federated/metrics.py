"""Metrics of clients, with noise: what is told of their own examples is accounted too."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from hushgrad._check import whole
from hushgrad.clip import Flat
from hushgrad.errors import InputError
from hushgrad.federated.process import LearningProcess, ServerState
from hushgrad.federated.work import Done, Work
from hushgrad.mechanism import Mechanism
from hushgrad.sampling import Users
from hushgrad.training.budget import Budget

__all__ = ["Metric", "PrivateEvaluation", "private_evaluation"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of each client: the mean of a function over their examples, within bounds.

    Attributes:
      function: `function(params, *example) -> scalar`; None for the number of examples.
      low: what is below counts as this.
      high: what is above counts as this. Closer bounds, less noise.
      bins: also release how the clients' numbers are spread, in so many bins of one width
        between the bounds, from which `quantile` follows; 0 for the mean alone.

    Raises:
      InputError: if the bounds are not finite and in order, or `bins` is one.
    """

    function: Callable[..., Any] | None
    low: float
    high: float
    bins: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"low and high must be finite, low below high, got {self.low!r} and {self.high!r}"
            )
        object.__setattr__(self, "bins", whole("bins", self.bins, at_least=0))
        if self.bins == 1:
            raise InputError("bins must be at least 2, or 0 for the mean alone, got 1")

    def vector(self, value: Float[Array, ""]) -> Float[Array, " numbers"]:
        """What a client adds, each part of norm 1 at most."""
        share = (jnp.clip(value, self.low, self.high) - self.low) / (self.high - self.low)
        # Centred, for half the sensitivity; then as long as it may be.
        mean = (2 * share - 1)[None]
        if not self.bins:
            return mean
        bin_ = jnp.minimum((share * self.bins).astype(jnp.int32), self.bins - 1)
        return jnp.concatenate([mean, jax.nn.one_hot(bin_, self.bins)])

    @property
    def parts(self) -> int:
        """Of norm 1 at most each."""
        return 2 if self.bins else 1


@dataclasses.dataclass(frozen=True)
class Released:
    """One metric as it was released.

    Attributes:
      mean: of the clients' numbers.
      stddev: of the noise in it, that of who was drawn left aside.
      edges: of the bins; empty where there are none.
      shares: of the clients in each bin, with noise; may lie outside of [0, 1].
    """

    mean: float
    stddev: float
    edges: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    def quantile(self, share: float) -> float:
        """The number below which a share of the clients lies, to the width of a bin.

        Raises:
          InputError: if the metric has no bins, or the share is not in [0, 1].
        """
        if not self.edges:
            raise InputError("quantile needs a metric with bins: Metric(..., bins=20)")
        if not 0 <= share <= 1:
            raise InputError(f"share must lie in [0, 1], got {share!r}")
        counts = np.maximum(self.shares, 0.0)
        total = counts.sum()
        below = np.concatenate([[0.0], np.cumsum(counts) / total if total else counts])
        return float(np.interp(share, below, self.edges))


class PrivateEvaluation:
    """Evaluations of a model on clients' own examples; made by `private_evaluation`."""

    def __init__(self, metrics: Mapping[str, Metric], process: LearningProcess) -> None:
        self._metrics, self._process = dict(metrics), process
        self._state: ServerState | None = None

    @property
    def mechanism(self) -> Mechanism:
        """What is accounted: a step is one evaluation."""
        return self._process.mechanism

    def begin(
        self,
        *,
        directory: str | Path | None = None,
        budget: Budget | None = None,
        seed: int | None = None,
    ) -> PrivateEvaluation:
        """Begins to spend, or goes on; arguments as of `LearningProcess.initialize`."""
        size = sum(1 + metric.bins for metric in self._metrics.values())
        self._state = self._process.initialize(
            jnp.zeros(size), directory=directory, budget=budget, seed=seed
        )
        return self

    def __call__(self, params: PyTree[Array], users: Users) -> dict[str, Released]:
        """Evaluates: draws clients, and releases the means over them with noise.

        Formal guarantee: all evaluations together are what the mechanism promises, for any one
        client and all their examples, also where `params` depend on them (by training that is
        accounted for, as in one `Budget`).

        Args:
          params: of the model.
          users: all clients, whose examples are what the metrics take.

        Raises:
          BudgetError: if all evaluations were made.
        """
        if self._state is None:
            self.begin()
        state = self._state
        assert state is not None
        cohort = self._process.cohort(state, users)
        numbers = {n: _of_client(self._functions, params, cohort[n]) for n in cohort}
        self._state, _ = self._process.next(
            state._replace(server=state.server._replace(params=jnp.zeros_like(state.params))),
            {n: (np.asarray(values)[None],) for n, values in numbers.items()},
        )
        return self._read(np.asarray(self._state.params, np.float64))

    @property
    def _functions(self) -> tuple[Callable[..., Any] | None, ...]:
        return tuple(metric.function for metric in self._metrics.values())

    def _read(self, mean: np.ndarray) -> dict[str, Released]:
        # The process's vectors are scaled to norm 1 over all parts, and have signs of updates.
        scale = np.sqrt(sum(metric.parts for metric in self._metrics.values()))
        noise = self.mechanism.noise_stddev / self.mechanism.batch_size * scale
        found, values = {}, -mean * scale
        for name, metric in self._metrics.items():
            own, values = values[: 1 + metric.bins], values[1 + metric.bins :]
            width = metric.high - metric.low
            edges = np.linspace(metric.low, metric.high, metric.bins + 1) if metric.bins else ()
            found[name] = Released(
                metric.low + width * (float(own[0]) + 1) / 2,
                float(noise * width / 2),
                tuple(float(edge) for edge in edges),
                tuple(float(share) for share in own[1:]),
            )
        return found


def private_evaluation(metrics: Mapping[str, Metric], mechanism: Mechanism) -> PrivateEvaluation:
    """Client metrics with user-level privacy: means, counts and quantiles over clients.

    ```python
    m = hg.dp_sgd(examples=3383, batch_size=200, steps=5, unit="user", noise_multiplier=2.0,
                  delta=1e-5)
    evaluate = hg.federated.private_evaluation(
        {
            "accuracy": hg.federated.Metric(accuracy, 0, 1),
            "loss": hg.federated.Metric(loss, 0, 5, bins=20),
            "examples": hg.federated.Metric(None, 0, 200),
        },
        m,
    ).begin(budget=budget)
    found = evaluate(state.params, users)
    found["accuracy"].mean, found["loss"].quantile(0.9)
    ```

    Each client's numbers make one vector of norm 1 at most; one evaluation is one Gaussian
    mechanism over all metrics together, charged like a round of training.

    Args:
      metrics: by name.
      mechanism: from `hg.dp_sgd`, for as many clients: a step is an evaluation, and the batch
        size the expected number of clients in one. Its clip is put to 1.

    Raises:
      InputError: if there is no metric, or the mechanism will not do.
    """
    if not metrics or not all(isinstance(metric, Metric) for metric in metrics.values()):
        raise InputError(
            f"metrics must be a mapping from names to hg.federated.Metric, got {metrics!r}"
        )
    if not isinstance(mechanism, Mechanism) or mechanism.strategy.correlated:
        raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
    mechanism = dataclasses.replace(mechanism, clip=Flat(1.0))
    work = _Vector(_nothing, 1, kinds=tuple(metrics.values()))
    process = LearningProcess(work, optax.sgd(1.0), mechanism, lanes=1)
    return PrivateEvaluation(metrics, process)


def _nothing(params: Any, values: Any) -> Array:
    return jnp.zeros(())


@dataclasses.dataclass(frozen=True)
class _Vector(Work):
    """A client's update is the vector of their numbers."""

    kinds: tuple[Metric, ...] = ()

    @property
    def passes(self) -> int:
        return 1

    def __call__(
        self, params: Any, examples: Any, order: Array, steps: Array, words: Array
    ) -> Done:
        """Of norm 1 at most over all metrics."""
        values = examples[0][0]
        parts = [kind.vector(value) for kind, value in zip(self.kinds, values, strict=True)]
        scale = np.sqrt(sum(kind.parts for kind in self.kinds))
        return Done(jnp.concatenate(parts).astype(jnp.float32) / scale, jnp.zeros(()))


def _of_client(
    functions: Sequence[Callable[..., Any] | None], params: Any, examples: tuple[Any, ...]
) -> Float[np.ndarray, " metrics"]:
    """The mean of each function over a client's examples, padded to few different sizes."""
    size = len(jax.tree.leaves(examples)[0])
    room = 1 << max(0, size - 1).bit_length()
    rows = np.minimum(np.arange(room), size - 1)
    padded = jax.tree.map(lambda x: np.asarray(x)[rows], examples)
    return np.asarray(_means(tuple(functions), params, padded, np.arange(room) < size))


@functools.partial(jax.jit, static_argnames="functions")
def _means(functions: Any, params: Any, examples: Any, mask: Any) -> Float[Array, " metrics"]:
    size = jnp.sum(mask)

    def mean(function: Any) -> Array:
        if function is None:
            return size.astype(jnp.float32)
        values = jax.vmap(lambda *example: function(params, *example))(*examples)
        values = values.reshape(len(mask), -1).mean(axis=1).astype(jnp.float32)
        return jnp.sum(jnp.where(mask, values, 0)) / size

    return jnp.stack([mean(function) for function in functions])
