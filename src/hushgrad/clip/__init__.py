"""Clipping rules: each says how gradients are scaled and what sensitivity that leaves.

A new kind is one file here with a `Rule`, listed below.
"""

from hushgrad.clip.flat import Flat, as_rule
from hushgrad.clip.rule import Rule

__all__ = ["Flat", "Rule", "as_rule"]
