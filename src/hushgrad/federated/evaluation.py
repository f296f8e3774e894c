"""Means over examples, without noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hushgrad.errors import InputError
from hushgrad.federated.work import Work
from hushgrad.training.data import source_of

__all__ = ["evaluated"]

_ROWS = 1000


def evaluated(
    work: Work, params: PyTree[Array], data: Any, metrics: Mapping[str, Callable[..., Any]]
) -> dict[str, float]:
    """The mean loss and other means over all examples."""
    for name, metric in metrics.items():
        if not callable(metric):
            raise InputError(f"metrics[{name!r}] must be a function, got {metric!r}")
    source = source_of(data)
    totals = np.zeros(1 + len(metrics))
    functions = (work, *metrics.values())
    for first in range(0, source.size, _ROWS):
        rows = np.arange(first, first + _ROWS)
        mask = rows < source.size
        examples = source.read(np.minimum(rows, source.size - 1))
        totals += np.asarray(_sums(functions, params, examples, mask), np.float64)
    names = ("loss", *metrics)
    return {f"unprotected_{n}": float(t / source.size) for n, t in zip(names, totals, strict=True)}


@jax.jit(static_argnames="functions")
def _sums(functions: Any, params: Any, examples: Any, mask: Any) -> Array:
    work, *metrics = functions
    # What a layer draws in training it does not draw here, where it knows of it.
    words = (jnp.zeros((len(mask), 2), jnp.uint32),) if work.draws else ()

    def mean(function: Callable[..., Any], arguments: Any) -> Array:
        values = jax.vmap(lambda *example: function(params, *example))(*arguments)
        values = values.reshape(len(mask), -1).mean(axis=1)
        return jnp.sum(jnp.where(mask, values, 0))

    losses = mean(work.loss, (*words, *examples))
    return jnp.stack([losses, *(mean(metric, examples) for metric in metrics)])
