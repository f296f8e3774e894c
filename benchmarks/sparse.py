"""What noise on chosen rows saves in time and bytes, over noise on every row of a large table.

    python -m benchmarks.sparse [--rows 1000000] [--width 64] [--chosen 4000] [--output FILE]

One release of a step's sum for an embedding and a small rest: dense noise (`hg.noise.gaussian`)
against rows chosen by noisy counts (`hg.noise.sparse`), both compiled in one process and called
in turns. As in training, the sum is given up for the result. The counts are such that about so
many rows are chosen. Bytes are those of the compiled programs, as XLA states them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hushgrad as hg

__all__ = ["main", "measure"]

_REST = 10_000
_MIB = 2**20


def measure(rows: int, width: int, chosen: int, capacity: int, turns: int) -> dict[str, Any]:
    """Milliseconds, bytes and normal numbers of a release, by kind of noise."""
    shapes = {"embedding": (rows, width), "rest": (_REST,)}
    key = jax.ShapeDtypeStruct((8,), jnp.uint32)

    def sums() -> dict[str, Any]:
        return {name: jnp.ones(shape) for name, shape in shapes.items()}

    looked_up = np.zeros(rows, np.float32)
    looked_up[np.random.default_rng(0).choice(rows, chosen, replace=False)] = 100.0
    dense = hg.noise.gaussian(1.0)
    adds = hg.noise.sparse(1.0, 1.0, 4.0, table="embedding", capacity=capacity)

    def all_rows(sums: Any, counts: Any, key: Any) -> tuple[Any, Any]:
        del counts
        return dense.update(sums, dense.init(sums), key=key)[0], jnp.int32(rows)

    def chosen_rows(sums: Any, counts: Any, key: Any) -> tuple[Any, Any]:
        counted = hg.noise.Counted(sums, counts)
        released, state = adds.update(counted, adds.init(counted), key=key)
        assert isinstance(state, hg.noise.Chosen)
        return released, state.rows

    made = {
        "dense": (all_rows, rows * width + _REST),
        "sparse": (chosen_rows, rows + capacity * width + _REST),
    }
    given, found, compiled = (jax.eval_shape(sums), looked_up, key), {}, {}
    for name, (release, drawn) in made.items():
        compiled[name] = jax.jit(release, donate_argnums=0).lower(*given).compile()
        memory = compiled[name].memory_analysis()
        found[name] = {"drawn": drawn, "temporary": memory.temp_size_in_bytes}
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(turns + 1):
        secret = np.arange(8 * number, 8 * number + 8, dtype=np.uint32)
        for name in made:
            taken = jax.block_until_ready(sums())
            begun = time.perf_counter()
            out, count = jax.block_until_ready(compiled[name](taken, looked_up, secret))
            if number:  # the first touches new memory
                times[name].append(1e3 * (time.perf_counter() - begun))
            found[name]["rows"] = int(count)
            del taken, out
    for name, one in found.items():
        one["ms"] = statistics.median(times[name])
        # A row that moved is its number and its values; where all move, their values.
        one["update"] = 4 * one["rows"] * (width + (name == "sparse")) + 4 * _REST
    return found


def gradient(rows: int, width: int, turns: int) -> tuple[float, float, int]:
    """Of a block of 256 examples with 20 words: ms without and with counts, and a sum's bytes."""

    def loss(params: Any, words: Any) -> Any:
        return jnp.sum(jnp.tanh(params["embedding"][words].sum(axis=0)))

    params = {"embedding": jnp.zeros((rows, width))}
    words = np.random.default_rng(0).integers(0, rows, (256, 20)).astype(np.int32)
    times: list[list[float]] = [[], []]
    engines = [
        hg.clipped_grad(loss, 1.0),
        hg.clipped_grad(loss, 1.0, counts=hg.gradients.RowCounts("embedding")),
    ]
    steps = [jax.jit(lambda p, w, e=e: (e(p, w).grads, e(p, w).counts)) for e in engines]
    for number in range(turns + 1):
        for step, kept in zip(steps, times, strict=True):
            begun = time.perf_counter()
            jax.block_until_ready(step(params, words))
            if number:
                kept.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[0]), statistics.median(times[1]), 4 * rows * width


def report(found: dict[str, Any], rows: int, width: int, capacity: int, engine: Any) -> str:
    """All of it as Markdown."""
    lines = [
        "| noise | ms a release | temporary MiB | normal numbers | rows moved | update, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(
            f"| {name} | {one['ms']:,.0f} | {one['temporary'] / _MIB:,.1f} | {one['drawn']:,} "
            f"| {one['rows']:,} | {one['update'] / _MIB:,.2f} |"
        )
    dense, sparse = found["dense"], found["sparse"]
    lines.append(
        f"| dense / sparse | {dense['ms'] / sparse['ms']:.1f} "
        f"| {dense['temporary'] / max(sparse['temporary'], 1):.2f} "
        f"| {dense['drawn'] / sparse['drawn']:.1f} | {dense['rows'] / sparse['rows']:,.0f} "
        f"| {dense['update'] / sparse['update']:,.0f} |"
    )
    plain, counted, held = engine
    return "\n\n".join(
        [
            f"hushgrad {hg.__version__}, JAX {jax.__version__}, Python "
            f"{platform.python_version()}, {os.cpu_count()} cores ({platform.machine()}), "
            f"{jax.default_backend()}.",
            f"A table of {rows:,} rows of {width} numbers and {_REST:,} others, float32; room for "
            f"{capacity:,} chosen rows. *Update* is what the release would be to send: moved rows "
            "with their numbers, or all of them. *Temporary* is beside the sum, which is given up "
            "for the result, and beside the result. Medians of calls in turns, on a machine with "
            "other work.",
            "\n".join(lines),
            f"Not saved: the sum of gradients before the release has all rows, {held / _MIB:,.0f} "
            "MiB, and so has the array that is released to the optimizer, with zeros where "
            "nothing moved; `hg.train` keeps the sum beside it until callbacks have been told. "
            f"Counting costs {counted - plain:.1f} ms on the {plain:.0f} ms of a "
            "block's clipped gradient (256 examples of 20 words).",
        ]
    )


def main() -> None:
    """Measures, prints, and writes a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--chosen", type=int, default=4_000)
    parser.add_argument("--capacity", type=int, default=16_384)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = measure(args.rows, args.width, args.chosen, args.capacity, args.turns)
    engine = gradient(args.rows, args.width, args.turns)
    text = report(found, args.rows, args.width, args.capacity, engine)
    print(text)
    if args.output is not None:
        command = f"python -m benchmarks.sparse --rows {args.rows} --turns {args.turns}"
        head = f"# The price of noise on every row\n\n`{command}`\n\n"
        args.output.write_text(head + text + "\n")


if __name__ == "__main__":
    main()
