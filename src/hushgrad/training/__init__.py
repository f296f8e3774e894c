"""The loop over time: its state, its ledger, its checkpoints."""

from hushgrad.training.budget import Budget, BudgetRun
from hushgrad.training.interrupt import Interrupted
from hushgrad.training.layout import fsdp
from hushgrad.training.loop import train
from hushgrad.training.options import Options
from hushgrad.training.reservation import Reservation
from hushgrad.training.run import Progress, Run, StopTraining
from hushgrad.training.tune import Selection, Tuned, tune

__all__ = [
    "Budget",
    "BudgetRun",
    "Interrupted",
    "Options",
    "Progress",
    "Reservation",
    "Run",
    "Selection",
    "StopTraining",
    "Tuned",
    "fsdp",
    "train",
    "tune",
]
