"""How soon the planner's page answers a move: epsilon, and all that stands beside it.

    python -m benchmarks.planner [--rounds 20] [--output FILE]

Times what the page computes for one move of a slider, by itself: the number on top with what an
attacker gains and the code to copy, and the table of every accountant after it. Each move is to a
setting that was not asked for before, as on the page. Medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path

import numpy

import hushgrad as hg
from hushgrad.cli.planner.facts import Settings, code, facts, ways

__all__ = ["main", "measure"]

CASES = {
    "MNIST, 15 epochs": Settings(),
    "MNIST, 60 epochs": Settings(epochs=60),
    "1,000 records, large batches": Settings(examples=1000, batch_size=250, epochs=50, delta=1e-4),
    "a million records": Settings(examples=1_000_000, batch_size=4096, epochs=10, delta=1e-7),
    "100 million, small batches": Settings(
        examples=100_000_000, batch_size=1000, epochs=10, delta=1e-9
    ),
}


def measure(start: Settings, rounds: int) -> tuple[float, float]:
    """Median milliseconds to the first answer, and to the whole."""
    first, whole = [], []
    for turn in range(rounds):
        moved = dataclasses.replace(start, noise_multiplier=start.noise_multiplier + turn / 100)
        began = time.perf_counter()
        facts(moved)
        code(moved)
        first.append(time.perf_counter() - began)
        ways(moved)
        whole.append(time.perf_counter() - began)
    return 1000 * statistics.median(first), 1000 * statistics.median(whole)


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("docs/results/planner.md"))
    args = parser.parse_args()
    lines = ["| plan | steps | epsilon shown, ms | and every accountant, ms |", "|---|---|---|---|"]
    for name, settings in CASES.items():
        measure(settings, 2)
        first, whole = measure(settings, args.rounds)
        steps = settings.mechanism()[0].steps
        lines.append(f"| {name} | {steps:,} | {first:.0f} | {whole:.0f} |")
        print(lines[-1], flush=True)
    parts = [
        "# How soon the planner's page answers",
        f"`python -m benchmarks.planner --rounds {args.rounds}`",
        f"hushgrad {hg.__version__}, numpy {numpy.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores. What `hushgrad plan --ui` "
        "computes for one move of a slider, without the browser; the table of accountants comes "
        "after the number, and of many moves only the last is computed.",
        "\n".join(lines),
    ]
    args.output.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
