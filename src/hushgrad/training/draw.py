"""The batches of a run, drawn and read block by block."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from hushgrad.mechanism import Plan
from hushgrad.sampling import blocks
from hushgrad.training.data import Source
from hushgrad.training.secret import RunSecret

__all__ = ["Mine", "Part", "parts"]


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
      failure: why this process could not read its part, or one before it in the step; then
        none of its rows count, and the step must not be released.
    """

    step: int
    last: bool
    batch: tuple[Any, ...]
    mask: np.ndarray
    mark: str | None
    failure: Exception | None = None


class Mine(NamedTuple):
    """What one of several processes reads of each block.

    Attributes:
      rows: which rows, all that it has devices for.
      blank: stands for rows that cannot be read, so that the others need not wait in vain.
    """

    rows: Int[np.ndarray, " mine"]
    blank: tuple[Any, ...]


def parts(
    mechanism: Plan,
    source: Source,
    block_size: int,
    secret: RunSecret,
    start: int = 0,
    mine: Mine | None = None,
) -> Iterator[Part]:
    """All blocks of all steps from `start` on: functions of the secret and the step alone.

    Args:
      mechanism: says who is drawn.
      source: is read.
      block_size: rows in each.
      secret: the run's.
      start: the first step.
      mine: what this process reads of each block; None for all.
    """
    for step in range(start, mechanism.steps):
        m, first = mechanism.at(step)
        # A phase counts its own steps; no source of chance serves two phases.
        chance = functools.partial(_from, secret, first)
        drawn = m.sampling.batch(step - first, m.examples, chance)
        rng = secret.generator("rows", step)
        marked = secret.authenticator() if mine is None and not source.hashed else None
        pieces, failure = list(blocks(drawn, block_size)), None
        for number, block in enumerate(pieces, start=1):
            # All processes draw the same, whatever they read of it.
            chosen, last = source.drawn(block.rows, rng), number == len(pieces)
            mask = block.mask & source.present(block.rows)
            if mine is not None:
                part = _read(source, mine, Part(step, last, chosen, mask, None))
                failure = failure or part.failure
                yield part._replace(failure=failure)
                continue
            batch = source.read(chosen)
            if marked is not None:
                for leaf in (block.rows, *jax.tree.leaves(batch)):
                    marked.update(np.ascontiguousarray(leaf).data)
            mark = marked.hexdigest() if marked is not None and last else None
            yield Part(step, last, batch, mask, mark)


def _read(source: Source, mine: Mine, drawn: Part) -> Part:
    """This process's rows of a part that was drawn."""
    chosen, mask = jax.tree.map(lambda a: a[mine.rows], (drawn.batch, drawn.mask))
    try:
        return drawn._replace(batch=source.read(chosen), mask=mask)
    except Exception as error:
        return drawn._replace(batch=mine.blank, mask=np.zeros_like(mask), failure=error)


def _from(secret: RunSecret, first: int, number: int) -> np.random.Generator:
    return secret.sampling_generator(first + number)
