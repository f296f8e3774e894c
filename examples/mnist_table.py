"""The table of TensorFlow Privacy's MNIST tutorial, trained again.

    python examples/mnist_table.py --data-dir DIR

trains the tutorial's three private rows and a non-private one, over several seeds,
and writes docs/results/mnist.md. Runs are kept in --runs; the same command goes on
after an interruption. It takes about three quarters of an hour on two cores.

Beside the last parameters it scores their average over the last quarter of the run
(Polyak & Juditsky 1992). Every step's parameters are covered by the guarantee, so
averaging them costs no privacy; it takes out some of the noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shlex
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg
from hushgrad.recipes import accuracy, mnist

DELTA = 1e-5
BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Row:
    """Settings of the tutorial's table, and what it reports for them."""

    name: str
    learning_rate: float
    noise_multiplier: float
    clip: float
    epochs: int
    tutorial_accuracy: float
    tutorial_epsilon: float


PRIVATE = (
    Row("strong", 0.25, 1.3, 1.5, 15, 0.950, 1.19),
    Row("middle", 0.15, 1.1, 1.0, 60, 0.966, 3.01),
    Row("weak", 0.25, 0.7, 1.5, 45, 0.970, 7.10),
)
ORDINARY = Row("non-private", 0.1, 0.0, 0.0, 20, 0.990, float("inf"))


