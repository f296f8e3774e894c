"""Noise that cancels between steps, against noise that does not: one table, one tuning effort.

    python examples/correlated.py --data-dir DATA [--seeds 3] [--output docs/results/correlated.md]

At epsilon 1, 3 and 8: the CNN of the MNIST recipe, the federated average of 539 writers of
digits, and one pass over MNIST as a stream, in the order in which it lies. Each mechanism has the
same learning rates to choose from, by images that it was not trained on, with one seed; the
others are measured with what was chosen. Cells are kept in --runs, from where the same command
goes on. It takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import federated_digits
import jax
import numpy as np
import optax

import hushgrad as hg
from hushgrad import recipes

EPSILONS = (1.0, 3.0, 8.0)
HELD_OUT = 5_000
Score = Callable[[hg.Mechanism, float, int, bool], float]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and how.

    Attributes:
      title: of its table.
      told: what a reader must know of it.
      plan: examples, batch size, steps, clip and delta.
      rates: the learning rates to choose from.
      mechanisms: by their names in the table, from the plan with an epsilon.
    """

    title: str
    told: str
    plan: dict[str, Any]
    rates: tuple[float, ...]
    mechanisms: dict[str, Callable[..., hg.Mechanism]]


def _in_order(kind: type[hg.noise.Strategy]) -> Callable[..., hg.Mechanism]:
    return lambda **plan: hg.dp_ftrl(**plan, sampling=hg.sampling.InOrder, strategy=kind)


ALL: dict[str, Callable[..., hg.Mechanism]] = {
    "DP-SGD, Poisson samples": hg.dp_sgd,
    "BandMF, cyclic Poisson samples": hg.dp_banded,
    "tree, rows in order": _in_order(hg.noise.Tree),
    "BLT, rows in order": _in_order(hg.noise.BLT),
}
TASKS = {
    "mnist": Task(
        "MNIST",
        "The recipe's CNN (26,010 parameters), plain SGD, three epochs.",
        {"examples": 55_000, "batch_size": 1_000, "epochs": 3, "clip": 1.0, "delta": 1e-5},
        (0.25, 0.5, 1.0, 2.0),
        ALL,
    ),
    "writers": Task(
        "Digits by 539 writers, federated",
        "What is hidden is a writer with all of their images. 784-200-200-10, clients' SGD 0.01 "
        "with batches of 32, the server's SGD with momentum 0.9; 50 writers a round.",
        {"examples": 539, "batch_size": 50, "steps": 100, "clip": 0.1, "delta": 1e-3},
        (0.125, 0.25, 0.5, 1.0),
        ALL,
    ),
    "stream": Task(
        "MNIST as a stream",
        "The same CNN, one pass over the rows in the order in which they lie: nothing is sampled, "
        "shuffled or read twice, and no amplification is claimed.",
        {"examples": 55_000, "batch_size": 250, "epochs": 1, "clip": 1.0, "delta": 1e-5},
        (0.25, 0.5, 1.0, 2.0),
        {
            "independent noise": lambda **plan: hg.dp_sgd(**plan, sampling=hg.sampling.InOrder),
            "tree": _in_order(hg.noise.Tree),
            "Toeplitz, 32 bands": _in_order(hg.noise.Toeplitz),
            "BLT": _in_order(hg.noise.BLT),
        },
    ),
}


def mnist_score(data: hg.datasets.Dataset) -> Score:
    """Trains the CNN; its accuracy on the test set, or on the images held out to choose by."""
    train = tuple(part[:-HELD_OUT] for part in data.train)
    held = tuple(part[-HELD_OUT:] for part in data.train)

    def score(m: hg.Mechanism, rate: float, seed: int, choosing: bool) -> float:
        model = recipes.mnist
        with tempfile.TemporaryDirectory() as folder:
            run = hg.train(
                model.loss, model.init(seed), train, m, optimizer=optax.sgd(rate), directory=folder
            )
        images, labels = held if choosing else data.test
        return recipes.accuracy(model, run.params, images, labels)

    return score


