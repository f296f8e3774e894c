"""The loop over time: its state, its ledger, its checkpoints."""

from hushgrad.training.loop import train
from hushgrad.training.run import Progress, Run

__all__ = ["Progress", "Run", "train"]
