"""An embedding trained from scratch: noise on all its rows, or on those that a step chooses.

    python examples/sst2.py --data-dir DATA [--seeds 3] [--output docs/results/sst2.md]

SST-2 (Socher et al. 2013, as in GLUE): is a phrase of a film review positive? Words are hashed to
65,536 rows of 4 numbers, so the vocabulary is public; the mean of a phrase's rows is read out by a
linear layer. At epsilon 1, 3 and 8: DP-SGD, which moves every row in each step, and DP-AdaFEST,
which moves those whose noisy count is high; and both beside training without privacy. DATA has
sst2/{train,dev,test}.tsv.xz. Each has as many settings to choose from, by dev, with a seed of its
own. Cells are kept in --runs, from where the same command goes on. It takes about half an hour
on one core.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import hushgrad as hg

ROWS, WIDTH, LONGEST = 2**16, 4, 40
BATCH, EPOCHS, CLIP, DELTA = 4_096, 4, 1.0, 1e-6
EPSILONS: tuple[float | None, ...] = (1.0, 3.0, 8.0, None)
# What each may choose from: learning rates, and for DP-AdaFEST the ratio of the noise on counts to
# that on gradients and the threshold.
METHODS: dict[str, tuple[tuple[float, ...], ...]] = {
    "DP-SGD": ((2.0,), (4.0,), (8.0,), (16.0,)),
    "DP-AdaFEST": ((4.0, 1.0, 3.09), (8.0, 1.0, 3.09), (8.0, 2.0, 3.09), (8.0, 1.0, 2.0)),
    "no privacy": ((0.003,), (0.01,), (0.03,), (0.1,)),
}
# So that rows learn as fast as the few other numbers, at one learning rate.
SCALE = 16.0
# A block of a batch that stays in a processor's cache.
BLOCK = 256
Split = tuple[Int[np.ndarray, "phrases words"], Float[np.ndarray, " phrases"]]


def hashed(phrase: str) -> Int[np.ndarray, " words"]:
    """The rows of a phrase's words, by a hash that looks at no data; ROWS where it has no more."""
    words = phrase.split()[:LONGEST]
    rows = [zlib.crc32(word.encode()) % ROWS for word in words]
    return np.array(rows + [ROWS] * (LONGEST - len(rows)), np.int32)


def load(folder: Path) -> dict[str, Split]:
    """The three parts, with hashed words."""
    parts = {}
    for name in ("train", "dev", "test"):
        with lzma.open(folder / f"{name}.tsv.xz", "rt", encoding="utf-8") as file:
            lines = [line.rstrip("\n").rsplit("\t", 1) for line in file][1:]
        phrases = np.stack([hashed(phrase) for phrase, _ in lines])
        parts[name] = phrases, np.array([label for _, label in lines], np.float32)
    return parts


def start(seed: int) -> dict[str, Array]:
    """Small random rows, and a direction to read them out by."""
    table, out = jax.random.split(jax.random.key(seed))
    return {
        "embedding": 0.01 * jax.random.normal(table, (ROWS, WIDTH)),
        "out": jax.random.normal(out, (WIDTH,)) / np.sqrt(WIDTH),
        "bias": jnp.zeros(()),
    }


def logit(params: dict[str, Array], words: Int[Array, " words"]) -> Float[Array, ""]:
    """How positive a phrase is; the rows beyond the table, of no word, are zero."""
    rows = params["embedding"].at[words].get(mode="fill", fill_value=0)
    pooled = SCALE * rows.sum(axis=0) / jnp.sqrt(jnp.maximum(jnp.sum(words < ROWS), 1))
    return pooled @ params["out"] + params["bias"]


def loss(
    params: dict[str, Array], words: Int[Array, " words"], label: Float[Array, ""]
) -> Float[Array, ""]:
    """Cross-entropy of one phrase."""
    return optax.losses.sigmoid_binary_cross_entropy(logit(params, words), label)


@jax.jit
def accuracy(
    params: dict[str, Array], words: Int[Array, "phrases words"], labels: Float[Array, " phrases"]
) -> Float[Array, ""]:
    """Share of phrases that are told right."""
    found = jax.vmap(logit, (None, 0))(params, words)
    return jnp.mean((found > 0) == (labels > 0.5))


