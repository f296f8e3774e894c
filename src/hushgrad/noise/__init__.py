"""From a clipped sum to a private sum: optax transformations that add noise.

Each takes its step's 256-bit key as the extra argument `key`, so that kinds of
noise swap in one line. A new kind is one file here, with a `Strategy` that says what
it costs, listed below.
"""

from collections.abc import Mapping
from typing import Any

from hushgrad.noise.banded import Banded, banded
from hushgrad.noise.blt import BLT, blt
from hushgrad.noise.dense import Dense, dense
from hushgrad.noise.gaussian import Independent, gaussian
from hushgrad.noise.normal import COUNT_STREAM, standard_normal
from hushgrad.noise.participation import OncePerPass, Participation, Periodic, Spaced
from hushgrad.noise.sparse import Chosen, Counted, Sparse, sparse
from hushgrad.noise.strategy import Strategy
from hushgrad.noise.toeplitz import Toeplitz, toeplitz
from hushgrad.noise.tree import Tree, tree
from hushgrad.noise.tree_cost import largest_sum
from hushgrad.noise.workload import Workload

__all__ = [
    "BLT",
    "COUNT_STREAM",
    "STRATEGIES",
    "Banded",
    "Chosen",
    "Counted",
    "Dense",
    "Independent",
    "OncePerPass",
    "Participation",
    "Periodic",
    "Spaced",
    "Sparse",
    "Strategy",
    "Toeplitz",
    "Tree",
    "Workload",
    "banded",
    "blt",
    "dense",
    "from_dict",
    "gaussian",
    "largest_sum",
    "sparse",
    "standard_normal",
    "toeplitz",
    "tree",
]

STRATEGIES: dict[str, type[Strategy]] = {
    kind.kind: kind for kind in (Independent, Tree, Toeplitz, BLT, Banded, Dense, Sparse)
}


def from_dict(plain: Mapping[str, Any]) -> Strategy:
    """The strategy that `Strategy.to_dict` wrote."""
    return STRATEGIES[plain["kind"]].from_dict(plain)