def train_private(row: Row, seed: int, data: hg.datasets.Dataset, directory: Path) -> Any:
    """One private run; `seed` chooses the starting point, the noise is the system's."""
    images, labels = data.train
    mechanism = _mechanism(row, len(images))
    seconds = _EpochTimer(len(images) // BATCH_SIZE)
    average = _Average(first=mechanism.steps - mechanism.steps // 4 + 1)

    def callback(progress: hg.Progress) -> None:
        seconds(progress.step, progress.params)
        average(progress.step, progress.params)

    run = hg.train(
        mnist.loss,
        mnist.init(seed),
        (images, labels),
        mechanism,
        optimizer=optax.sgd(row.learning_rate),
        directory=directory,
        callback=callback,
    )
    return run.params, average.value(directory), seconds.median()


def train_ordinary(row: Row, seed: int, data: hg.datasets.Dataset, directory: Path) -> Any:
    """The same model by plain SGD on shuffled batches."""
    del directory
    images, labels = data.train
    optimizer = optax.sgd(row.learning_rate)
    params = mnist.init(seed)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        def mean_loss(p: Any) -> Any:
            return jnp.mean(jax.vmap(mnist.loss, (None, 0, 0))(p, x, y))

        updates, state = optimizer.update(jax.grad(mean_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    per_epoch = len(images) // BATCH_SIZE
    seconds = _EpochTimer(per_epoch)
    for epoch in range(row.epochs):
        order = rng.permutation(len(images))
        for i in range(per_epoch):
            rows = order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE]
            params, state = step(params, state, images[rows], labels[rows])
            seconds(epoch * per_epoch + i + 1, params)
    return params, None, seconds.median()


class _Average:
    """The mean of the parameters from step `first` on."""

    def __init__(self, first: int) -> None:
        self._first, self._sum, self._count = first, None, 0
        self._missed = True

    def __call__(self, step: int, params: Any) -> None:
        self._missed = self._missed and step > self._first
        if step >= self._first:
            total = self._sum
            self._sum = params if total is None else jax.tree.map(jnp.add, total, params)
            self._count += 1

    def value(self, directory: Path) -> Any:
        if self._missed or self._sum is None:
            sys.exit(f"{directory} was interrupted in its last quarter; remove it to train anew")
        return jax.tree.map(lambda total: total / self._count, self._sum)


class _EpochTimer:
    """Wall-clock seconds of each pass over the data, the first (compiling) left out."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._every, self._marks = steps_per_epoch, []

    def __call__(self, step: int, params: Any) -> None:
        if step % self._every == 0:
            jax.block_until_ready(params)
            self._marks.append(time.perf_counter())

    def median(self) -> float:
        return float(np.median(np.diff(self._marks))) if len(self._marks) > 1 else float("nan")


def _mechanism(row: Row, examples: int) -> hg.Mechanism:
    return hg.dp_sgd(
        examples=examples,
        batch_size=BATCH_SIZE,
        epochs=row.epochs,
        clip=row.clip,
        noise_multiplier=row.noise_multiplier,
        delta=DELTA,
    )


def run_one(row: Row, seed: int, data: hg.datasets.Dataset, folder: Path) -> dict[str, float]:
    """Trains one row with one seed, or reads what an earlier call found."""
    name = f"{row.name}-{seed}"
    file = folder / f"{name}.json"
    if not file.exists():
        train = train_ordinary if row is ORDINARY else train_private
        last, average, seconds = train(row, seed, data, folder / name)
        result = {
            "last": accuracy(mnist, last, *data.test),
            "average": accuracy(mnist, last if average is None else average, *data.test),
            "seconds_per_epoch": seconds,
        }
        file.write_text(json.dumps(result))
    result = json.loads(file.read_text())
    print(f"{name}: {', '.join(f'{k} {v:.4f}' for k, v in result.items())}", flush=True)
    return result


def report(results: dict[str, list[dict[str, float]]], examples: int, command: str) -> str:
    """The table as Markdown."""
    seeds = len(next(iter(results.values())))
    lines = [
        "# MNIST: the table of TensorFlow Privacy's tutorial",
        "",
        "The tutorial's CNN (26,010 parameters), optimizer (plain SGD), learning rate, clip,",
        f"noise multiplier, expected batch size {BATCH_SIZE} and epochs; Poisson sampling;",
        f"delta = {DELTA:g}. Test accuracy is the mean over {seeds} seeds, with the lowest and the",
        "highest: of the parameters averaged over the last quarter of the run, which costs no",
        "privacy, and of the last parameters. The seeds choose the starting point; noise and",
        "batches come from the operating system's entropy. The tutorial's epsilon for the same",
        "noise is that of the accountant of its time.",
        "",
        "| learning rate | noise | clip | epochs | accuracy, averaged | last | tutorial "
        "| epsilon PLD | RDP | tutorial | seconds per epoch |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (*PRIVATE, ORDINARY):
        found = results[row.name]
        averaged, last = (_spread([r[key] for r in found]) for key in ("average", "last"))
        seconds = statistics.median(r["seconds_per_epoch"] for r in found)
        if row is ORDINARY:
            averaged = "none"
            settings, cost = (
                f"| {row.learning_rate:g} | none | none | {row.epochs} ",
                "| none | none | none",
            )
        else:
            m = _mechanism(row, examples)
            settings = (
                f"| {row.learning_rate:g} | {row.noise_multiplier:g} | {row.clip:g} | {row.epochs} "
            )
            cost = (
                f"| {m.epsilon():.3f} | {m.epsilon(accountant='rdp'):.3f} | {row.tutorial_epsilon}"
            )
        lines.append(
            f"{settings}| {averaged} | {last} | {row.tutorial_accuracy:.1%} "
            f"{cost} | {seconds:.1f} |"
        )
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("hushgrad", "jax", "optax", "numpy")
    )
    lines += [
        "",
        f"Command: `{command}`",
        "",
        f"Python {platform.python_version()}, {versions}, {jax.default_backend()} "
        f"({platform.machine()}, {_cores()} cores).",
    ]
    return "\n".join(lines) + "\n"


def _spread(scores: list[float]) -> str:
    return f"{statistics.mean(scores):.2%} ({min(scores):.2%} to {max(scores):.2%})"


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the four idx files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/mnist_table"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/mnist.md"))
    args = parser.parse_args()
    data = hg.datasets.load_mnist(args.data_dir)
    args.runs.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, float]]] = {row.name: [] for row in (*PRIVATE, ORDINARY)}
    for seed in range(args.seeds):
        for row in (*PRIVATE, ORDINARY):
            results[row.name].append(run_one(row, seed, data, args.runs))
    shown = ["python", *(a if a != str(args.data_dir) else "DIR" for a in sys.argv)]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(results, len(data.train[0]), shlex.join(shown)))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
