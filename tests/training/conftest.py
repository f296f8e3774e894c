"""The shared job with its data, and a way to run it with parts replaced."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jobs import EXAMPLES, OPTIMIZER, WIDTH, Stop, loss, mechanism

import hushgrad as hg

OPTIONS = [field.name for field in dataclasses.fields(hg.Options)]


@pytest.fixture(scope="session")
def params() -> dict[str, Any]:
    return {"w": jnp.ones(WIDTH), "b": jnp.zeros(())}


@pytest.fixture(scope="session")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, WIDTH)).astype(np.float32)
    return x, (x @ np.arange(WIDTH)).astype(np.float32)


@pytest.fixture
def train(tmp_path: Path, params: Any, data: Any) -> Callable[..., hg.Run]:
    """`hg.train` of the shared job; keyword arguments replace its parts."""

    def call(*, stop_after: int | None = None, **changes: Any) -> hg.Run:
        def callback(progress: hg.Progress) -> None:
            if progress.step == stop_after:
                raise Stop

        settings = {
            "loss": loss,
            "params": params,
            "data": data,
            "mechanism": mechanism(),
            "optimizer": OPTIMIZER,
            "directory": tmp_path / "run",
            "callback": callback,
        }
        given = {"checkpoint_every": 5}
        given |= {name: changes.pop(name) for name in OPTIONS if name in changes}
        if "options" not in changes:
            settings["options"] = hg.Options(**given)
        return hg.train(**{**settings, **changes})

    return call
