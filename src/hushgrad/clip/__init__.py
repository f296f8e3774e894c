"""Clipping rules: each says how gradients are scaled and what sensitivity that leaves.

A new kind is one file here with a `Rule`, listed below.
"""

from hushgrad.clip.adaptive import Adaptive
from hushgrad.clip.automatic import Automatic
from hushgrad.clip.flat import Flat, as_rule
from hushgrad.clip.per_layer import PerLayer
from hushgrad.clip.rule import Rule

__all__ = ["Adaptive", "Automatic", "Flat", "PerLayer", "Rule", "as_rule"]
