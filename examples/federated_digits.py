"""MNIST by writer: federated averaging with user-level privacy, the recipe of a known tutorial.

    python examples/federated_digits.py --data-dir DATA [--seeds 3] [--output docs/results]

TensorFlow Federated's tutorial on differential privacy, on digits that 539 people wrote: its
model and optimizers, its four levels of noise, its plot, then its search for so many clients per
round that a budget is kept, and the final model. What is hidden is a writer with all of their
images. Noise 0 stands for 1e-6: clipped, but not private.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg

LAYERS = (784, 200, 200, 10)
NOISES = (1e-6, 0.5, 0.75, 1.0)
CLIENTS, ROUNDS, DELTA = 50, 100, 1e-3
# The tutorial's own: clients, noise multiplier, users, delta; and its accuracy there.
FINAL, FINAL_NOISE, TUTORIAL, TUTORIAL_DELTA, TUTORIAL_ACCURACY = 120, 1.2, 3383, 1e-5, 0.796
THEIRS = {1e-6: 0.805, 0.5: 0.770, 0.75: 0.709, 1.0: 0.383}


def logits(params: Any, image: Any) -> Any:
    """Three dense layers."""
    h = image.ravel()
    for layer in params[:-1]:
        h = jax.nn.relu(h @ layer["w"] + layer["b"])
    return h @ params[-1]["w"] + params[-1]["b"]


def loss(params: Any, image: Any, label: Any) -> Any:
    """Of one image."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, image), label)


def right(params: Any, image: Any, label: Any) -> Any:
    """Whether one image is recognised."""
    return jnp.argmax(logits(params, image)) == label


def start(seed: int) -> list[dict[str, jax.Array]]:
    """Glorot's uniform weights, as Keras draws them."""
    rng, made = np.random.default_rng(seed), []
    for a, b in itertools.pairwise(LAYERS):
        limit = (6 / (a + b)) ** 0.5
        w = jnp.asarray(rng.uniform(-limit, limit, (a, b)), jnp.float32)
        made.append({"w": w, "b": jnp.zeros(b)})
    return made


def mechanism(users: int, clients: int, noise: float, delta: float = DELTA) -> hg.Mechanism:
    """So many clients in each round, by Poisson sampling; the clip follows the median norm."""
    aggregator = hg.federated.dp_aggregator(noise_multiplier=noise, clients_per_round=clients)
    return aggregator.mechanism(clients=users, rounds=ROUNDS, delta=delta)


def trained(users: Any, test: Any, m: hg.Mechanism, seed: int, every: int = 5) -> dict[str, Any]:
    """One run: test loss and accuracy by round, the last norm, seconds a round."""
    # Who comes and the noise are fresh; the seed is that of the weights alone.
    process = hg.federated.fed_avg(
        loss, optax.sgd(0.01), optax.sgd(1.0, momentum=0.9), m, batch_size=32
    )
    state, curve, times = process.initialize(start(seed)), [], []
    while state.round < m.steps:
        begun = time.perf_counter()
        state, _ = process.next(state, process.cohort(state, users))
        jax.block_until_ready(state.params)
        times.append(time.perf_counter() - begun)
        if state.round % every == 0:
            found = process.evaluate(state, test, {"accuracy": right})
            curve.append((state.round, found["unprotected_loss"], found["unprotected_accuracy"]))
    assert state.norm is not None
    return {
        "curve": curve,
        "accuracy": curve[-1][2],
        "norm": float(state.norm),
        "seconds": statistics.median(times),
    }


