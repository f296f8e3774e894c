"""Tree aggregation: noise whose sums over steps grow with their logarithm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, UInt32

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.noise.gaussian import gaussian, normals_for, plus, step_key, wide
from hushgrad.noise.participation import Participation, Spaced
from hushgrad.noise.strategy import Strategy
from hushgrad.noise.tree_cost import largest_sum
from hushgrad.noise.workload import Workload

__all__ = ["Tree", "TreeState", "tree"]


class TreeState(NamedTuple):
    """What the noise of later steps depends on. As secret as the key.

    Attributes:
      step: how many were made.
      levels: for each leaf of the parameters, the estimates of the noise of complete
        subtrees that still stand alone, by height; in standard deviations.
    """

    step: Int[Array, ""]
    levels: PyTree[Float[Array, "levels ..."]]


def tree(
    stddev: float | Float[Array, ""],
    *,
    steps: int,
    restart_every: int | None = None,
    first_restart: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise that cancels between steps: that of sums over steps 1..t grows with log t.

    ```python
    noise = hg.noise.tree(stddev=1.1 * clip, steps=1000)
    state = noise.init(params)
    private_sum, state = noise.update(clipped.grads, state, key=key)    # step after step
    ```

    The sum of steps 1..t is released as the sum of nodes of a binary tree over the steps,
    each node with noise of its own, combined with those below it so that the variance is
    least (Honaker 2015, "bottom-up"; Kairouz et al. 2021, arXiv 2103.00039, "DP-FTRL"). A
    step's noise is the difference of two such sums. The state holds `steps.bit_length()`
    times the parameters; a step draws two nodes on average.

    Formal guarantee: if whoever takes part changes the sum of each step they are in by at
    most `s` in Euclidean norm, all steps together are one Gaussian mechanism with noise
    multiplier `stddev / (s * Tree(...).sensitivity(steps, pattern))`, also if each sum
    depends on what was released before. They must leave empty places ("replace-special"), or
    be in steps that do not depend on others.

    Args:
      stddev: of a node's noise, in the units of the sums.
      steps: how many are made at most; noise of a step for which there is no room is not a number.
      restart_every: begin a new tree after so many steps; the noise of sums over earlier
        trees stays. None for one tree.
      first_restart: after how many steps the first tree ends, `restart_every` by default.

    Raises:
      InputError: as `gaussian`; or if a number of steps is not positive.
    """
    gaussian(stddev)  # or an error
    settings = Tree(restart_every, first_restart)
    heights = max(settings.trees(whole("steps", steps))).bit_length()

    def init(params: optax.Params) -> optax.OptState:
        def levels(leaf: Array) -> Array | None:
            dtype = wide(jnp.asarray(leaf))
            return None if dtype is None else jnp.zeros((heights, *leaf.shape), dtype)

        return TreeState(jnp.zeros((), jnp.int32), jax.tree.map(levels, params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        key: UInt32[Array, "8"] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra
        key = step_key(key)
        assert isinstance(state, TreeState)
        leaves, treedef = jax.tree.flatten(updates)
        levels = treedef.flatten_up_to(state.levels)
        normals, levels = _next(leaves, levels, settings.place(state.step), key)
        state = TreeState(state.step + 1, jax.tree.unflatten(treedef, levels))
        return jax.tree.unflatten(treedef, plus(leaves, normals, stddev)), state

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class Tree(Strategy):
    """Binary trees over the steps, combined at least variance: `tree`.

    Attributes:
      restart_every: begin a new tree after so many steps; None for one tree.
      first_restart: after how many steps the first tree ends, `restart_every` by default.

    Raises:
      InputError: if a number is not positive, or the first tree is longer than the others.
    """

    restart_every: int | None = None
    first_restart: int | None = None

    kind = "tree"

    def __post_init__(self) -> None:
        if self.restart_every is not None:
            object.__setattr__(self, "restart_every", whole("restart_every", self.restart_every))
        if self.first_restart is not None:
            first = whole("first_restart", self.first_restart)
            if self.restart_every is None or first > self.restart_every:
                raise InputError(
                    f"first_restart must be at most restart_every, got first_restart={first} for "
                    f"restart_every={self.restart_every}"
                )
            object.__setattr__(self, "first_restart", first)

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Tree:
        """One tree, or a new one for each turn that somebody may take: what has less error."""
        apart = pattern.apart if isinstance(pattern, Spaced) else pattern.length
        return min((cls(), cls(apart)), key=lambda one: one.error(steps, pattern))

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `tree`."""
        return tree(
            stddev,
            steps=steps,
            restart_every=self.restart_every,
            first_restart=self.first_restart,
        )

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """The root of the largest sum of squared turns over all nodes."""
        return math.sqrt(largest_sum(self.trees(steps), pattern)) if steps else 0.0

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the noise in the sum of steps 1..t, for each t, in a node's variance."""
        made, before = [], 0.0
        for size in self.trees(steps):
            within = [
                sum(_variance(h) for h in range(t.bit_length()) if t >> h & 1)
                for t in range(1, size + 1)
            ]
            made += [before + one for one in within]
            before = made[-1]
        return np.array(made)

    def trees(self, steps: int) -> tuple[int, ...]:
        """How many of `steps` steps each tree has."""
        every = self.restart_every
        if every is None:
            return (steps,)
        first = min(steps, self.first_restart or every)
        others, last = divmod(steps - first, every)
        return (first, *[every] * others, *([last] if last else []))

    def place(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """The number of a step in its tree, from 1."""
        if self.restart_every is None:
            return step + 1
        first = self.first_restart or self.restart_every
        return jnp.where(step < first, step, (step - first) % self.restart_every) + 1

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        again = "" if self.restart_every is None else f", a new one every {self.restart_every:,}"
        return (
            f"Gaussian noise with multiplier {noise_multiplier:.6g} on the nodes of a binary tree "
            f"over the steps{again}"
        )


def _variance(height: int) -> float:
    """Of the estimate of a complete subtree from all of its nodes."""
    return 2**height / (2 ** (height + 1) - 1)


def _next(
    leaves: Sequence[Array],
    levels: list[Float[Array, "levels ..."] | None],
    place: Int[Array, ""],
    key: Array,
) -> tuple[list[Array | None], list[Array | None]]:
    """A step's noise for each leaf, in standard deviations, and the subtrees that stand alone."""

    def nodes(draw: Array | int) -> list[Array]:
        return [made for made in normals_for(key, leaves, draw) if made is not None]

    standing = [kept for kept in levels if kept is not None]

    def merge(height: Array, found: tuple[list[Array], list[Array]]) -> Any:
        # The weight of a node's own noise that gives the least variance is that variance.
        size = 2.0 ** (height + 1)
        own = size / (2 * size - 1)
        lefts = [lax.dynamic_index_in_dim(kept, height, keepdims=False) for kept in standing]
        joined = [
            (own * node + (1 - own) * (left + estimate)).astype(node.dtype)
            for node, left, estimate in zip(nodes(height + 1), lefts, found[0], strict=True)
        ]
        return joined, [sum_ + left for sum_, left in zip(found[1], lefts, strict=True)]

    # The step completes as many subtrees above its leaf as its number has zeros at its end.
    full = lax.population_count((place & -place) - 1)
    start = nodes(0), [jnp.zeros(kept.shape[1:], kept.dtype) for kept in standing]
    estimates, merged = lax.fori_loop(0, full, merge, start)
    # Where there is no place to keep it, later noise would not be what is charged.
    fits = [place < 1 << kept.shape[0] for kept in standing]
    estimates = [jnp.where(fit, one, jnp.nan) for fit, one in zip(fits, estimates, strict=True)]
    added = iter([estimate - left for estimate, left in zip(estimates, merged, strict=True)])
    kept = iter(
        lax.dynamic_update_index_in_dim(kept, estimate, full, 0)
        for kept, estimate in zip(standing, estimates, strict=True)
    )
    there = [kept is not None for kept in levels]
    return (
        [next(added) if is_there else None for is_there in there],
        [next(kept) if is_there else None for is_there in there],
    )
