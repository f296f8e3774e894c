"""From a clipped sum to a private sum: optax transformations that add noise.

Each takes its step's 256-bit key as the extra argument `key`, so that kinds of
noise swap in one line. A new kind is one file here, listed below.
"""

from hushgrad.noise.gaussian import gaussian
from hushgrad.noise.normal import COUNT_STREAM, standard_normal

__all__ = ["COUNT_STREAM", "gaussian", "standard_normal"]