def plot(runs: dict[float, list[dict[str, Any]]], file: Path) -> None:
    """Accuracy and loss by round, one line for each level of noise, seeds as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for noise, found in runs.items():
        curves = np.array([run["curve"] for run in found])
        for axis, column in zip(axes, (2, 1), strict=True):
            values, rounds = curves[:, :, column], curves[0, :, 0]
            label = f"noise {noise:g}" if noise > 1e-3 else "noise 0"
            axis.plot(rounds, values.mean(axis=0), label=label)
            axis.fill_between(rounds, values.min(axis=0), values.max(axis=0), alpha=0.2)
    for axis, name in zip(axes, ("test accuracy", "test loss"), strict=True):
        axis.set(xlabel="round", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0].legend()
    axes[1].set_ylim(0, 2.6)
    figure.suptitle(f"{CLIENTS} of 539 writers a round, adaptive clipping")
    figure.savefig(file, dpi=120)


def mean(values: list[float], digits: int = 1) -> str:
    """Percent, with the spread of seeds."""
    spread = f" ± {100 * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.{digits}f}{spread}"


def epsilons(m: hg.Mechanism) -> str:
    """By both accountants."""
    if m.noise_multiplier < 1e-3:
        return "none | none"
    return f"{m.epsilon():.3g} | {m.epsilon(accountant='rdp'):.3g}"


def report(command: str, seeds: int, runs: Any, final: Any, searched: Any, users: int) -> str:
    """The tables."""
    lines = [
        "# Federated: MNIST by its 539 writers",
        "",
        f"`{command}`",
        "",
        f"hushgrad {hg.__version__}, JAX {jax.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {jax.default_backend()}. {seeds} seeds of the weights; cohorts "
        "and noise fresh from the operating system; mean and standard deviation.",
        "",
        "The recipe is that of TensorFlow Federated's tutorial: 784-200-200-10, clients' SGD 0.01, "
        "batches of 32, one pass; the server's SGD 1.0 with momentum 0.9; Poisson sampling; the "
        f"clip follows the median norm from 0.1. {ROUNDS} rounds. Accuracy on MNIST's 10,000 test "
        "images, by other writers. The tutorial's own numbers are for EMNIST digits by 3,383 "
        "writers.",
        "",
        f"## Levels of noise: {CLIENTS} clients a round",
        "",
        f"| noise multiplier | accuracy, % | tutorial's, % | last clip | epsilon at {DELTA:g}, PLD "
        "| RDP | seconds a round |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise, found in runs.items():
        m = mechanism(users, CLIENTS, noise)
        lines.append(
            f"| {noise if noise > 1e-3 else 0:g} | {mean([r['accuracy'] for r in found])} "
            f"| {100 * THEIRS[noise]:.1f} "
            f"| {statistics.mean(r['norm'] for r in found):.2f} | {epsilons(m)} "
            f"| {statistics.median(r['seconds'] for r in found):.2f} |"
        )
    lines += [
        "",
        "![accuracy and loss by round](federated.png)",
        "",
        "## The final model",
        "",
        "The noise in the mean stays what it was at noise 0.5 with 50 clients, which costs little "
        "accuracy; more clients a round buy privacy.",
        "",
        f"| clients a round | noise multiplier | accuracy, % | epsilon at {DELTA:g} with {users} "
        "writers, PLD | RDP | seconds a round |",
        "|---|---|---|---|---|---|",
    ]
    for (clients, noise), found in final.items():
        m = mechanism(users, clients, noise)
        lines.append(
            f"| {clients} | {noise:.3g} | {mean([r['accuracy'] for r in found])} | {epsilons(m)} "
            f"| {statistics.median(r['seconds'] for r in found):.2f} |"
        )
    lines += [
        "",
        f"{FINAL} clients and noise {FINAL_NOISE:g} are the tutorial's choice "
        f"({100 * TUTORIAL_ACCURACY:.1f}% on its data). The other row is what "
        f"`clients_for_budget(users={users}, noise_multiplier=0.5, clients_per_round=50, "
        f"rounds={ROUNDS}, epsilon={searched[0]:g}, delta={DELTA:g})` answers: with so few writers "
        "epsilon 2 cannot be had at this noise, though all of them took part in every round.",
        "",
        "## The same rounds with more users",
        "",
        "What the accountant says of the tutorial's choice where more people take part; accuracy "
        "is not extrapolated.",
        "",
        "| users | delta | clients a round | noise multiplier | epsilon, PLD | RDP |",
        "|---|---|---|---|---|---|",
    ]
    for count, delta in ((users, DELTA), (TUTORIAL, TUTORIAL_DELTA), (10**6, 1e-7)):
        m = mechanism(count, FINAL, FINAL_NOISE, delta)
        lines.append(f"| {count:,} | {delta:g} | {FINAL} | {FINAL_NOISE:g} | {epsilons(m)} |")
    rows = []
    for accountant in ("pld", "rdp"):
        answer = hg.federated.clients_for_budget(
            users=TUTORIAL,
            noise_multiplier=0.5,
            clients_per_round=CLIENTS,
            rounds=ROUNDS,
            epsilon=2.0,
            delta=TUTORIAL_DELTA,
            accountant=accountant,
        )
        rows.append(
            f"{answer.clients_per_round} by {accountant.upper()} (noise "
            f"{answer.noise_multiplier:.3g}, epsilon {answer.epsilon:.4g})"
        )
    lines += [
        "",
        f"The tutorial's search, {TUTORIAL:,} users and epsilon 2 at {TUTORIAL_DELTA:g}: clients a "
        f"round {' and '.join(rows)}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs all, and writes the tables and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=8.0, help="of the search")
    parser.add_argument("--output", type=Path, help="folder; by default only prints")
    chosen = parser.parse_args()
    mnist = hg.datasets.load_mnist(chosen.data_dir / "mnist")
    writers, _ = hg.datasets.load_mnist_writers(chosen.data_dir / "qmnist")
    users = hg.sampling.Users(writers, mnist.train)
    searched = hg.federated.clients_for_budget(
        users=len(users),
        noise_multiplier=0.5,
        clients_per_round=CLIENTS,
        rounds=ROUNDS,
        epsilon=chosen.epsilon,
        delta=DELTA,
    )

    def several(clients: int, noise: float) -> list[dict[str, Any]]:
        m = mechanism(len(users), clients, noise)
        found = [trained(users, mnist.test, m, seed) for seed in range(chosen.seeds)]
        shown = mean([run["accuracy"] for run in found])
        print(f"{clients} clients, noise {noise:g}: {shown}%", flush=True)
        return found

    runs = {noise: several(CLIENTS, noise) for noise in NOISES}
    pairs = [
        (FINAL, FINAL_NOISE),
        (searched.clients_per_round, searched.noise_multiplier),
    ]
    final = {pair: several(*pair) for pair in pairs}
    command = "python examples/federated_digits.py --data-dir DATA --seeds "
    command += f"{chosen.seeds} --epsilon {chosen.epsilon:g} --output docs/results"
    text = report(command, chosen.seeds, runs, final, (chosen.epsilon, searched), len(users))
    if chosen.output is None:
        print(text)
    else:
        (chosen.output / "federated.md").write_text(text)
        plot(runs, chosen.output / "federated.png")


if __name__ == "__main__":
    main()
