"""Who is in a batch. Host side, NumPy; knows nothing of gradients or budgets.

Public facts (the rate) are fields; secret ones (the generator) are arguments. A
new sampler is one file here with what `Sampler`'s have in common, listed there; what a
mechanism with it costs is one function in `hushgrad.costs`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from hushgrad.sampling.balls_in_bins import BallsInBins
from hushgrad.sampling.blocks import Block, blocks
from hushgrad.sampling.check_in import CheckIn
from hushgrad.sampling.cyclic_poisson import CyclicPoisson
from hushgrad.sampling.fixed_size import FixedSize
from hushgrad.sampling.in_order import InOrder
from hushgrad.sampling.poisson import Poisson
from hushgrad.sampling.shuffle import Shuffle
from hushgrad.sampling.stream import Stream
from hushgrad.sampling.truncated_poisson import TruncatedPoisson
from hushgrad.sampling.users import Users

__all__ = [
    "SAMPLERS",
    "BallsInBins",
    "Block",
    "CheckIn",
    "CyclicPoisson",
    "FixedSize",
    "InOrder",
    "Poisson",
    "Sampler",
    "Shuffle",
    "Stream",
    "TruncatedPoisson",
    "Users",
    "blocks",
    "from_dict",
    "to_dict",
]

Sampler = (
    Poisson
    | TruncatedPoisson
    | CyclicPoisson
    | FixedSize
    | Shuffle
    | BallsInBins
    | InOrder
    | Stream
    | CheckIn
)
SAMPLERS: tuple[type[Sampler], ...] = get_args(Sampler)


def to_dict(sampler: Sampler) -> dict[str, Any]:
    """A sampler as plain data."""
    return {"kind": sampler.kind, **dataclasses.asdict(sampler)}


def from_dict(plain: Mapping[str, Any]) -> Sampler:
    """The sampler that `to_dict` wrote."""
    facts = {name: value for name, value in plain.items() if name != "kind"}
    return next(kind for kind in SAMPLERS if kind.kind == plain["kind"])(**facts)
