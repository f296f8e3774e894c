"""The batches of a run, drawn and read block by block."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from hushgrad.mechanism import Plan
from hushgrad.sampling import blocks
from hushgrad.training.data import Source
from hushgrad.training.secret import RunSecret

__all__ = ["Part", "parts"]


class Part(NamedTuple):
    """A block of a step's batch, read.

    Attributes:
      step: that it belongs to.
      last: no other block of the step follows.
      batch: arguments of the loss, each with a leading axis of `block_size`, or of the part
        of the block that this process reads.
      mask: which rows count.
      mark: a keyed hash of the step's whole batch, with the last block, where the source
        cannot be hashed as a whole and this process reads all of it.
    """

    step: int
    last: bool
    batch: tuple[Any, ...]
    mask: np.ndarray
    mark: str | None


def parts(
    mechanism: Plan,
    source: Source,
    block_size: int,
    secret: RunSecret,
    start: int = 0,
    mine: slice | np.ndarray | None = None,
) -> Iterator[Part]:
    """All blocks of all steps from `start` on: functions of the secret and the step alone.

    Args:
      mechanism: says who is drawn.
      source: is read.
      block_size: rows in each.
      secret: the run's.
      start: the first step.
      mine: which rows of each block this process reads, all that it has devices for; None
        for all.
    """
    for step in range(start, mechanism.steps):
        m, first = mechanism.at(step)
        # A phase counts its own steps; no source of chance serves two phases.
        chance = functools.partial(_from, secret, first)
        drawn = m.sampling.batch(step - first, m.examples, chance)
        rng = secret.generator("rows", step)
        marked = secret.authenticator() if mine is None and not source.hashed else None
        pieces = list(blocks(drawn, block_size))
        for number, block in enumerate(pieces, start=1):
            # All processes draw the same, whatever they read of it.
            chosen, mask, last = source.drawn(block.rows, rng), block.mask, number == len(pieces)
            if mine is not None:
                chosen, mask = jax.tree.map(lambda a: a[mine], (chosen, mask))
            batch = source.read(chosen)
            if marked is not None:
                for leaf in (block.rows, *jax.tree.leaves(batch)):
                    marked.update(np.ascontiguousarray(leaf).data)
            mark = marked.hexdigest() if marked is not None and last else None
            yield Part(step, last, batch, mask, mark)


def _from(secret: RunSecret, first: int, number: int) -> np.random.Generator:
    return secret.sampling_generator(first + number)
