"""Noise for prefix sums, node by node of a binary tree.

Dwork, Naor, Pitassi and Rothblum 2010 for the tree, Honaker 2015 for the efficient one.
The node that a step adds is drawn when that step's noise is asked for, not before as in
TensorFlow Privacy: whoever asks twice from one state gets two noises that differ in the
new node, as if two nodes had been released.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from hushgrad._check import whole
from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise, _records
from hushgrad.errors import InputError

__all__ = [
    "EfficientTreeAggregator",
    "GaussianNoiseGenerator",
    "StatelessValueGenerator",
    "TreeAggregator",
    "TreeState",
    "ValueGenerator",
    "get_step_idx",
]


class ValueGenerator(abc.ABC):
    """Values, one after the other, and the state between them."""

    @abc.abstractmethod
    def initialize(self) -> Any:
        """The state before the first value."""

    @abc.abstractmethod
    def next(self, state: Any) -> tuple[PyTree, Any]:
        """The next value, and the state after it."""


class _GeneratorState(NamedTuple):
    seeds: int | None
    stddev: float


class GaussianNoiseGenerator(ValueGenerator):
    """Independent normal noise, from the operating system's entropy for every value.

    Args:
      noise_std: standard deviation.
      specs: the shapes of a value: a pytree of `jax.ShapeDtypeStruct` or arrays.
      seed: for tests; whoever knows it can subtract the noise.

    Raises:
      InputError: if the standard deviation is negative or not finite.
    """

    _GlobalState = _GeneratorState

    def __init__(self, noise_std: float, specs: PyTree, seed: int | None = None) -> None:
        self._noise_std = _noise.scale("noise_std", noise_std)
        self._specs = specs
        self._seed = None if seed is None else whole("seed", seed, at_least=0)
        if seed is not None:
            warnings.warn(
                f"seed={seed!r}: not private against whoever knows the seed, who can subtract "
                "the noise; leave it out but in tests",
                stacklevel=2,
            )

    def initialize(self) -> Any:
        """The state: the number of the next value (with a seed), and the deviation."""
        return self.make_state(None if self._seed is None else 0, self._noise_std)

    def next(self, state: Any) -> tuple[PyTree, Any]:
        """Noise, and the state after it."""
        if (state.seeds is None) != (self._seed is None):
            raise InputError(
                "state must be from this generator: with a seed, or without, got "
                f"seeds={state.seeds!r}"
            )
        number = state.seeds
        # The state holds no key: a copy of it gives other noise.
        key = None if self._seed is None else _noise.seeded_key(self._seed, number)
        value = _noise.add_gaussian(_records.zeros(self._specs), state.stddev, key)
        return value, state._replace(seeds=None if number is None else number + 1)

    def make_state(self, seeds: int | None, stddev: float) -> Any:
        """The state with another deviation; `seeds` is of the state before."""
        return _GeneratorState(seeds, _noise.scale("stddev", stddev))


class StatelessValueGenerator(ValueGenerator):
    """Values of a function without arguments."""

    def __init__(self, value_fn: Callable[[], PyTree]) -> None:
        self.value_fn = value_fn

    def initialize(self) -> Any:
        """Nothing."""
        return ()

    def next(self, state: Any) -> tuple[PyTree, Any]:
        """The function's next value."""
        return self.value_fn(), state


class TreeState(NamedTuple):
    """The nodes that the next prefix sum may still need.

    Attributes:
      level_buffer: their values, the lowest first.
      level_buffer_idx: their heights; a leaf's is 0.
      value_generator_state: the generator's.
    """

    level_buffer: tuple[PyTree, ...]
    level_buffer_idx: tuple[int, ...]
    value_generator_state: Any


def get_step_idx(state: TreeState) -> int:
    """The number of the step whose noise comes next, from 0."""
    return sum(2**height for height in state.level_buffer_idx)


class TreeAggregator:
    """Noise of prefix sums, as the sum of the nodes that cover the prefix.

    ```python
    tree = TreeAggregator(GaussianNoiseGenerator(1.0, jax.ShapeDtypeStruct((3,), jnp.float32)))
    state = tree.init_state()
    noise, state = tree.get_cumsum_and_update(state)
    ```

    Args:
      value_generator: a `ValueGenerator`, or a function without arguments.
    """

    def __init__(self, value_generator: ValueGenerator | Callable[[], PyTree]) -> None:
        if isinstance(value_generator, ValueGenerator):
            self.value_generator = value_generator
        else:
            self.value_generator = StatelessValueGenerator(value_generator)

    def init_state(self) -> TreeState:
        """A tree without leaves."""
        return TreeState((), (), self.value_generator.initialize())

    def reset_state(self, state: TreeState) -> TreeState:
        """A new tree without leaves; the generator goes on."""
        return TreeState((), (), state.value_generator_state)

    def get_cumsum_and_update(self, state: TreeState) -> tuple[PyTree, TreeState]:
        """The noise of the next prefix sum, and the state after it.

        Raises:
          InputError: under a transformation of JAX, where noise would be drawn once.
        """
        _noise.on_host("get_cumsum_and_update", state)
        height = 0
        while height < len(state.level_buffer) and state.level_buffer_idx[height] == height:
            height += 1
        node, generator_state = self._new_node(state, height)
        state = TreeState(
            (node, *state.level_buffer[height:]),
            (height, *state.level_buffer_idx[height:]),
            generator_state,
        )
        return self._cumsum(state), state

    def _new_node(self, state: TreeState, height: int) -> tuple[PyTree, Any]:
        """The node of some height that ends at the new leaf, over all lower ones."""
        del height
        return self.value_generator.next(state.value_generator_state)

    def _weight(self, height: int) -> float:
        """Of a node in the prefix sum."""
        del height
        return 1.0

    def _cumsum(self, state: TreeState) -> PyTree:
        total: PyTree = None
        for node, height in zip(state.level_buffer, state.level_buffer_idx, strict=True):
            weight = self._weight(height)
            part = jax.tree.map(lambda leaf, weight=weight: weight * leaf, node)
            total = part if total is None else _records.add(total, part)
        return total


class EfficientTreeAggregator(TreeAggregator):
    """The same with about half the variance: a node is averaged with what is below it."""

    def _new_node(self, state: TreeState, height: int) -> tuple[PyTree, Any]:
        # What is stored of a node is its own value plus the mean of its children's.
        stored, generator_state = self.value_generator.next(state.value_generator_state)
        for left in state.level_buffer[:height]:
            own, generator_state = self.value_generator.next(generator_state)
            stored = _records.matched(lambda n, a, b: n + 0.5 * (a + b), own, left, stored)
        return stored, generator_state

    def _weight(self, height: int) -> float:
        return 1 / (2 - 0.5**height)
