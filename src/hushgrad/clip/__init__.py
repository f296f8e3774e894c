"""Clipping rules: each says how gradients are scaled and what sensitivity that leaves.

A new kind is one file here with a `Rule`, listed below.
"""

from collections.abc import Mapping
from typing import Any

from hushgrad.clip.adaptive import Adaptive
from hushgrad.clip.automatic import Automatic
from hushgrad.clip.flat import Flat, as_rule
from hushgrad.clip.microbatches import Microbatches
from hushgrad.clip.per_layer import PerLayer
from hushgrad.clip.rule import Rule

__all__ = [
    "RULES",
    "Adaptive",
    "Automatic",
    "Flat",
    "Microbatches",
    "PerLayer",
    "Rule",
    "as_rule",
    "from_dict",
]

RULES: dict[str, type[Rule]] = {
    "flat": Flat,
    "per_layer": PerLayer,
    "automatic": Automatic,
    "adaptive": Adaptive,
    "microbatches": Microbatches,
}


def from_dict(plain: Mapping[str, Any]) -> Rule:
    """The rule that `Rule.to_dict` wrote."""
    return RULES[plain["kind"]].from_dict({k: v for k, v in plain.items() if k != "kind"})
