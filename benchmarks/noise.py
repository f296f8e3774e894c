"""What noise that cancels between steps costs in time and memory, over independent noise.

    python -m benchmarks.noise [--params 26010 1000000 100000000] [--steps 10000] [--output FILE]

Each kind of `hushgrad.noise`, found for a run of so many steps, adds the noise of one step after
the other to sums of one array. All are compiled in one process and called in turns, so that all
meet the same machine. A tree draws one node in every second step, two in every fourth and so on:
means over a power of two of steps; for the others, medians. At each size, bands are as many as
the memory bound allows. Beside it the step of the convolutional network of the MNIST recipe
(26,010 parameters, batch 256, its noise left out), for scale.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hushgrad as hg
from hushgrad import noise, recipes

__all__ = ["main", "measure"]

_BANDS, _BUFFERS = 32, 4
# Bytes of one kind's state.
_MEMORY = 3 * 2**30


def measure(
    size: int, steps: int, rounds: int, kinds: dict[str, noise.Strategy]
) -> dict[str, tuple[float, int]]:
    """Milliseconds a step, and copies of the parameters that are kept, by kind."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    sums, made = jnp.zeros(size), {}
    for name, kind in kinds.items():
        adds = kind.transformation(1.0, steps)
        update = jax.jit(lambda s, k, key, adds=adds: adds.update(s, k, key=key), donate_argnums=1)
        made[name] = (adds.init, update)
    copies = {
        name: round(sum(x.size for x in jax.tree.leaves(jax.eval_shape(init, sums))) / size)
        for name, (init, _) in made.items()
    }
    # One state at a time where they are large, all in turns where they are not.
    turns = [[name] for name in kinds] if size > 10**7 else [list(kinds)]
    for names in turns:
        states: dict[str, Any] = {name: made[name][0](sums) for name in names}
        for number in range(rounds + 1):
            key = np.arange(8 * number, 8 * number + 8, dtype=np.uint32)
            for name in names:
                begun = time.perf_counter()
                out, states[name] = made[name][1](sums, states[name], key)
                jax.block_until_ready(out)
                if number:  # the first call compiles
                    times[name].append(1e3 * (time.perf_counter() - begun))
        states.clear()
    middle: dict[str, Callable[[list[float]], float]] = {"tree": statistics.fmean}
    found = {name: middle.get(name, statistics.median)(times[name]) for name in kinds}
    return {name: (found[name], copies[name]) for name in kinds}


def network(rounds: int) -> float:
    """Milliseconds of one private gradient of the MNIST recipe's network, batch 256."""
    rng, params = np.random.default_rng(0), recipes.mnist.init(0)
    batch = rng.random((256, 28, 28), np.float32), rng.integers(0, 10, 256).astype(np.int32)
    clipped = hg.clipped_grad(recipes.mnist.loss, clip=1.0)
    step, times = jax.jit(lambda p, x, y: clipped(p, x, y).grads), []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        jax.block_until_ready(step(params, *batch))
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def found(steps: int, bands: int) -> dict[str, tuple[noise.Strategy, float]]:
    """Each kind for a run, and the seconds that its search took."""
    makes: dict[str, Callable[[], noise.Strategy]] = {
        "independent": noise.Independent,
        "tree": noise.Tree,
        f"toeplitz, {bands} bands": lambda: noise.Toeplitz.of(steps, bands),
        f"blt, {_BUFFERS} buffers": lambda: noise.BLT.of(steps, _BUFFERS),
        f"banded, {bands} bands": lambda: noise.Banded.of(steps, bands),
    }
    made = {}
    for name, make in makes.items():
        begun = time.perf_counter()
        made[name] = (make(), time.perf_counter() - begun)
    return made


def report(sizes: list[int], steps: int) -> str:
    """All of it as Markdown."""
    parts = [
        f"hushgrad {hg.__version__}, JAX {jax.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores ({platform.machine()}), {jax.default_backend()}.",
        f"Runs of {steps:,} steps. *Over independent* is what a step takes longer by; "
        "*kept* is in copies of the parameters; *error* is the root mean square of the noise in "
        "sums of gradients at noise multiplier 1, for who takes part once; *found in* is the "
        "search, which is made once and kept on disk. Dense matrices are for runs of up to 1,024 "
        "steps and make all earlier noise again in each: they are left out here.",
    ]
    for size in sizes:
        bands = max(2, min(_BANDS, _MEMORY // (4 * size)))
        kinds = found(steps, bands)
        rounds = 128 if size <= 10**5 else 32 if size <= 10**7 else 8
        made = measure(size, steps, rounds, {name: kind for name, (kind, _) in kinds.items()})
        alone = made["independent"][0]
        rows = [
            "| noise | ms a step | over independent, ms | ratio | kept | error | found in, s |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, (ms, copies) in made.items():
            error = kinds[name][0].error(steps, noise.Spaced(1, 1))
            rows.append(
                f"| {name} | {ms:.3g} | {ms - alone:.3g} | {ms / alone:.2f} | {copies} "
                f"| {error:.3g} | {kinds[name][1]:.2g} |"
            )
        parts += [f"## {size:,} parameters", "\n".join(rows)]
        if size == sizes[0]:
            parts.append(
                "For scale: the network's private gradient, batch 256, takes "
                f"{network(20):.3g} ms there."
            )
    return "\n\n".join(parts)


def main() -> None:
    """Measures, prints, and writes a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--params", type=int, nargs="+", default=[26_010, 10**6, 10**8])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HUSHGRAD_CACHE_DIR"] = folder  # what is searched for is searched for anew
        text = report(args.params, args.steps)
    print(text)
    if args.output is not None:
        head = "# The price of noise that cancels\n\n`python -m benchmarks.noise`\n\n"
        args.output.write_text(head + text + "\n")


if __name__ == "__main__":
    main()
