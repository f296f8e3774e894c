"""What a lowering is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

__all__ = ["Lowering", "Operation"]


@runtime_checkable
class Operation(Protocol):
    """What a lowering reads of a program's operation."""

    @property
    def primitive(self) -> Any:
        """Which operation it is."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Its static parameters."""
        ...


@dataclasses.dataclass(frozen=True)
class Lowering:
    """Another way to run one primitive.

    Attributes:
      match: from the operation's params and its operands' shapes, for one example,
        a function of the operands that returns the one result; None where it does not
        hold or does not win.
      backends: where it was measured to win.
    """

    match: Callable[[Mapping[str, Any], tuple[Any, ...]], Callable[..., Any] | None]
    backends: frozenset[str] = frozenset({"cpu"})
