"""Differentially private machine learning on JAX, at close to the price of ordinary training.

```python
import hushgrad as hg

m = hg.dp_sgd(examples=60_000, batch_size=256, epochs=60, clip=1.0, delta=1e-5, epsilon=3.0)
run = hg.train(loss, params, (x, y), m, optimizer=optax.sgd(0.15), directory="runs/mine")
print(run.statement())
```
"""

import importlib
from typing import TYPE_CHECKING, Any

from hushgrad._version import __version__

if TYPE_CHECKING:
    from hushgrad import (
        accounting,
        callbacks,
        clip,
        datasets,
        errors,
        noise,
        optimizers,
        recipes,
        sampling,
        summaries,
    )
    from hushgrad import audit as audit
    from hushgrad import federated as federated
    from hushgrad import keras as keras
    from hushgrad import report as report
    from hushgrad import sklearn as sklearn
    from hushgrad.comparing import Choice, choices
    from hushgrad.gradients import check, clipped_grad, explain
    from hushgrad.mechanism import Mechanism
    from hushgrad.planning import dp_adafest, dp_banded, dp_ftrl, dp_sgd
    from hushgrad.schedules import Schedule, schedule
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

# Where each name is from. All are imported when they are first asked for: a script that only
# wants the version, or the command line's help, does not wait for JAX.
_NAMES = {
    "hushgrad.comparing": ("Choice", "choices"),
    "hushgrad.gradients": ("check", "clipped_grad", "explain"),
    "hushgrad.mechanism": ("Mechanism",),
    "hushgrad.planning": ("dp_adafest", "dp_banded", "dp_ftrl", "dp_sgd"),
    "hushgrad.schedules": ("Schedule", "schedule"),
    "hushgrad.training": (
        "Budget",
        "Options",
        "Progress",
        "Run",
        "Selection",
        "StopTraining",
        "Tuned",
        "fsdp",
        "train",
        "tune",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

# Faces that need more than hushgrad itself does: not part of `from hushgrad import *`.
_FACES = ("audit", "federated", "keras", "report", "sklearn")

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
    "recipes",
    "sampling",
    "schedule",
    "summaries",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in __all__ or name in _FACES:
        value = importlib.import_module(f"hushgrad.{name}")
    else:
        raise AttributeError(f"module 'hushgrad' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_FACES})
