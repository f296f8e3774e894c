"""Private against ordinary gradients: time, ratio and temporary memory.

    python -m benchmarks.steps [--rounds 30] [--models cnn lstm] [--no-peers] [--output FILE]

Everything is compiled in one process and called in turns, so that all meet the same
machine; medians are compared. Only the gradient is timed: no noise, no optimizer,
no data loading. Temporary memory is what XLA plans for the compiled program.
JAX-Privacy, PyTorch and Opacus run beside it where they are installed (extra `bench`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import hushgrad as hg
from benchmarks.models import LARGE, MODELS, Model
from benchmarks.peers import OPACUS_MODES, missing, peers

__all__ = ["main", "measure"]

_WARM_UP = 2
# Seconds: what takes longer, as some peers do, is timed once.
_PATIENCE = 2.0
_PEERS = ("jax-privacy", "torch", *(f"opacus {mode}" for mode in OPACUS_MODES))


def measure(model: Model, rounds: int, *, with_peers: bool) -> dict[str, float]:
    """Medians in milliseconds, and for our own programs temporary memory in MiB."""

    def mean_loss(params: Any, *batch: Any) -> Any:
        return jnp.mean(jax.vmap(model.loss, (None, *(0 for _ in batch)))(params, *batch))

    clipped = hg.clipped_grad(model.loss, clip=1.0)
    programs = {
        "ordinary": jax.grad(mean_loss),
        "private": lambda params, *batch: clipped(params, *batch).grads,
    }
    compiled = {
        name: jax.jit(program).lower(model.params, *model.batch).compile()
        for name, program in programs.items()
    }
    steps: dict[str, Callable[[], Any]] = {
        name: lambda program=program: jax.block_until_ready(program(model.params, *model.batch))
        for name, program in compiled.items()
    }
    if with_peers:
        steps.update(peers(model))
    result = {f"{name} ms": ms for name, ms in _alternate(steps, rounds).items()}
    for name, program in compiled.items():
        analysis = program.memory_analysis()
        result[f"{name} MiB"] = analysis.temp_size_in_bytes / 2**20 if analysis else float("nan")
    return result


def _alternate(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Every step's median time over rounds of one timed call each, in milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + _WARM_UP):
        for name, step in steps.items():
            if max(seconds[name], default=0) > _PATIENCE:
                continue
            # Threads of the library that ran before spin for a while: the first call is not timed.
            step()
            start = time.perf_counter()
            step()
            took = time.perf_counter() - start
            if round_ >= _WARM_UP or took > _PATIENCE:
                seconds[name].append(took)
    return {name: statistics.median(s) * 1e3 for name, s in seconds.items()}


def table(results: dict[str, dict[str, float]]) -> str:
    """Private against ordinary, as Markdown."""
    rows = [
        (
            name,
            f"{r['ordinary ms']:.1f}",
            f"{r['private ms']:.1f}",
            f"{r['private ms'] / r['ordinary ms']:.2f}",
            f"{r['ordinary MiB']:.1f}",
            f"{r['private MiB']:.1f}",
            f"{r['private MiB'] / r['ordinary MiB']:.2f}",
        )
        for name, r in results.items()
    ]
    head = "model,ordinary ms,private ms,ratio,ordinary MiB,private MiB,ratio"
    return _markdown(head.split(","), rows)


def peer_table(results: dict[str, dict[str, float]]) -> str | None:
    """Absolute milliseconds beside the peers', as Markdown; None without any peer."""
    columns = [name for name in _PEERS if any(f"{name} ms" in r for r in results.values())]
    if not columns:
        return None
    opacus = [f"opacus {mode} ms" for mode in OPACUS_MODES]
    rows = []
    for name, r in results.items():
        best = min((r[mode] for mode in opacus if mode in r), default=None)
        rows.append(
            (
                name,
                f"{r['private ms']:.1f}",
                f"{r['ordinary ms']:.1f}",
                *(f"{r[f'{column} ms']:.1f}" if f"{column} ms" in r else "-" for column in columns),
                f"{r['private ms'] / best:.2f}" if best else "-",
            )
        )
    return _markdown(
        ["ms", "hushgrad", "ordinary JAX", *columns, "hushgrad / best of Opacus"], rows
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Where and with what the numbers were measured."""
    packages = ("jax", "jaxlib", "jax-privacy", "torch", "opacus")
    versions = [f"Python {platform.python_version()}", f"hushgrad {hg.__version__}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0].device_kind
    return f"{', '.join(versions)}; {device} ({platform.machine()}), {os.cpu_count()} cores."


def report(results: dict[str, dict[str, float]], rounds: int, command: str) -> str:
    """The page of results."""
    beside = peer_table(results)
    absent = missing()
    parts = [
        "# Steps: private against ordinary gradients",
        f"Medians of {rounds} alternating calls in one process (one call of what takes over\n"
        f"{_PATIENCE:g} s); temporary memory as XLA plans it for the compiled program. Gradients\n"
        "only: no noise, no optimizer.",
        table(results),
    ]
    if beside:
        parts.append("Beside other libraries, on the same networks and in the same run:")
        parts.append(beside)
    if absent:
        parts.append(f"Not installed, so left out: {', '.join(absent)}.")
    return "\n\n".join([*parts, f"Command: `{command}`", machine()]) + "\n"


def main() -> None:
    """Measures the chosen models and prints or writes the tables."""
    accelerator = jax.default_backend() != "cpu"
    usual = [name for name in MODELS if accelerator or name not in LARGE]
    parser = argparse.ArgumentParser(description="private against ordinary gradients")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=usual)
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    args = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name in args.models:
        model = MODELS[name]()
        # The peers run on the CPU; beside an accelerator they would say nothing.
        with_peers = not args.no_peers and not accelerator
        results[model.name] = measure(model, args.rounds, with_peers=with_peers)
        print(table({model.name: results[model.name]}).splitlines()[-1], flush=True)
    command = f"python -m benchmarks.steps --rounds {args.rounds}"
    page = report(results, args.rounds, command)
    print(page)
    if args.output:
        args.output.write_text(page)


if __name__ == "__main__":
    main()