def writers_score(data: hg.datasets.Dataset, folder: Path) -> Score:
    """Averages over writers; accuracy on half of the test images, the other half to choose by."""
    writers, _ = hg.datasets.load_mnist_writers(folder)
    users = hg.sampling.Users(writers, data.train)
    half = len(data.test[0]) // 2
    parts = [tuple(part[s] for part in data.test) for s in (slice(half), slice(half, None))]

    def score(m: hg.Mechanism, rate: float, seed: int, choosing: bool) -> float:
        process = hg.federated.fed_avg(
            federated_digits.loss, optax.sgd(0.01), optax.sgd(rate, momentum=0.9), m, batch_size=32
        )
        run = process.run(users, federated_digits.start(seed))
        right = jax.jit(jax.vmap(federated_digits.right, (None, 0, 0)))
        return float(np.mean(right(run.params, *parts[0 if choosing else 1])))

    return score


def cell(task: Task, name: str, epsilon: float, score: Score, seeds: int) -> dict[str, Any]:
    """One mechanism at one epsilon: its learning rate chosen, then all seeds."""
    begun = time.perf_counter()
    m = task.mechanisms[name](**task.plan, epsilon=epsilon)
    planned = time.perf_counter() - begun
    tried = {rate: score(m, rate, 0, True) for rate in task.rates}
    rate = max(tried, key=lambda one: tried[one])
    noise = m.noise_multiplier * float(m.strategy.variances(m.steps).mean()) ** 0.5
    return {
        "epsilon": m.epsilon(),
        "bands": m.strategy.bands,
        "noise": noise,
        "planned": planned,
        "tried": tried,
        "rate": rate,
        "accuracy": [score(m, rate, 1 + seed, False) for seed in range(seeds)],
    }


def report(found: dict[str, dict[str, Any]], command: str, seeds: int) -> str:
    """The tables as Markdown."""
    modules = {"hushgrad": hg, "JAX": jax, "optax": optax, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    lines = [
        "# Noise that cancels between steps",
        f"`{command}`",
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}.",
        f"Test accuracy in percent: mean of {seeds} seeds, with their standard deviation. The "
        "seeds choose the starting point; noise and batches come from the operating system's "
        "entropy. Every cell had the same learning rates to choose from (in brackets the one it "
        "took), by data held out from it and with a seed of its own; that choice is not part of "
        "epsilon. *Noise* is the root mean square of the noise in the sums of gradients over "
        "steps 1..t, over all t, in clips: what the mechanisms are compared by before they run.",
        "Poisson samples need data that can be drawn from at will, and hide whether somebody was "
        "there; the others need an order, and hide what somebody's place held.",
    ]
    for key, task in TASKS.items():
        if key not in found:
            continue
        plan = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in task.plan.items())
        heads = [f"epsilon {epsilon:g} | noise" for epsilon in EPSILONS]
        rows = [f"| mechanism | {' | '.join(heads)} |", "|---" * (1 + 2 * len(EPSILONS)) + "|"]
        for name in task.mechanisms:
            cells = [_shown(found[key][f"{name} {epsilon:g}"]) for epsilon in EPSILONS]
            rows.append(f"| {name} | {' | '.join(cells)} |")
        lines += [f"## {task.title}", f"{task.told} Plan: {plan}.", "\n".join(rows)]
    return "\n\n".join(lines) + "\n"


def _shown(one: dict[str, Any]) -> str:
    scores = [100 * score for score in one["accuracy"]]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    bands = f", {one['bands']} bands" if (one["bands"] or 1) > 1 else ""
    mean = f"{statistics.mean(scores):.1f}{spread} ({one['rate']:g})"
    return f"{mean} | {one['noise']:.3g}{bands}"


def main() -> None:
    """Trains what is missing and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/correlated"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/correlated.md"))
    args = parser.parse_args()
    data = hg.datasets.load_mnist(args.data_dir / "mnist")
    args.runs.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for key in args.tasks:
        task, kept = TASKS[key], args.runs / f"{key}.json"
        scored = writers_score(data, args.data_dir / "qmnist") if key == "writers" else None
        scored = scored or mnist_score(data)
        found = results[key] = json.loads(kept.read_text()) if kept.exists() else {}
        for epsilon in EPSILONS:
            for name in task.mechanisms:
                if f"{name} {epsilon:g}" not in found:
                    made = cell(task, name, epsilon, scored, args.seeds)
                    found[f"{name} {epsilon:g}"] = made
                    kept.write_text(json.dumps(found, indent=1))
                    jax.clear_caches()  # or hundreds of runs' programs fill the memory
                    print(f"{task.title}, {name}, epsilon {epsilon:g}: {_shown(made)}", flush=True)
    command = f"python examples/correlated.py --data-dir DATA --seeds {args.seeds}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(results, command, args.seeds))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
