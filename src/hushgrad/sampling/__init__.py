"""Who is in a batch. Host side, NumPy; knows nothing of gradients or budgets.

Public facts (the rate) are fields; secret ones (the generator) are arguments. A
new sampler is one file here with `of`, `batch`, `kind` and `neighbouring_relation`, listed
below; what a mechanism with it costs is one line in `hushgrad.mechanism`.
"""

from hushgrad.sampling.balls_in_bins import BallsInBins
from hushgrad.sampling.blocks import Block, blocks
from hushgrad.sampling.fixed_size import FixedSize
from hushgrad.sampling.poisson import Poisson
from hushgrad.sampling.shuffle import Shuffle

__all__ = ["SAMPLERS", "BallsInBins", "Block", "FixedSize", "Poisson", "Shuffle", "blocks"]

SAMPLERS = (Poisson, FixedSize, Shuffle, BallsInBins)
