"""One small training job that several tests share, so that it is compiled once."""

from typing import Any

import numpy as np
import optax

import hushgrad as hg

EXAMPLES, WIDTH = 60, 4
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Stop(Exception):
    """Raised by a callback to leave a run unfinished."""


def loss(params: Any, x: Any, y: Any) -> Any:
    return (x @ params["w"] + params["b"] - y) ** 2


def mechanism(**changes: Any) -> hg.Mechanism:
    settings: dict[str, Any] = {
        "examples": EXAMPLES,
        "batch_size": 12,
        "steps": 12,
        "clip": 1.0,
        "delta": 1e-3,
        "noise_multiplier": 1.0,
    }
    return hg.dp_sgd(**{**settings, **changes})


def flat(run):
    return np.concatenate([np.ravel(run.params[name]) for name in ("w", "b")])


class Items:
    """A torch-style data set: one example at a time."""

    def __init__(self, x, y):
        self.x, self.y, self.read = x, y, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        assert isinstance(i, int)
        self.read.append(i)
        return self.x[i], float(self.y[i])
