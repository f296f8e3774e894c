"""Clipping rules: each says how gradients are scaled and what sensitivity that leaves.

A new rule is one file here with `coefficients` and `sensitivity`, listed below.
"""

from hushgrad.clip.flat import Flat

__all__ = ["Flat"]
