"""Differentially private machine learning on JAX, at close to the price of ordinary training.

```python
import hushgrad as hg

m = hg.dp_sgd(examples=60_000, batch_size=256, epochs=60, clip=1.0, delta=1e-5, epsilon=3.0)
run = hg.train(loss, params, (x, y), m, optimizer=optax.sgd(0.15), directory="runs/mine")
print(run.statement())
```
"""

import importlib
from typing import Any

from hushgrad import accounting, callbacks, clip, datasets, errors, noise, optimizers, sampling
from hushgrad._version import __version__
from hushgrad.choices import Choice, choices
from hushgrad.gradients import check, clipped_grad, explain
from hushgrad.mechanism import Mechanism
from hushgrad.planning import dp_adafest, dp_banded, dp_ftrl, dp_sgd
from hushgrad.schedule import Schedule, schedule
from hushgrad.training import (
    Budget,
    Options,
    Progress,
    Run,
    Selection,
    StopTraining,
    Tuned,
    fsdp,
    train,
    tune,
)

__all__ = [
    "Budget",
    "Choice",
    "Mechanism",
    "Options",
    "Progress",
    "Run",
    "Schedule",
    "Selection",
    "StopTraining",
    "Tuned",
    "__version__",
    "accounting",
    "callbacks",
    "check",
    "choices",
    "clip",
    "clipped_grad",
    "datasets",
    "dp_adafest",
    "dp_banded",
    "dp_ftrl",
    "dp_sgd",
    "errors",
    "explain",
    "fsdp",
    "noise",
    "optimizers",
    "sampling",
    "schedule",
    "train",
    "tune",
]

# Faces that need more than hushgrad itself does, imported when they are asked for.
_FACES = ("audit", "federated", "keras", "sklearn")


def __getattr__(name: str) -> Any:
    if name in _FACES:
        return importlib.import_module(f"hushgrad.{name}")
    raise AttributeError(f"module 'hushgrad' has no attribute {name!r}")
