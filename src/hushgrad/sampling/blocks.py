"""A batch of any size as blocks of one size, so that one compiled step serves all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from hushgrad._check import whole

__all__ = ["Block", "blocks"]


class Block(NamedTuple):
    """Row numbers and which of them count; the others are padding."""

    rows: Int[np.ndarray, " block"]
    mask: Bool[np.ndarray, " block"]


def blocks(rows: Int[np.ndarray, " drawn"], block_size: int) -> Iterator[Block]:
    """Splits a batch into blocks of `block_size`, the last padded with row 0.

    An empty batch is one block of padding: a step like any other.
    """
    block_size = whole("block_size", block_size)
    for start in range(0, max(len(rows), 1), block_size):
        part = rows[start : start + block_size]
        padded = np.zeros(block_size, dtype=rows.dtype)
        padded[: len(part)] = part
        yield Block(padded, np.arange(block_size) < len(part))
