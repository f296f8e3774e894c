"""Who is in a batch. Host side, NumPy; knows nothing of gradients or budgets.

Public facts (the rate) are fields; secret ones (the generator) are arguments. A
new sampler is one file here with `draw` and `sampling_rate`, listed below.
"""

from hushgrad.sampling.blocks import Block, blocks
from hushgrad.sampling.poisson import Poisson

__all__ = ["Block", "Poisson", "blocks"]
