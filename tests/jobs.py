"""One small training job that several tests share, so that it is compiled once."""

from typing import Any

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
