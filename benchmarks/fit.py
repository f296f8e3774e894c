"""What Keras's `fit` costs when it is private, over the same model's ordinary `fit`.

    python -m benchmarks.fit [--rounds 5] [--steps 60] [--output FILE]

The convolutional network of TensorFlow Privacy's tutorial and a perceptron, on random
images; both models in one process, in turns, an epoch at a time. Milliseconds per step: the
time of an epoch by its steps, medians over rounds. The private one draws Poisson batches,
and has a row in its ledger, on disk, for each step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import hushgrad as hg

__all__ = ["main"]


def convolutional() -> keras.Model:
    """TensorFlow Privacy's tutorial's."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 8, strides=2, padding="same", activation="relu"),
            keras.layers.MaxPool2D(2, 1),
            keras.layers.Conv2D(32, 4, strides=2, padding="valid", activation="relu"),
            keras.layers.MaxPool2D(2, 1),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def perceptron() -> keras.Model:
    """Two hidden layers of 512."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


MODELS: dict[str, Callable[[], keras.Model]] = {
    "convolutional": convolutional,
    "perceptron": perceptron,
}


class _Clock(keras.callbacks.Callback):
    """Seconds per step from the end of the first."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self._start = time.perf_counter()
        self._last = batch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = (time.perf_counter() - self._start) / self._last


def measured(name: str, batch_size: int, rounds: int, steps: int, folder: Path) -> dict[str, float]:
    """Medians in milliseconds per step."""
    rng = np.random.default_rng(0)
    size = batch_size * steps
    x = rng.random((size, 28, 28, 1), np.float32)
    y = rng.integers(0, 10, size)
    plain, inside = MODELS[name](), MODELS[name]()
    private = hg.keras.privatize(
        inside, clip=1.0, noise_multiplier=1.0, delta=1e-6, ledger=folder / f"{name}.sqlite"
    )
    seconds: dict[str, list[float]] = {"ordinary": [], "private": []}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    models: dict[str, Any] = {"ordinary": plain, "private": private}
    for model in models.values():
        model.compile(keras.optimizers.SGD(0.05), loss)
    for number in range(rounds + 1):
        for kind, model in models.items():
            clock = _Clock()
            model.fit(x, y, batch_size=batch_size, callbacks=[clock], verbose=0)
            if number:  # the first compiles
                seconds[kind].append(clock.seconds)
    return {kind: 1e3 * statistics.median(all_) for kind, all_ in seconds.items()}


def _page(found: dict[tuple[str, int], dict[str, float]], arguments: argparse.Namespace) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("hushgrad", "jax", "keras")
    )
    lines = [
        "# Keras's `fit`, private and ordinary",
        "",
        "Milliseconds per step, the ledger's row on disk included:",
        "",
        "| model | batch | private | ordinary | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (name, batch_size), medians in found.items():
        private, ordinary = medians["private"], medians["ordinary"]
        lines.append(
            f"| {name} | {batch_size} | {private:.2f} | {ordinary:.2f} | {private / ordinary:.2f} |"
        )
    lines += [
        "",
        f"Command: `python -m benchmarks.fit --rounds {arguments.rounds} --steps "
        f"{arguments.steps}`",
        "",
        f"Python {platform.python_version()}, {versions}; {platform.machine()}, "
        f"{os.cpu_count()} cores.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, and writes the page if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for model in MODELS:
            for batch_size in (32, 256):
                key = model, batch_size
                found[key] = measured(*key, arguments.rounds, arguments.steps, Path(name))
    page = _page(found, arguments)
    print(page)
    if arguments.output:
        arguments.output.write_text(page)


if __name__ == "__main__":
    main()
