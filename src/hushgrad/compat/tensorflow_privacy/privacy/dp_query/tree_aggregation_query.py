"""Sums over a stream, with noise that a binary tree correlates.

For samples that are not drawn at random: DP-FTRL, Kairouz et al. 2021 (arXiv 2103.00039).
One result's cost does not stand alone, so events are `UnsupportedDpEvent`; the cost of
all results together comes from `tree_aggregation_accountant`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import dp_accounting
import jax
from jaxtyping import Array, Float, PyTree

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import (
    _noise,
    _records,
    dp_query,
    tree_aggregation,
)
from hushgrad.errors import InputError

__all__ = ["TreeCumulativeSumQuery", "TreeResidualSumQuery"]

ClipFn = Callable[[list[Any], Any], list[Any]]
_Query = TypeVar("_Query", bound="_TreeSumQuery")


class _TreeSumQuery(dp_query.SumAggregationDPQuery):
    """What both have in common: clipping, and a tree of noise.

    Args:
      record_specs: shapes of a record: a pytree of `jax.ShapeDtypeStruct` or arrays.
      noise_generator: a `ValueGenerator` for the noise of a node, or a function.
      clip_fn: (a record's leaves, clip_value) -> the clipped leaves. What comes out must be
        bounded as the noise needs it; leaves that are not finite become zero.
      clip_value: passed to `clip_fn`.
      use_efficient: whether nodes are averaged with those below them.
    """

    def __init__(
        self,
        record_specs: PyTree,
        noise_generator: tree_aggregation.ValueGenerator | Callable[[], PyTree],
        clip_fn: ClipFn,
        clip_value: float,
        use_efficient: bool = True,
    ) -> None:
        self._clip_fn = clip_fn
        self._clip_value = _noise.scale("clip_value", clip_value)
        self._record_specs = record_specs
        kind = tree_aggregation.TreeAggregator
        if use_efficient:
            kind = tree_aggregation.EfficientTreeAggregator
        self._tree_aggregator = kind(noise_generator)

    def derive_sample_params(self, global_state: Any) -> Any:
        """The clip."""
        return _records.rounded_down(global_state.clip_value)

    def initial_sample_state(self, template: PyTree = None) -> Any:
        """Zeros, shaped like a record, in float32 or wider."""
        return _records.widened_zeros(template)

    def preprocess_record(self, params: Any, record: PyTree) -> Any:
        """The clipped record."""
        leaves, structure = jax.tree.flatten(record)
        clipped = structure.unflatten(self._clip_fn(leaves, params))
        return _records.without_nonfinite(clipped, record)

    def _zeros(self) -> PyTree:
        return _records.widened_zeros(self._record_specs)

    @classmethod
    def build_l2_gaussian_query(
        cls: type[_Query],
        clip_norm: float,
        noise_multiplier: float,
        record_specs: PyTree,
        noise_seed: int | None = None,
        use_efficient: bool = True,
    ) -> _Query:
        """The query that clips Euclidean norms and adds Gaussian noise to every node.

        Formal guarantee: all results together cost what
        `tree_aggregation_accountant.compute_rdp_tree_restart` or `compute_rdp_single_tree`
        says at this noise multiplier, if each state is used once.

        Args:
          clip_norm: largest norm of a record, over all its leaves.
          noise_multiplier: noise of a node over `clip_norm`.
          record_specs: shapes of a record.
          noise_seed: for tests; whoever knows it can subtract the noise.
          use_efficient: whether nodes are averaged with those below them.

        Raises:
          InputError: if a number is negative or not finite.
        """
        clip_norm = _noise.scale("clip_norm", clip_norm)
        generator = tree_aggregation.GaussianNoiseGenerator(
            clip_norm * _noise.scale("noise_multiplier", noise_multiplier),
            record_specs,
            noise_seed,
        )
        return cls(record_specs, generator, _clip_l2, clip_norm, use_efficient)


def _clip_l2(leaves: list[Any], clip_norm: Any) -> list[Any]:
    return _records.clip_by_global_norm(leaves, clip_norm)[0]


class _CumulativeState(NamedTuple):
    tree_state: Any
    clip_value: Any
    samples_cumulative_sum: Any


class TreeCumulativeSumQuery(_TreeSumQuery):
    """Each result is the sum of all samples so far, with the tree's noise for that prefix.

    `build_l2_gaussian_query` makes one with clipping and Gaussian noise that fit together.
    The global state holds the samples' sum without noise: it is as private as they are.
    """

    GlobalState = _CumulativeState

    def initial_global_state(self) -> Any:
        """An empty tree and a sum of zero."""
        tree = self._tree_aggregator.init_state()
        return _CumulativeState(tree, self._clip_value, self._zeros())

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sum of all samples with noise, and the state for the next."""
        _noise.on_host("get_noised_result", sample_state, global_state)
        total = _records.add(global_state.samples_cumulative_sum, sample_state)
        noise, tree = self._tree_aggregator.get_cumsum_and_update(global_state.tree_state)
        state = global_state._replace(tree_state=tree, samples_cumulative_sum=total)
        return _records.add(total, noise), state, dp_accounting.UnsupportedDpEvent()

    def reset_state(self, noised_results: Any, global_state: Any) -> Any:
        """The state with a new tree, on top of the last noisy sum."""
        tree = self._tree_aggregator.reset_state(global_state.tree_state)
        return global_state._replace(tree_state=tree, samples_cumulative_sum=noised_results)


class _ResidualState(NamedTuple):
    tree_state: Any
    clip_value: Any
    previous_tree_noise: Any


class TreeResidualSumQuery(_TreeSumQuery):
    """Each result is a sample's sum; results added up are a `TreeCumulativeSumQuery`'s.

    It takes a `GaussianSumQuery`'s place before an optimizer that adds results up.
    `build_l2_gaussian_query` makes one with clipping and Gaussian noise that fit together.
    """

    GlobalState = _ResidualState

    def initial_global_state(self) -> Any:
        """An empty tree."""
        tree = self._tree_aggregator.init_state()
        return _ResidualState(tree, self._clip_value, self._zeros())

    def preprocess_record_l2_impl(
        self, params: Any, record: PyTree
    ) -> tuple[PyTree, Float[Array, ""]]:
        """The record clipped by its Euclidean norm, and the norm; the norm is not private."""
        return _records.clip_by_global_norm(record, params)

    def get_noised_result(self, sample_state: Any, global_state: Any) -> tuple[Any, Any, Any]:
        """The sample with what the tree's noise changed by, and the state for the next."""
        _noise.on_host("get_noised_result", sample_state, global_state)
        noise, tree = self._tree_aggregator.get_cumsum_and_update(global_state.tree_state)
        result = _records.matched(
            lambda total, new, old: total + new - old,
            sample_state,
            noise,
            global_state.previous_tree_noise,
        )
        state = global_state._replace(tree_state=tree, previous_tree_noise=noise)
        return result, state, dp_accounting.UnsupportedDpEvent()

    def reset_state(self, noised_results: Any, global_state: Any) -> Any:
        """The state with a new tree."""
        del noised_results
        tree = self._tree_aggregator.reset_state(global_state.tree_state)
        return global_state._replace(tree_state=tree, previous_tree_noise=self._zeros())

    def reset_l2_clip_gaussian_noise(
        self, global_state: Any, clip_norm: float, stddev: float
    ) -> Any:
        """The state with another clip and noise, and a new tree.

        A node's noise must fit every record below it, so a tree has one clip. (TensorFlow
        Privacy keeps the tree here and leaves it to the caller to reset it.)

        Raises:
          InputError: if the noise is not from a `GaussianNoiseGenerator`, or a number is
            negative or not finite.
        """
        generator = self._tree_aggregator.value_generator
        if not isinstance(generator, tree_aggregation.GaussianNoiseGenerator):
            raise InputError(
                f"noise_generator must be a GaussianNoiseGenerator to be changed, got {generator!r}"
            )
        seeds = global_state.tree_state.value_generator_state.seeds
        changed = global_state.tree_state._replace(
            value_generator_state=generator.make_state(seeds, stddev)
        )
        return _ResidualState(
            self._tree_aggregator.reset_state(changed),
            _noise.scale("clip_norm", clip_norm),
            self._zeros(),
        )

    def derive_metrics(self, global_state: Any) -> Any:
        """The clip."""
        return collections.OrderedDict(tree_agg_dpftrl_clip=global_state.clip_value)
