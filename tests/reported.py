"""Runs of the shared job with a log, and ledgers that somebody changed, for tests of reports."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jobs import EXAMPLES, OPTIMIZER, WIDTH, Stop, loss, mechanism

import hushgrad as hg

PARAMS = {"w": jnp.ones(WIDTH), "b": jnp.zeros(())}


def data(copies: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(copies * EXAMPLES, WIDTH)).astype(np.float32)
    return x, (x @ np.arange(WIDTH)).astype(np.float32)


def trained(
    directory: Path, *, stop_after: int | None = None, log: Any = None, **changes: Any
) -> hg.Run | None:
    """A run of the shared job with its log; None if it was broken off."""
    log = log or hg.callbacks.JsonLines(
        directory / "metrics.jsonl", every=2, score=lambda p: 0.5, public=True
    )

    def stop(progress: hg.Progress) -> None:
        if progress.step == stop_after:
            raise Stop

    settings = {
        "data": data(),
        "mechanism": mechanism(),
        "options": hg.Options(checkpoint_every=5),
        "callback": [log, stop],
    }
    try:
        return hg.train(
            loss, PARAMS, optimizer=OPTIMIZER, directory=directory, **{**settings, **changes}
        )
    except Stop:
        return None


def change(place, *statements):
    with contextlib.closing(sqlite3.connect(place / "ledger.sqlite")) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount
        connection.commit()


def one_row_changed(place):
    change(place, """update entries set content = '{"step":40}' where number = 6""")
