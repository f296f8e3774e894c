"""What tree aggregation costs: Kairouz et al. 2021, appendix D (arXiv 2103.00039).

A release of all prefix sums by tree aggregation is a Gaussian release of every node of
a binary tree. An example that takes part several times moves a node by its number of
turns in the leaves below it; the cost is that of one Gaussian whose squared sensitivity
is the largest possible sum of the squares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.noise import Spaced, largest_sum

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


def _largest_sum(total_steps: int, max_participation: int, min_separation: int) -> int:
    steps = whole("total_steps", total_steps, at_least=0)
    turns = whole("max_participation", max_participation, at_least=0)
    apart = whole("min_separation", min_separation, at_least=0) + 1
    return largest_sum((steps,), Spaced(turns, apart)) if steps and turns else 0
