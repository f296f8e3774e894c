"""Private against ordinary gradients: time, ratio and temporary memory.

    python -m benchmarks.steps [--rounds 30] [--models cnn mlp] [--output FILE]

Both are compiled in one process and called in turns, so that both meet the same
machine; medians are compared. Only the gradient is timed: no noise, no optimizer,
no data loading. Temporary memory is what XLA plans for the compiled program.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import hushgrad as hg
from benchmarks.models import MODELS, Model

__all__ = ["main", "measure"]

_WARM_UP = 3


def measure(model: Model, rounds: int) -> dict[str, float]:
    """Medians in milliseconds and temporary memory in MiB."""

    def mean_loss(params: Any, *batch: Any) -> Any:
        return jnp.mean(jax.vmap(model.loss, (None, *(0 for _ in batch)))(params, *batch))

    clipped = hg.clipped_grad(model.loss, clip=1.0)
    ways = {
        "ordinary": jax.grad(mean_loss),
        "private": lambda params, *batch: clipped(params, *batch).grads,
    }
    compiled = {
        name: jax.jit(way).lower(model.params, *model.batch).compile() for name, way in ways.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + _WARM_UP):
        for name, program in compiled.items():
            spent = _timed(program, model)
            if round_ >= _WARM_UP:
                seconds[name].append(spent)
    result = {f"{name} ms": statistics.median(s) * 1e3 for name, s in seconds.items()}
    for name, program in compiled.items():
        analysis = program.memory_analysis()
        result[f"{name} MiB"] = analysis.temp_size_in_bytes / 2**20 if analysis else float("nan")
    return result


def _timed(program: Callable[..., Any], model: Model) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(model.params, *model.batch))
    return time.perf_counter() - start


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    lines = [
        "| model | ordinary ms | private ms | ratio | ordinary MiB | private MiB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['ordinary ms']:.1f} | {r['private ms']:.1f} | "
            f"{r['private ms'] / r['ordinary ms']:.2f} | {r['ordinary MiB']:.1f} | "
            f"{r['private MiB']:.1f} | {r['private MiB'] / r['ordinary MiB']:.2f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Where and with what the numbers were measured."""
    versions = f"hushgrad {hg.__version__}, jax {jax.__version__}"
    device = jax.devices()[0].device_kind
    return (
        f"Python {platform.python_version()}, {versions}; {device} ({platform.machine()}), "
        f"{os.cpu_count()} cores."
    )


def main() -> None:
    """Measures the chosen models and prints or writes the table."""
    parser = argparse.ArgumentParser(description="private against ordinary gradients")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    args = parser.parse_args()
    models = [MODELS[name]() for name in args.models]
    shown = table({model.name: measure(model, args.rounds) for model in models})
    print(shown)
    if args.output:
        args.output.write_text(
            "# Steps: private against ordinary gradients\n\n"
            f"Medians of {args.rounds} alternating calls in one process; temporary memory as XLA\n"
            "plans it for the compiled program. Gradients only: no noise, no optimizer.\n\n"
            f"{shown}\n\nCommand: `python -m benchmarks.steps --rounds {args.rounds}`\n\n"
            f"{machine()}\n"
        )


if __name__ == "__main__":
    main()
