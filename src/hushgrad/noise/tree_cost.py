"""How much one participant can move the nodes of binary trees over a run's steps.

A release of all prefix sums by tree aggregation is a Gaussian release of every node
(Kairouz et al. 2021, appendix D, arXiv 2103.00039). Who takes part several times moves a
node by the number of turns in the leaves below it; the cost is that of one Gaussian
whose squared sensitivity is the largest possible sum of the squares.

TensorFlow Privacy finds that sum by trying every split of every node at every boundary,
in minutes; here a node keeps, for each number of turns and each sum, only how early
the next turn may come. The values are the same.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int

from hushgrad.noise.participation import (
    Participation,
    Periodic,
    Spaced,
)

__all__ = ["largest_sum"]


@functools.lru_cache(maxsize=4096)
def largest_sum(trees: tuple[int, ...], pattern: Participation) -> int:
    """The largest sum of squared numbers of turns over all nodes.

    Args:
      trees: how many steps each tree has, one after the other. A tree whose steps are no
        power of two is as many complete trees as that number has bits.
      pattern: when somebody may take part.
    """
    if isinstance(pattern, Spaced):
        return _of_spaced(trees, pattern.turns, pattern.apart)
    if isinstance(pattern, Periodic):
        return _of_period(trees, pattern.length)
    return _of_passes(trees, pattern.length)


def _heights(steps: int) -> Iterator[int]:
    """Of the complete trees that so many leaves fall into, the largest first."""
    return (height for height in reversed(range(steps.bit_length())) if steps >> height & 1)


def _of_period(trees: tuple[int, ...], length: int) -> int:
    offsets, end = np.arange(length), 0
    sums = np.zeros(length, np.int64)

    def turns(level: int, height: int) -> Int[np.ndarray, "offsets nodes"]:
        """In each node of one height of the tree that begins at `end`."""
        edges = end + (np.arange((1 << (height - level)) + 1) << level)
        return np.diff(-((offsets[:, None] - edges) // length), axis=1)

    for steps in trees:
        for height in _heights(steps):
            # Low nodes have one turn or none, each turn in one of them.
            low = min(height + 1, length.bit_length())
            sums += low * turns(height, height)[:, 0]
            for level in range(low, height + 1):
                sums += np.sum(turns(level, height) ** 2, axis=1)
            end += 1 << height
    return int(sums.max())


def _of_passes(trees: tuple[int, ...], length: int) -> int:
    # Neighbours share at most the pass that lies across their common edge.
    tables = _Tables(length)
    whole, end = (0.0, _NEVER, _NEVER, _NEVER), 0
    for steps in trees:
        for height in _heights(steps):
            tree = tables.complete(end % length, height)
            whole = tables.joined(whole, (0, end), tree, (end, end + (1 << height)), square=False)
            end += 1 << height
    return int(max(whole))


# The largest sums in some leaves, by turns inside of the pass that began before the first
# leaf and of the one that goes on after the last: [0, 0], [0, 1], [1, 0], [1, 1]. What
# cannot be is minus infinity; where one pass does both, its turn is the first.
_Table = tuple[float, float, float, float]
_NEVER = -math.inf


class _Tables:
    """Tables of intervals of steps, where everybody has at most a turn in each pass."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._found: dict[tuple[int, int], _Table] = {}

    def complete(self, start: int, height: int) -> _Table:
        """Of a complete tree whose first leaf is step `start` of a pass."""
        if start and start + (1 << height) < self._length:
            return 0.0, _NEVER, height + 1.0, _NEVER
        if height == 0:
            return self._leaf(start)
        if (start, height) not in self._found:
            half = 1 << (height - 1)
            middle, end = start + half, start + 2 * half
            left = self.complete(start, height - 1)
            right = self.complete(middle % self._length, height - 1)
            self._found[start, height] = self.joined(
                left, (start, middle), right, (middle, end), square=True
            )
        return self._found[start, height]

    def _leaf(self, start: int) -> _Table:
        if self._length == 1:
            return 1.0, _NEVER, _NEVER, _NEVER
        return (0.0, _NEVER, 1.0, _NEVER) if start else (0.0, 1.0, _NEVER, _NEVER)

    def joined(
        self,
        left: _Table,
        before: tuple[int, int],
        right: _Table,
        after: tuple[int, int],
        square: bool,
    ) -> _Table:
        """Of two neighbours, given with first step and end; under a common node if `square`."""
        (start, middle), end, length = before, after[1], self._length
        open_left = start % length and start // length == middle // length
        open_right = end % length and middle // length == end // length
        found = []
        for a, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
            # Turns of the pass across the middle on its two sides: one at most.
            if not middle % length:
                sides = [(left[2 * a], right[c])]
            elif open_left and open_right:
                sides = [] if c else [(left[2 * x], right[2 * (a - x)]) for x in range(a + 1)]
            elif open_left:
                sides = [(left[2 * x], right[2 * (a - x) + c]) for x in range(a + 1)]
            elif open_right:
                sides = [(left[2 * a + x], right[2 * (c - x)]) for x in range(c + 1)]
            else:
                pairs = ((0, 0), (1, 0), (0, 1))
                sides = [(left[2 * a + x], right[2 * y + c]) for x, y in pairs]
            whole = max(0, end // length - -(-start // length))
            extra = (a + c + whole) ** 2 if square else 0
            found.append(max((x + y for x, y in sides), default=_NEVER) + extra)
        return tuple(found)


def _of_spaced(trees: tuple[int, ...], turns: int, apart: int) -> int:
    steps = sum(trees)
    turns = min(turns, -(-steps // apart))
    if not turns:
        return 0
    if turns == steps:
        # A node has as many turns as leaves.
        return sum((1 << h) * ((2 << h) - 1) for each in trees for h in _heights(each))
    complete = _complete(max(trees).bit_length() - 1, turns, apart)
    below = {0: _Choices(np.zeros(1, int), np.zeros((1, 1), int))}
    for each in trees:
        for height in _heights(each):
            below = _joined(below, complete(height), turns, apart, square=False)
    return int(max(choices.sums[-1] for choices in below.values()))


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
