"""How a run is carried out: what changes neither what it promises nor what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hushgrad._check import fraction, whole
from hushgrad.errors import InputError

__all__ = ["Options"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of `hg.train` that have a good default.

    Attributes:
      block_size: rows processed at once; a batch is summed block by block, so this bounds
        memory whatever the batch size. By default most batches fit in one block on an
        accelerator, and blocks in the caches on a CPU.
      checkpoint_every: in steps; one pass over the data by default.
      average: decay of an exponential moving average of the parameters, in (0, 1), kept
        beside them as `run.average`; None for none. It follows from what is released.
      augment: `augment(key, *example) -> example`: draws a variant of an example, afresh in
        every step.
      multiplicity: how many variants of an example are averaged before its gradient is
        clipped (De et al. 2022, arXiv 2204.13650); costs no privacy.
      read_ahead: blocks of data that are read while the device works.

    Raises:
      InputError: if a setting is out of range.
    """

    block_size: int | None = None
    checkpoint_every: int | None = None
    average: float | None = None
    augment: Callable[..., Any] | None = None
    multiplicity: int = 1
    read_ahead: int = 8

    def __post_init__(self) -> None:
        for name in ("block_size", "checkpoint_every"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.average is not None:
            object.__setattr__(self, "average", fraction("average", self.average))
        if self.augment is not None and not callable(self.augment):
            raise InputError(f"augment must be a function, got {self.augment!r}")
        object.__setattr__(self, "multiplicity", whole("multiplicity", self.multiplicity))
        object.__setattr__(self, "read_ahead", whole("read_ahead", self.read_ahead))
        if self.multiplicity > 1 and self.augment is None:
            raise InputError(
                f"multiplicity={self.multiplicity} averages variants of an example: give augment, "
                "the function that draws them"
            )

    def plain(self) -> dict[str, Any]:
        """All of them as plain data; of a function, whether there is one."""
        return dataclasses.asdict(self) | {"augment": self.augment is not None}
