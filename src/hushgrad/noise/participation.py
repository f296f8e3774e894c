"""In which steps one example or user may take part: what correlated noise must cover."""

from __future__ import annotations

import dataclasses

from hushgrad._check import whole

__all__ = ["OncePerPass", "Participation", "Periodic", "Spaced"]


@dataclasses.dataclass(frozen=True)
class Spaced:
    """In at most `turns` steps, any two of them at least `apart` steps apart.

    Raises:
      InputError: if a number is not positive.
    """

    turns: int
    apart: int

    def __post_init__(self) -> None:
        whole("turns", self.turns)
        whole("apart", self.apart)


@dataclasses.dataclass(frozen=True)
class OncePerPass:
    """In at most one step, any one, of each pass of `length` steps, from the first step on.

    Raises:
      InputError: if `length` is not positive.
    """

    length: int

    def __post_init__(self) -> None:
        whole("length", self.length)


@dataclasses.dataclass(frozen=True)
class Periodic:
    """In one step of the first `length`, any one, and then in every `length`-th after it.

    Raises:
      InputError: if `length` is not positive.
    """

    length: int

    def __post_init__(self) -> None:
        whole("length", self.length)


Participation = Spaced | OncePerPass | Periodic
