"""What tree aggregation costs: Kairouz et al. 2021, appendix D (arXiv 2103.00039).

A release of all prefix sums by tree aggregation is a Gaussian release of every node of
a binary tree. An example that takes part several times moves a node by its number of
turns in the leaves below it; the cost is that of one Gaussian whose squared sensitivity
is the largest possible sum of the squares.

TensorFlow Privacy finds that sum by trying every split of every node at every boundary,
in minutes; here a node keeps, for each number of turns and each sum, only how early
the next turn may come. The values are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from hushgrad._check import whole
from hushgrad.errors import InputError

__all__ = ["compute_rdp_single_tree", "compute_rdp_tree_restart", "compute_zcdp_single_tree"]


def compute_rdp_tree_restart(noise_multiplier: float, steps_list: Any, orders: Any) -> Any:
    """Renyi divergences of tree aggregation that starts a new tree now and then.

    Formal guarantee: for an example that is in at most one step of each tree (one pass
    over the data for each tree, say), under the removal of the example (its records
    become zeros).

    Args:
      noise_multiplier: noise of a node over one record's largest norm.
      steps_list: the number of steps in each tree; a number means one tree.
      orders: Renyi orders, one or several.

    Returns:
      The divergence at each order: an array, or a number for one order. Infinite
      without noise.

    Raises:
      InputError: if a number is negative or there is no step.
    """
    noise_multiplier = _at_least_zero("noise_multiplier", noise_multiplier)
    if noise_multiplier == 0:
        return math.inf
    steps = [steps_list] if np.isscalar(steps_list) else list(steps_list)
    if not steps or steps == [0]:
        raise InputError(
            f"steps_list must be a non-empty list, or a non-zero number, got {steps_list!r}"
        )
    steps = [whole("steps_list", each, at_least=0) for each in steps]
    # The nodes above one leaf, itself included.
    return _gaussian(noise_multiplier, float(sum(each.bit_length() for each in steps)), orders)


def compute_rdp_single_tree(
    noise_multiplier: float,
    total_steps: int,
    max_participation: int,
    min_separation: int,
    orders: Any,
) -> Any:
    """Renyi divergences of tree aggregation in one tree over several passes.

    Formal guarantee: for an example that is in at most `max_participation` steps with
    at least `min_separation` steps between any two, under the removal of the example (its
    records become zeros).

    Args:
      noise_multiplier: noise of a node over one record's largest norm.
      total_steps: number of steps (leaves).
      max_participation: in how many steps an example may be.
      min_separation: how many steps are between two of them at least.
      orders: Renyi orders, one or several.

    Returns:
      The divergence at each order: an array, or a number for one order. Infinite
      without noise.

    Raises:
      InputError: if a number is negative or not whole.
    """
    noise_multiplier = _at_least_zero("noise_multiplier", noise_multiplier)
    if noise_multiplier == 0:
        return math.inf
    squares = _largest_sum(total_steps, max_participation, min_separation)
    return _gaussian(noise_multiplier, squares, orders)


def compute_zcdp_single_tree(
    noise_multiplier: float, total_steps: int, max_participation: int, min_separation: int
) -> float:
    """The same as `compute_rdp_single_tree` as zero-concentrated privacy.

    Returns:
      rho of Bun and Steinke 2016 (arXiv 1605.02065); infinite without noise.

    Raises:
      InputError: if a number is negative or not whole.
    """
    noise_multiplier = _at_least_zero("noise_multiplier", noise_multiplier)
    if noise_multiplier == 0:
        return math.inf
    squares = _largest_sum(total_steps, max_participation, min_separation)
    return squares / (2 * noise_multiplier**2)


def _gaussian(sigma: float, squares: float, orders: Any) -> Any:
    # An infinite order is infinite by itself.
    rdp = np.asarray(orders, float) * squares / (2 * sigma**2)
    return float(rdp) if np.isscalar(orders) else rdp


def _at_least_zero(name: str, value: float) -> float:
    if not value >= 0:
        raise InputError(f"{name} must be non-negative, got {value!r}")
    return float(value)


def _largest_sum(total_steps: int, max_participation: int, min_separation: int) -> float:
    steps = whole("total_steps", total_steps, at_least=0)
    turns = whole("max_participation", max_participation, at_least=0)
    apart = whole("min_separation", min_separation, at_least=0) + 1
    turns = min(turns, -(-steps // apart))
    if not turns:
        return 0.0
    # The leaves fall into complete trees, the largest first, of one bit of `steps` each.
    trees = _complete(steps.bit_length() - 1, turns, apart)
    below = {0: _Choices(np.zeros(1, int), np.zeros((1, 1), int))}
    for height in reversed(range(steps.bit_length())):
        if steps >> height & 1:
            below = _joined(below, trees(height), turns, apart, square=False)
    return float(max(choices.sums[-1] for choices in below.values()))


@dataclasses.dataclass(frozen=True)
class _Choices:
    """Where so many turns may fall in some leaves, as far as it matters.

    Attributes:
      sums: of squares over the nodes there, ascending.
      next_start: for each sum and each first leaf that may be taken, the first leaf after
        these that may be taken, counted from their end; `apart` where the turns do not fit.
    """

    sums: Int[np.ndarray, " choices"]
    next_start: Int[np.ndarray, "choices starts"]


def _complete(height: int, turns: int, apart: int) -> Callable[[int], dict[int, _Choices]]:
    """The choices in complete trees of heights up to `height`, by the number of turns."""
    # In a tree of at most `apart` leaves there is room for one turn, wherever it is.
    low = min(height, apart.bit_length() - 1)
    trees = {each: _single(each, apart) for each in range(low + 1)}
    for each in range(low + 1, height + 1):
        half = trees[each - 1]
        trees[each] = _joined(half, half, turns, apart, square=True)
    return trees.__getitem__


def _single(height: int, apart: int) -> dict[int, _Choices]:
    size = 1 << height
    starts = np.arange(apart)
    none = np.maximum(starts - size, 0)
    once = np.where(starts < size, starts + apart - size, apart)
    return {
        0: _Choices(np.zeros(1, int), _ended(none[None], apart)),
        1: _Choices(np.array([height + 1]), _ended(once[None], apart)),
    }


def _ended(next_start: Int[np.ndarray, "choices starts"], apart: int) -> np.ndarray:
    """With a last column for the start that stands for "does not fit"."""
    return np.pad(next_start, ((0, 0), (0, 1)), constant_values=apart)


def _joined(
    left: dict[int, _Choices],
    right: dict[int, _Choices],
    turns: int,
    apart: int,
    square: bool,
) -> dict[int, _Choices]:
    """The choices in two neighbours together, under a common node if `square`."""
    joined = {}
    for count in range(min(turns, max(left) + max(right)) + 1):
        pairs = [(left[n], right[count - n]) for n in left if count - n in right]
        extra = count**2 if square else 0
        top = max(a.sums[-1] + b.sums[-1] for a, b in pairs) + extra
        width = next(iter(left.values())).next_start.shape[1]
        table = np.full((top + 1, width), apart)
        for a, b in pairs:
            for total, handed_on in zip(a.sums, a.next_start, strict=True):
                rows = total + b.sums + extra
                table[rows] = np.minimum(table[rows], b.next_start[:, handed_on])
        found = _worth_keeping(table, apart)
        if found is not None:
            joined[count] = found
    return joined


def _worth_keeping(table: Int[np.ndarray, "sums starts"], apart: int) -> _Choices | None:
    """The sums that no larger one reaches as early from every start."""
    best = np.minimum.accumulate(table[::-1])[::-1]
    after = np.vstack([best[1:], np.full((1, best.shape[1]), apart)])
    kept = np.flatnonzero((best < after).any(1))
    return _Choices(kept, best[kept]) if len(kept) else None
