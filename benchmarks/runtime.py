"""What a run costs beside its arithmetic, and how fast a budget is charged.

    python -m benchmarks.runtime [--rounds 6] [--steps 200] [--seconds 30] [--output FILE]

The whole step of `hg.train` (sampling, reading, sums, ledger, noise, update, checkpoints)
over the two compiled functions alone, on batches that were drawn and read before: the
convolutional network of the MNIST recipe, batch 256, on random images. Both in one process,
in turns, many steps at a time; medians.

Then sixteen processes reserve, charge and give back on one budget, on SQLite and, where its
server is installed, on PostgreSQL; afterwards the budget's history is replayed row by row.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dp_accounting
import jax
import numpy as np
import optax

import hushgrad as hg
from hushgrad import accounting, recipes
from hushgrad.training.data import prepare
from hushgrad.training.job import Job
from hushgrad.training.journal import Entry, Journal
from hushgrad.training.layout import Layout
from hushgrad.training.planting import Planted
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import initial_state

__all__ = ["main"]

_PROCESSES, _TOTAL = 16, 1.0
_EXAMPLES, _BATCH = 60_000, 256
_OPTIMIZER = optax.sgd(0.1)


def steps(rounds: int, count: int, folder: Path) -> dict[str, float]:
    """Medians in milliseconds per step."""
    rng = np.random.default_rng(0)
    data = (
        rng.random((_EXAMPLES, 28, 28), np.float32),
        rng.integers(0, 10, _EXAMPLES).astype(np.int32),
    )
    m = hg.dp_sgd(
        examples=_EXAMPLES, batch_size=_BATCH, steps=count, delta=1e-6, noise_multiplier=1.1
    )
    params, options = recipes.mnist.init(0), hg.Options(block_size=64)
    bare = _Bare(
        Job(
            recipes.mnist.loss,
            m,
            Planted(prepare(data, m, options), _OPTIMIZER),
            64,
            options,
            Layout(None),
        ),
        params,
    )
    bare()  # compiles

    def whole(number: int) -> None:
        hg.train(
            recipes.mnist.loss,
            params,
            data,
            m,
            optimizer=_OPTIMIZER,
            directory=folder / str(number),
            options=options,
            callback=marks,
        )

    seconds: dict[str, list[float]] = {"compiled": [], "train": []}
    for number in range(rounds + 1):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        marks = _Marks()
        whole(number)
        if number:  # the first warms up
            seconds["compiled"].append((middle - start) / count)
            seconds["train"].append(marks.mean())
    return {name: 1e3 * statistics.median(all_) for name, all_ in seconds.items()}


class _Marks:
    """When steps were done, by a callback that waits for nothing."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._last: Any = None

    def __call__(self, progress: hg.Progress) -> None:
        self._times.append(time.perf_counter())
        if progress.step == progress.steps:
            jax.block_until_ready(progress.params)
            self._times.append(time.perf_counter())

    def mean(self) -> float:
        """Seconds per step from the end of the first, which traces, to the last."""
        return (self._times[-1] - self._times[0]) / (len(self._times) - 2)


class _Bare:
    """The compiled functions of a step alone, on batches that are there."""

    def __init__(self, job: Job, params: Any) -> None:
        self._job, self._secret = job, RunSecret.from_seed(1)
        arrays = jax.tree.map(jax.numpy.asarray, params)
        self._state = initial_state(arrays, job.mechanism.phases[0], _OPTIMIZER)
        self._parts = list(job.parts(self._secret, 0))

    def __call__(self) -> None:
        state, sums = self._state, None
        for part in self._parts:
            sums = self._job.sums(state, part, sums)
            if part.last:
                state = self._job.released(state, sums, self._secret, part.step)
                sums = None
        jax.block_until_ready(state.params)


