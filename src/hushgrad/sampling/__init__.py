"""Who is in a batch. Host side, NumPy; knows nothing of gradients or budgets.

Public facts (the rate) are fields; secret ones (the generator) are arguments. A
new sampler is one file here with what `Sampler`'s have in common, listed there; what a
mechanism with it costs is one function in `hushgrad.mechanism`.
"""

from typing import get_args

from hushgrad.sampling.balls_in_bins import BallsInBins
from hushgrad.sampling.blocks import Block, blocks
from hushgrad.sampling.cyclic_poisson import CyclicPoisson
from hushgrad.sampling.fixed_size import FixedSize
from hushgrad.sampling.poisson import Poisson
from hushgrad.sampling.shuffle import Shuffle
from hushgrad.sampling.stream import Stream
from hushgrad.sampling.truncated_poisson import TruncatedPoisson
from hushgrad.sampling.users import Users

__all__ = [
    "SAMPLERS",
    "BallsInBins",
    "Block",
    "CyclicPoisson",
    "FixedSize",
    "Poisson",
    "Sampler",
    "Shuffle",
    "Stream",
    "TruncatedPoisson",
    "Users",
    "blocks",
]

Sampler = Poisson | TruncatedPoisson | CyclicPoisson | FixedSize | Shuffle | BallsInBins | Stream
SAMPLERS: tuple[type[Sampler], ...] = get_args(Sampler)
