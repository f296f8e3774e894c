"""Seconds and memory of a federated round, beside other simulators where they install.

    python -m benchmarks.federated [--rounds 11] [--large 10000] [--output FILE]

A perceptron 784-200-200-10 (199,210 weights), 50 clients with 100 examples each, one pass in
batches of 20, SGD; the server's momentum 0.9; clipping and Gaussian noise where a system has
them. All in one process, in turns, medians over rounds. Then the same with thousands of clients in
a round, each round in a process of its own, whose peak of memory is told.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg

__all__ = ["main"]

CLIENTS, EXAMPLES, BATCH = 50, 100, 20
# What research on this kind of machine had measured of those that do not run beside JAX.
_ELSEWHERE = "TensorFlow Federated 0.87 (4.0 s) and Flower's simulator (1.5 s, clients that do "
_ELSEWHERE += "nothing) need other environments and were not run here."


def loss(params: Any, x: Any, y: Any) -> Any:
    """Of one example."""
    h = jax.nn.relu(x @ params["w0"] + params["b0"])
    h = jax.nn.relu(h @ params["w1"] + params["b1"])
    logits = h @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def start() -> dict[str, jax.Array]:
    """The perceptron's weights."""
    rng, made = np.random.default_rng(0), {}
    for i, (a, b) in enumerate([(784, 200), (200, 200), (200, 10)]):
        made[f"w{i}"] = jnp.asarray(rng.normal(size=(a, b)) / a**0.5, jnp.float32)
        made[f"b{i}"] = jnp.zeros(b)
    return made


class Clients(Mapping[int, Any]):
    """As many clients as wanted, whose examples are made when they are read."""

    def __init__(self, count: int) -> None:
        self._count = count
        rng = np.random.default_rng(0)
        self._x = rng.normal(size=(EXAMPLES, 784)).astype(np.float32)
        self._y = rng.integers(0, 10, EXAMPLES).astype(np.int32)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return np.roll(self._x, number, axis=0), np.roll(self._y, number)

    def __iter__(self) -> Any:
        return iter(range(self._count))

    def __len__(self) -> int:
        return self._count


def private_round(count: int, clip: Any) -> Callable[[], Any]:
    """hushgrad: every client of the population in each round, adaptive clip, noise."""
    m = hg.dp_sgd(
        examples=count,
        batch_size=count,
        steps=10**6,
        sampling=hg.sampling.Poisson(1.0),
        noise_multiplier=1.0,
        delta=1e-6,
        clip=clip,
        unit="user",
    )
    process = hg.federated.fed_avg(
        loss, optax.sgd(0.02), optax.sgd(1.0, momentum=0.9), m, batch_size=BATCH
    )
    state, cohort = process.initialize(start()), Clients(count)

    def one() -> Any:
        nonlocal state
        state, _ = process.next(state, cohort)
        return jax.block_until_ready(state.params)

    return one


def measured(rounds: int) -> dict[str, list[float]]:
    """Seconds of each round after two to warm up, in turns."""
    cohort = Clients(CLIENTS)
    examples = [cohort[i] for i in cohort]
    made = {
        "hushgrad, adaptive clip and noise": private_round(CLIENTS, hg.clip.Adaptive()),
        "hushgrad, fixed clip and noise": private_round(CLIENTS, 0.1),
    }
    from benchmarks.peers.federated_rounds import ROUNDS

    for name, begin in ROUNDS.items():
        try:
            made[name] = begin(examples, start(), loss)
        except ImportError as error:
            print(f"{name} is not installed: {error}", file=sys.stderr)
    seen: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds + 2):
        for name, one in made.items():
            begun = time.perf_counter()
            one()
            if number >= 2:
                seen[name].append(time.perf_counter() - begun)
    return seen


def peak(count: int) -> dict[str, float]:
    """A round of so many clients in this process: seconds, and the most memory it ever held."""
    one = private_round(count, hg.clip.Adaptive())
    one()
    begun = time.perf_counter()
    one()
    return {
        "seconds": time.perf_counter() - begun,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _apart(count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.federated", "--peak", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(seen: dict[str, list[float]], large: dict[int, dict[str, float]], command: str) -> str:
    """The tables."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("hushgrad", "jax", "fedjax", "pfl", "torch")
        if _installed(name)
    )
    lines = [
        "# A federated round: seconds and memory",
        "",
        f"`{command}`",
        "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}; Python {platform.python_version()}; {versions}.",
        "",
        f"{CLIENTS} clients with {EXAMPLES} examples, a pass in batches of {BATCH}; "
        f"784-200-200-10. In turns in one process; {len(next(iter(seen.values())))} rounds.",
        "",
        "| system | seconds a round, median | least | most |",
        "|---|---|---|---|",
    ]
    for name, times in seen.items():
        middle = statistics.median(times)
        lines.append(f"| {name} | {middle:.3f} | {min(times):.3f} | {max(times):.3f} |")
    lines += ["", _ELSEWHERE, ""]
    if large:
        lines += [
            "The same clients, more of them in a round; a process each, second round. The peak is "
            "that of the whole process, Python and compiler included.",
            "",
            "| clients in a round | seconds | peak MiB |",
            "|---|---|---|",
        ]
        for count, found in large.items():
            lines.append(f"| {count:,} | {found['seconds']:.2f} | {found['mebibytes']:,.0f} |")
        weights = sum(leaf.size for leaf in jax.tree.leaves(start()))
        whole = max(large) * weights * 4 / 2**20
        lines += ["", f"All updates of {max(large):,} clients at once would be {whole:,.0f} MiB."]
    return "\n".join(lines) + "\n"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Measures, and writes or prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    if chosen.peak:
        print(json.dumps(peak(chosen.peak)))
        return
    seen = measured(chosen.rounds)
    large = {count: _apart(count) for count in (100, 1000, chosen.large) if count <= chosen.large}
    command = f"python -m benchmarks.federated --rounds {chosen.rounds} --large {chosen.large}"
    text = report(seen, large, command)
    if chosen.output is None:
        print(text)
    else:
        chosen.output.write_text(text)


if __name__ == "__main__":
    main()