def hammered(url: str, seconds: float) -> dict[str, float]:
    """Charges and reservations per second, and how near the total came to the budget."""
    m = _small()
    budget = hg.Budget("hammered", _TOTAL, 1e-6, url=url)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_hammer, args=(url, seconds, number, results))
        for number in range(_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    counts = np.sum([results.get(timeout=seconds + 300) for _ in workers], axis=0)
    for worker in workers:
        worker.join()
    rows, worst = _replayed(url, "hammered", budget.delta)
    held = budget.epsilon_held
    budget.disconnect()
    assert m.steps
    return {
        "charges per second": counts[0] / seconds,
        "reservations per second": counts[1] / seconds,
        "refused per second": counts[2] / seconds,
        "rows": rows,
        "most ever held": worst,
        "held at the end": held,
    }


def _small() -> hg.Mechanism:
    return hg.dp_sgd(examples=10_000, batch_size=100, steps=20, delta=1e-6, noise_multiplier=2.0)


def _hammer(url: str, seconds: float, number: int, results: Any) -> None:
    budget, m = hg.Budget("hammered", url=url), _small()
    rng = np.random.default_rng(number)
    charged = reserved = refused = tries = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tries += 1
        try:
            run = budget.reserve(m, f"{number}-{tries}")
        except hg.errors.BudgetError:
            refused += 1
            # The budget is full: charge what would be charged, on another of one's own.
            charged += _charge_only(url, number, end)
            continue
        reserved += 1
        steps = int(rng.integers(1, m.steps + 1))
        for step in range(1, steps + 1):
            before = run.charged
            run.charge(step)
            charged += run.charged > before
        run.finish(steps)
    results.put((charged, reserved, refused))


def _charge_only(url: str, number: int, end: float) -> int:
    """Single charges, one row each, until the time is over."""
    seen: list[Entry] = []
    journal = Journal(url, "charges", seen.append, 120.0)
    made = 0
    while time.monotonic() < end:
        row = ("charge", {"run": str(number), "step": made})
        journal.write(functools.partial(list, [row]))
        made += 1
    journal.close()
    return made


def _replayed(url: str, name: str, delta: float) -> tuple[int, float]:
    """Rows, and the largest total that was ever held."""
    seen: list[Entry] = []
    journal = Journal(url, name, seen.append, 120.0)
    journal.refresh()
    journal.close()
    events: dict[str, Any] = {}
    spent: dict[str, Any] = {}
    worst = 0.0
    for entry in seen[1:]:
        run = entry.content["run"]
        if entry.kind == "reserve":
            events[run] = accounting.from_plain(entry.content["event"])
            composed = dp_accounting.ComposedDpEvent(list(events.values()))
            worst = max(worst, accounting.epsilon(composed, delta))
        elif entry.kind == "charge":
            spent[run] = accounting.from_plain(entry.content["event"])
        else:
            events[run] = spent[run]
    return len(seen), worst


def _budgets(seconds: float, folder: Path) -> dict[str, dict[str, float]]:
    results = {"SQLite": hammered(f"sqlite:///{folder / 'budget.sqlite'}", seconds)}
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import postgresql  # pyright: ignore[reportMissingImports]

    if postgresql.BINARIES:
        with postgresql.server() as server:
            results["PostgreSQL"] = hammered(server.url, seconds)
    return results


def _page(
    medians: dict[str, float], budgets: dict[str, dict[str, float]], arguments: argparse.Namespace
) -> str:
    ratio = medians["train"] / medians["compiled"]
    lines = [
        "# The runtime: what a run costs beside its arithmetic",
        "",
        "MNIST's convolutional network, batch 256, blocks of 64, milliseconds per step:",
        "",
        "| whole step of `hg.train` | compiled functions alone | ratio |",
        "| --- | --- | --- |",
        f"| {medians['train']:.2f} | {medians['compiled']:.2f} | {ratio:.3f} |",
        "",
        f"Sixteen processes on one budget for {arguments.seconds:g} s; no more than epsilon "
        f"{_TOTAL:g} may be held at any time, by the history replayed row by row:",
        "",
        "| database | charges/s | reservations/s | refused/s | rows | most ever held |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in budgets.items():
        lines.append(
            f"| {name} | {found['charges per second']:.0f} | "
            f"{found['reservations per second']:.1f} | {found['refused per second']:.1f} | "
            f"{found['rows']:.0f} | {found['most ever held']:.4f} |"
        )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("hushgrad", "jax", "SQLAlchemy")
    )
    lines += [
        "",
        f"Command: `python -m benchmarks.runtime --rounds {arguments.rounds} --steps "
        f"{arguments.steps} --seconds {arguments.seconds:g}`",
        "",
        f"Python {platform.python_version()}, {versions}; {platform.machine()}, "
        f"{os.cpu_count()} cores.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, and writes the page if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        medians = steps(arguments.rounds, arguments.steps, Path(name))
        budgets = _budgets(arguments.seconds, Path(name)) if arguments.seconds else {}
    page = _page(medians, budgets, arguments)
    print(page)
    if arguments.output:
        arguments.output.write_text(page)


if __name__ == "__main__":
    main()
