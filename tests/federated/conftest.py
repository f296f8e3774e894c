"""A population of unequal clients, and a process over them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clients import CLASSES, CLIENT, FEATURES, SERVER, SIZES, loss

import hushgrad as hg


@pytest.fixture(scope="session")
def params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {
        "w": jnp.asarray(rng.normal(size=(FEATURES, 4)), jnp.float32),
        "b": jnp.zeros(4),
        "out": jnp.asarray(rng.normal(size=(4, CLASSES)), jnp.float32),
    }


@pytest.fixture(scope="session")
def users() -> hg.sampling.Users:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(len(SIZES)), SIZES)
    rng.shuffle(ids)
    x = rng.normal(size=(len(ids), FEATURES)).astype(np.float32)
    y = rng.integers(0, CLASSES, len(ids)).astype(np.int32)
    return hg.sampling.Users(ids, (x, y))


@pytest.fixture(scope="session")
def mechanism() -> Callable[..., hg.Mechanism]:
    def made(**changed: Any) -> hg.Mechanism:
        settings: dict[str, Any] = {
            "examples": len(SIZES),
            "batch_size": 6,
            "steps": 5,
            "clip": 0.5,
            "noise_multiplier": 1.0,
            "delta": 1e-2,
            "unit": "user",
        }
        return hg.dp_sgd(**settings | changed)

    return made


@pytest.fixture(scope="session")
def process(mechanism: Callable[..., hg.Mechanism]) -> Callable[..., Any]:
    def made(changed: dict[str, Any] | None = None, **options: Any) -> Any:
        settings: dict[str, Any] = {"batch_size": 4, "epochs": 2, "block_size": 4}
        m = options.pop("mechanism", None) or mechanism(**changed or {})
        return hg.federated.fed_avg(loss, CLIENT, SERVER, m, **settings | options)

    return made