def mechanism(examples: int, epsilon: float, *choice: float) -> hg.Mechanism:
    """DP-AdaFEST with a ratio and a threshold, DP-SGD without."""
    plan: dict[str, Any] = {
        "examples": examples,
        "batch_size": min(BATCH, examples),
        "epochs": EPOCHS,
        "clip": CLIP,
        "delta": DELTA,
        "epsilon": epsilon,
    }
    if not choice:
        return hg.dp_sgd(**plan)
    ratio, threshold = choice
    strategy = hg.noise.Sparse("embedding", ratio=ratio, threshold=threshold)
    return hg.dp_adafest(**plan, strategy=strategy)


def private(
    m: hg.Mechanism, train: Split, rate: float, seed: int
) -> tuple[dict[str, Array], dict[str, float]]:
    """Trained parameters; rows that a step moved, and seconds for all, on average."""
    chosen: list[float] = []

    def count(progress: hg.Progress) -> None:
        chosen.append(float(ROWS if progress.chosen is None else progress.chosen.rows))

    begun = time.perf_counter()
    options = hg.Options(block_size=BLOCK, checkpoint_every=10**6)
    with tempfile.TemporaryDirectory() as folder:
        run = hg.train(
            loss,
            start(seed),
            train,
            m,
            optimizer=optax.sgd(rate),
            directory=folder,
            callback=count,
            options=options,
        )
    spent = time.perf_counter() - begun
    return run.params, {"rows": statistics.mean(chosen), "seconds": spent}


def ordinary(train: Split, rate: float, seed: int) -> tuple[dict[str, Array], dict[str, float]]:
    """The same model without privacy: shuffled batches, no clip, no noise."""
    optimizer, size = optax.adam(rate), min(BATCH, len(train[0]))

    @jax.jit
    def step(params: Any, state: Any, words: Array, labels: Array) -> tuple[Any, Any, Array]:
        def mean(params: Any) -> Array:
            return jnp.mean(jax.vmap(loss, (None, 0, 0))(params, words, labels))

        grads = jax.grad(mean)(params)
        updates, state = optimizer.update(grads, state)
        moved = jnp.sum(jnp.any(grads["embedding"] != 0, axis=1))
        return optax.apply_updates(params, updates), state, moved

    params, rng, moved, begun = start(seed), np.random.default_rng(seed), [], time.perf_counter()
    state = optimizer.init(params)
    for _ in range(EPOCHS):
        order = rng.permutation(len(train[0]))
        for at in range(0, len(order) - size + 1, size):
            rows = order[at : at + size]
            params, state, count = step(params, state, train[0][rows], train[1][rows])
            moved.append(int(count))
    return params, {"rows": statistics.mean(moved), "seconds": time.perf_counter() - begun}


def cell(method: str, epsilon: float | None, data: dict[str, Split], seeds: int) -> dict[str, Any]:
    """One method at one epsilon: its settings chosen by dev, then all seeds on test."""
    settings = METHODS[method]
    made = {
        choice: None if epsilon is None else mechanism(len(data["train"][0]), epsilon, *choice)
        for choice in {tuple(choice) for _, *choice in settings}
    }

    def score(setting: tuple[float, ...], seed: int, part: str) -> tuple[float, dict[str, float]]:
        rate, *choice = setting
        m = made[tuple(choice)]
        params, told = (
            ordinary(data["train"], rate, seed)
            if m is None
            else private(m, data["train"], rate, seed)
        )
        return float(accuracy(params, *data[part])), told

    tried = {one: score(one, 0, "dev")[0] for one in settings}
    best = max(tried, key=lambda one: tried[one])
    runs = [score(best, 1 + seed, "test") for seed in range(seeds)]
    m = made[best[1:]]
    return {
        "tried": [[*setting, found] for setting, found in tried.items()],
        "chosen": best,
        "accuracy": [found for found, _ in runs],
        "rows": statistics.mean(told["rows"] for _, told in runs),
        "seconds": statistics.mean(told["seconds"] for _, told in runs),
        "noise": m and m.noise_multiplier,
        "on gradients": m and m.sum_noise_multiplier,
        "pld": m and m.epsilon(),
        "rdp": m and m.epsilon(accountant="rdp"),
        "steps": m and m.steps,
    }


