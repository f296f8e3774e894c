"""Sums of whole numbers with discrete Gaussian noise."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise, _records, dp_query
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.discrete_gaussian_utils import (
    sample_discrete_gaussian,
)
from hushgrad.errors import InputError

__all__ = ["DiscreteGaussianSumQuery"]


class _GlobalState(NamedTuple):
    l2_norm_bound: float
    stddev: float


class DiscreteGaussianSumQuery(dp_query.SumAggregationDPQuery):
    """Adds discrete Gaussian noise to the sum of records of whole numbers.

    Formal guarantee: each result is `l2_norm_bound^2 / (2 stddev^2)`-zero-concentrated
    private under add-or-remove-one-record adjacency (Canonne, Kamath and Steinke 2020,
    arXiv 2004.00010): exactly, since no float takes part. Sums that do not fit into
    their type wrap around, which changes nothing of that.

    Records are not clipped: one beyond the bound is an error, raised where the record is.

    Args:
      l2_norm_bound: the largest norm of a record, over all its leaves.
      stddev: the noise's sigma, taken as it is. (TensorFlow Privacy rounds it up.)

    Raises:
      InputError: if a number is negative or not finite.
    """

    _GlobalState = _SampleParams = _GlobalState

    def __init__(self, l2_norm_bound: float, stddev: float) -> None:
        self._state = _GlobalState(
            _noise.scale("l2_norm_bound", l2_norm_bound), _noise.scale("stddev", stddev)
        )

    def initial_global_state(self) -> Any:
        """The bound and the noise."""
        return self._state

    def derive_sample_params(self, global_state: Any) -> Any:
        """The bound and the noise."""
        return global_state

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """The record, if it is within the bound.

        Raises:
          InputError: if it is not, holds fractions, or is traced by JAX.
        """
        return checked(record, params.l2_norm_bound)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sum with noise, the same global state, and what it costs."""
        clip, stddev = global_state.l2_norm_bound, global_state.stddev
        result = add_discrete(sample_state, stddev)
        if stddev == 0:
            return result, global_state, dp_accounting.NonPrivateDpEvent()
        rho = (clip / stddev) ** 2 / 2
        return result, global_state, dp_accounting.ZCDpEvent(rho)


def checked(record: PyTree, bound: float) -> PyTree:
    """The record, or an error if its norm exceeds the bound; in whole numbers."""
    _noise.on_host("preprocess_record of a discrete query", record)
    squares = 0
    for leaf in jax.tree.leaves(record):
        array = np.asarray(leaf)
        if not np.issubdtype(array.dtype, np.integer):
            raise _records.StructureError(f"record must hold whole numbers, got {array.dtype}")
        squares += sum(number * number for number in array.ravel().tolist())
    if squares > Fraction(bound) ** 2:
        raise InputError(
            f"record must have a norm of at most l2_norm_bound={bound:g}; scale or clip records, "
            "then round them, before the query"
        )
    return jax.tree.map(jnp.asarray, record)


def add_discrete(total: PyTree, stddev: float) -> PyTree:
    """The tree of whole numbers with independent discrete Gaussian noise."""
    _noise.on_host("get_noised_result", total)

    def add(leaf: Any) -> Any:
        array = jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise _records.StructureError(f"record must hold whole numbers, got {array.dtype}")
        noise = sample_discrete_gaussian(stddev, array.shape, jnp.int64)
        return array + noise.astype(array.dtype)

    return jax.tree.map(add, total)
