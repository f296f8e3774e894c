"""The search for strategies of correlated noise, beside JAX-Privacy's.

    pip install 'hushgrad[bench]'
    python -m benchmarks.strategies [--output docs/results/strategies.md]

Both search for the matrix of least root mean squared error in prefix sums, for the same steps,
bands or buffers and participation, each from nothing: what was compiled before is thrown away,
and ours has no cache on disk. Errors of both are computed by the same function, at noise
multiplier 1. It takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax_privacy.matrix_factorization import (  # pyright: ignore[reportMissingImports]
    banded,
    buffered_toeplitz,
    dense,
    toeplitz,
)

import hushgrad as hg
from hushgrad.noise import BLT, Banded, Dense, Participation, Periodic, Spaced, Toeplitz
from hushgrad.noise.columns import of_columns

__all__ = ["main"]

_ONCE = Spaced(1, 1)
_BUFFERS = 4

Matrix = np.ndarray
Case = tuple[str, int, Participation, Callable[[], Any], Callable[[], Matrix]]


def cases() -> list[Case]:
    """Name, steps, participation, our search and theirs."""
    found: list[Case] = []
    for bands in (8, 32):
        found.append(
            (
                f"banded, {bands} bands",
                1000,
                _ONCE,
                lambda b=bands: Banded.of(1000, b),
                lambda b=bands: np.array(banded.optimize(1000, bands=b).materialize()),
            )
        )
    for bands in (32, 1000):
        found.append(
            (
                f"Toeplitz, {bands} bands",
                1000,
                _ONCE,
                lambda b=bands: Toeplitz.of(1000, b),
                lambda b=bands: _lower(toeplitz.optimize_banded_toeplitz(1000, b)),
            )
        )
    for turns, apart in ((1, 1), (5, 200)):
        found.append(
            (
                f"buffered, {turns} turn(s)",
                1000,
                Spaced(turns, apart),
                lambda t=turns, a=apart: BLT.of(1000, _BUFFERS, Spaced(t, a)),
                lambda t=turns, a=apart: _buffered(t, a),
            )
        )
    for epochs in (1, 4):
        pattern = _ONCE if epochs == 1 else Periodic(200 // epochs)
        found.append(
            (
                f"dense, {epochs} pass(es)",
                200,
                pattern,
                lambda p=pattern: Dense.of(200, p),
                lambda e=epochs: np.array(dense.optimize(200, epochs=e)),
            )
        )
    return found


def _buffered(turns: int, apart: int) -> Matrix:
    found = buffered_toeplitz.optimize(
        n=1000, min_sep=apart, max_participations=turns, error="mean"
    )
    return _lower(found.toeplitz_coefs(1000))


def _lower(coefficients: Any) -> Matrix:
    """A lower-triangular Toeplitz matrix, by its first column."""
    c = np.zeros(1000)
    c[: len(coefficients)] = np.asarray(coefficients, float)
    lags = np.arange(1000)[:, None] - np.arange(1000)
    return np.where(lags >= 0, c[np.abs(lags)], 0.0)


def error(matrix: Matrix, pattern: Participation) -> float:
    """Root mean square of the noise in prefix sums, at noise multiplier 1."""
    steps = len(matrix)
    place = np.arange(steps)
    columns = matrix[np.minimum(place[:, None] + place, steps - 1), place[:, None]]
    weights = np.cumsum(np.linalg.inv(matrix), axis=0)
    return of_columns(columns, pattern) * float(np.sqrt((weights**2).sum(axis=1).mean()))


def timed(search: Callable[[], Any]) -> tuple[Any, float]:
    """What it finds, and the seconds it takes with nothing compiled."""
    jax.clear_caches()
    begun = time.perf_counter()
    found = jax.block_until_ready(search())
    return found, time.perf_counter() - begun


def report() -> str:
    """All of it as Markdown."""
    versions = f"hushgrad {hg.__version__}, JAX-Privacy {importlib.metadata.version('jax-privacy')}"
    lines = [
        f"{versions}, JAX {jax.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores ({platform.machine()}).\n",
        "| strategy | steps | our error | theirs | ratio | our s | theirs, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, steps, pattern, ours, theirs in cases():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HUSHGRAD_CACHE_DIR"] = folder  # nothing is known from another case
            made, mine = timed(ours)
        with jax.enable_x64(True):
            matrix, peer = timed(theirs)
        one, other = made.error(steps, pattern), error(matrix, pattern)
        lines.append(
            f"| {name} | {steps:,} | {one:.5g} | {other:.5g} | {one / other:.4f} "
            f"| {mine:.2g} | {peer:.3g} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, and writes a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    text = report()
    if args.output is not None:
        head = "# Searching for strategies\n\n`python -m benchmarks.strategies`\n\n"
        args.output.write_text(f"{head}{(__doc__ or '').split(chr(10) * 2)[-1]}\n{text}\n")


if __name__ == "__main__":
    main()