def report(found: dict[str, dict[str, Any]], command: str, seeds: int) -> str:
    """The table as Markdown."""
    modules = {"hushgrad": hg, "JAX": jax, "optax": optax, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    count = len(METHODS["DP-SGD"])
    heads = (
        "epsilon (PLD) | (RDP) | noise multiplier | on gradients | test accuracy, % | rows a step"
    )
    lines = [
        f"| method | {heads} | gradient smaller by | seconds | rate, ratio, threshold |",
        "|---" * 10 + "|",
    ]
    missing = []
    for epsilon in EPSILONS:
        for method in METHODS:
            if f"{method} {epsilon}" in found:
                lines.append(_row(method, found[f"{method} {epsilon}"]))
            elif (epsilon is None) == (method == "no privacy"):
                missing.append(method + ("" if epsilon is None else f" at epsilon {epsilon:g}"))
    parts = [
        "# SST-2 with an embedding from scratch",
        f"`{command}`",
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}.",
        f"Words of a phrase are hashed (CRC-32) to {ROWS:,} rows of {WIDTH} numbers, which looks "
        "at no data, so the vocabulary costs nothing; a linear layer reads out the sum of a "
        "phrase's rows over the root of how many they are. Trained from random numbers, without "
        f"pretrained vectors: 60,614 phrases, batches of {BATCH:,} expected, {EPOCHS} epochs, "
        f"clip {CLIP:g}, delta {DELTA:g}, plain SGD (without privacy: Adam, shuffled batches, no "
        "clip). *Test* is GLUE's development set of 872 sentences. Mean of "
        f"{seeds} seeds and their standard deviation; seeds choose the starting point, noise and "
        "batches come from the operating system's entropy.",
        f"Each cell had {count} settings to choose from, by phrases of GLUE's training set that "
        "were held out, with a seed of its own: learning rates alone, or for DP-AdaFEST learning "
        "rates, the ratio of the noise on counts to that on gradients, and the threshold in "
        "deviations of the noise on counts. That choice is not part of epsilon. What is hidden is "
        "one phrase: GLUE has many phrases of one sentence, which are not hidden together.",
        "\n".join(lines),
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
        "*Rows a step* is how many of the table's rows a step moves, on average: so many rows of "
        "the released update are not zero, and *smaller by* is all rows over those. Of the rows "
        "that DP-AdaFEST chooses some are of no word: at a threshold of 3.09 one empty row in a "
        f"thousand, {ROWS * 1e-3:,.0f} of {ROWS:,}, and at 2 one in 44. *On gradients* is the "
        "multiplier of the noise on gradients, above the mechanism's where counts take a part. "
        "*Seconds* are for a whole training, on a machine with other work.",
    ]
    return "\n\n".join(parts) + "\n"


def _row(method: str, one: dict[str, Any]) -> str:
    scores = [100 * score for score in one["accuracy"]]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    noise = ["none", "none", "none", "none"]
    if one["pld"] is not None:
        noise = [f"{one[name]:.3g}" for name in ("pld", "rdp", "noise", "on gradients")]
    chosen = ", ".join(f"{value:g}" for value in one["chosen"])
    return (
        f"| {method} | {' | '.join(noise)} | {statistics.mean(scores):.1f}{spread} "
        f"| {one['rows']:,.0f} | {ROWS / one['rows']:,.0f} | {one['seconds']:.0f} | {chosen} |"
    )


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/sst2"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/sst2.md"))
    args = parser.parse_args()
    data = load(args.data_dir / "sst2")
    args.runs.mkdir(parents=True, exist_ok=True)
    kept = args.runs / "cells.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for epsilon in EPSILONS:
        for method in METHODS:
            name = f"{method} {epsilon}"
            if (epsilon is None) != (method == "no privacy") or name in found:
                continue
            found[name] = cell(method, epsilon, data, args.seeds)
            kept.write_text(json.dumps(found, indent=1))
            jax.clear_caches()  # or many runs' programs fill the memory
            print(_row(method, found[name]), flush=True)
    command = f"python examples/sst2.py --data-dir DATA --seeds {args.seeds}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(found, command, args.seeds))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
