"""From a loss of one example to the sum of clipped per-example gradients."""

from hushgrad.gradients.clipped import Clipped, ClippedGrad, clipped_grad

__all__ = ["Clipped", "ClippedGrad", "clipped_grad"]
