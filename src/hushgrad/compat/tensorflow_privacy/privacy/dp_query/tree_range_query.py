"""Histograms whose every range is a sum of few noisy numbers.

Smith, Thakurta and Upadhyay 2017, "Is interaction necessary for distributed private
learning?".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree, Shaped

from hushgrad._check import positive, whole
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import (
    _records,
    distributed_discrete_gaussian_query,
    dp_query,
    gaussian_query,
)
from hushgrad.errors import InputError

__all__ = ["TreeRangeSumQuery"]


class _GlobalState(NamedTuple):
    arity: int
    inner_query_state: Any


class TreeRangeSumQuery(dp_query.SumAggregationDPQuery):
    """Makes a tree of sums over each record's bins and hands it to another query.

    Its result is a list of arrays, `tree[layer][index]`, the root first. What a result
    costs is what the inner query's costs: it bounds the whole tree of a record, whose norm
    is that of the bins times at most the root of the number of layers.

    Args:
      inner_query: a sum query over the flat tree.
      arity: how many children a node has.

    Raises:
      InputError: if the arity is below 2.
    """

    GlobalState = _GlobalState

    def __init__(self, inner_query: dp_query.SumAggregationDPQuery, arity: int = 2) -> None:
        self._inner_query = inner_query
        self._arity = whole("arity", arity, at_least=2)

    def initial_global_state(self) -> Any:
        """The arity, and the inner query's state."""
        return _GlobalState(self._arity, self._inner_query.initial_global_state())

    def derive_sample_params(self, global_state: Any) -> Any:
        """The arity, and the inner query's params."""
        inner = self._inner_query.derive_sample_params(global_state.inner_query_state)
        return global_state.arity, inner

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """The inner query's, for a tree of zeros."""
        bins = _records.zeros(template)
        return self._inner_query.initial_sample_state(_flat_tree(bins, self._arity))

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """The flat tree over a record's bins, as the inner query bounds it.

        Raises:
          InputError: if the record is not one row of bins.
        """
        # The arity is static; that of the params is the same.
        return self._inner_query.preprocess_record(params[1], _flat_tree(record, self._arity))

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The noisy tree as a list of layers, the next state, and the inner query's event."""
        noised, inner, event = self._inner_query.get_noised_result(
            sample_state, global_state.inner_query_state
        )
        layers, start, size = [], 0, 1
        while start < noised.shape[0]:
            layers.append(noised[start : start + size])
            start, size = start + size, size * self._arity
        return layers, global_state._replace(inner_query_state=inner), event

    @classmethod
    def build_central_gaussian_query(
        cls, l2_norm_clip: float, stddev: float, arity: int = 2
    ) -> TreeRangeSumQuery:
        """With Gaussian noise on the sum.

        Args:
          l2_norm_clip: the largest norm of a record's whole tree.
          stddev: of the noise on every node.
          arity: how many children a node has.

        Raises:
          InputError: if a number is out of range.
        """
        positive("l2_norm_clip", l2_norm_clip)
        return cls(gaussian_query.GaussianSumQuery(l2_norm_clip, stddev), arity)

    @classmethod
    def build_distributed_discrete_gaussian_query(
        cls, l2_norm_bound: float, local_stddev: float, arity: int = 2
    ) -> TreeRangeSumQuery:
        """With discrete Gaussian noise on every record.

        Args:
          l2_norm_bound: the largest norm of a record's whole tree.
          local_stddev: of the noise that one record brings to every node.
          arity: how many children a node has.

        Raises:
          InputError: if a number is out of range.
        """
        positive("l2_norm_bound", l2_norm_bound)
        inner = distributed_discrete_gaussian_query.DistributedDiscreteGaussianSumQuery(
            l2_norm_bound, local_stddev
        )
        return cls(inner, arity)


def _flat_tree(bins: Any, arity: int) -> Shaped[Array, " nodes"]:
    """All layers one after the other, the root first; bins are padded with zeros."""
    bins = jnp.asarray(bins)
    if bins.ndim != 1 or not bins.size:
        raise InputError(f"record must be one row of bins, got shape {bins.shape}")
    size = 1
    while size < bins.shape[0]:
        size *= arity
    layers = [jnp.pad(bins, (0, size - bins.shape[0]))]
    while layers[0].shape[0] > 1:
        layers.insert(0, layers[0].reshape(-1, arity).sum(1, dtype=bins.dtype))
    return jnp.concatenate(layers)
