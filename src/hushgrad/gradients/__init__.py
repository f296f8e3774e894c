"""From a loss of one example to the sum of clipped per-example gradients."""

from hushgrad.gradients.check import Checked, check
from hushgrad.gradients.clipped import Clipped, ClippedGrad, clipped_grad
from hushgrad.gradients.explain import Explained, Explanation, explain
from hushgrad.gradients.rows import RowCounts

__all__ = [
    "Checked",
    "Clipped",
    "ClippedGrad",
    "Explained",
    "Explanation",
    "RowCounts",
    "check",
    "clipped_grad",
    "explain",
]
