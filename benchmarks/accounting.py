"""How long the accountant takes, and how near its bounds are to each other.

    python -m benchmarks.accounting [--rounds 5] [--output FILE]

Beside `dp_accounting`'s PLD accountant, and `prv-accountant` where it is installed. All in
one process, in turns; medians, but of one call only for what takes over two seconds.
Nothing is taken from a cache: every call asks about a noise that was not asked about
before.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import pld

import hushgrad as hg
from hushgrad import accounting

__all__ = ["main"]

_PATIENCE = 2.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One run whose cost is asked for."""

    name: str
    rate: float
    noise: float
    steps: int
    delta: float
    epsilon: float

    def event(self, noise: float) -> dp_accounting.DpEvent:
        """With another noise multiplier."""
        return accounting.poisson_gaussian(self.rate, noise, self.steps)


CASES = (
    Case("60,000 / 256 / 1.1 / 60 epochs", 256 / 60_000, 1.1, 14_063, 1e-5, 3.0),
    Case("60,000 / 32 / 0.5 / 1 epoch", 32 / 60_000, 0.5, 1875, 1e-5, 3.0),
    Case("50,000 / 4,096 / 3.0 / 2,500 steps", 4096 / 50_000, 3.0, 2500, 1e-5, 3.0),
    Case("rate 1e-3, noise 100, 1e6 steps", 1e-3, 100.0, 10**6, 1e-5, 0.03),
    Case("rate 1, noise 0.1, 1 step", 1.0, 0.1, 1, 1e-5, 90.0),
    Case("1e9 / 1e5 / 1.0 / 1e5 steps, delta 1e-12", 1e-4, 1.0, 10**5, 1e-12, 0.3),
)


def _timed(call: Callable[[], Any], rounds: int) -> float:
    seconds: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > _PATIENCE:
            break
    return 1e3 * statistics.median(seconds)


def _noises(case: Case) -> Iterator[float]:
    """Noise multipliers that differ, so that nothing has been kept from before."""
    factor = 1.0
    while True:
        yield case.noise * factor
        factor *= 1 + 1e-7


def measure(case: Case, rounds: int) -> list[str]:
    """One line of the table."""
    noises = _noises(case)

    def ours() -> float:
        return accounting.epsilon(case.event(next(noises)), case.delta)

    def both() -> accounting.Interval:
        return accounting.epsilon_interval(case.event(next(noises)), case.delta)

    def theirs() -> float:
        accountant = pld.PLDAccountant()
        return accountant.compose(case.event(next(noises))).get_epsilon(case.delta)

    def calibrated() -> float:
        target = case.epsilon * (1 + 1e-9 * next(noises))
        return accounting.smallest_noise(case.event, target, case.delta)

    ours()  # imports
    low, high = both()
    return [
        case.name,
        f"{_timed(ours, rounds):.0f}",
        f"{_timed(both, rounds):.0f}",
        f"{_timed(calibrated, rounds):.0f}",
        f"{_timed(theirs, rounds):.0f}",
        f"{high:.5g}",
        f"{low:.5g}",
        f"{(high - low) / high:.3%}",
        f"{theirs():.5g}",
        _prv(case),
    ]


def _prv(case: Case) -> str:
    try:
        from prv_accountant import PRVAccountant  # pyright: ignore
        from prv_accountant.privacy_random_variables import (  # pyright: ignore
            PoissonSubsampledGaussianMechanism,
        )
    except ImportError:
        return "-"
    start = time.perf_counter()
    mechanism = PoissonSubsampledGaussianMechanism(
        noise_multiplier=case.noise, sampling_probability=case.rate
    )
    accountant = PRVAccountant(
        prvs=[mechanism],
        max_self_compositions=[case.steps],
        eps_error=0.01,
        delta_error=case.delta / 1000,
    )
    accountant.compute_epsilon(delta=case.delta, num_self_compositions=[case.steps])
    return f"{1e3 * (time.perf_counter() - start):.0f}"


def schedule(levels: int = 10_000) -> str:
    """A run whose noise is another at every step."""
    noises = np.geomspace(0.8, 2.0, levels)
    parts = [accounting.poisson_gaussian(0.004, float(noise), 1) for noise in noises]
    event = dp_accounting.ComposedDpEvent(parts)
    start = time.perf_counter()
    spent = accounting.epsilon(event, 1e-5)
    took = time.perf_counter() - start
    return (
        f"A schedule of {levels:,} noise levels from 0.8 to 2: {took:.1f} s (epsilon {spent:.4f})."
    )


def running() -> str:
    """Asked after every step."""
    case = CASES[0]
    spent = accounting.running(case.event(case.noise), case.delta)
    seconds = []
    for step in range(1, case.steps + 1, 37):
        start = time.perf_counter()
        spent(step)
        seconds.append(time.perf_counter() - start)
    late = statistics.median(seconds[len(seconds) // 10 :])
    return (
        f"One step more in a running total of the first case: {1e3 * late:.2f} ms (median after "
        f"the first tenth of the run; the first steps take up to {1e3 * max(seconds):.0f} ms)."
    )


def report(rounds: int) -> str:
    """The page of results."""
    head = [
        *("case", "epsilon ms", "both bounds ms", "noise from epsilon ms", "dp_accounting ms"),
        *("epsilon", "lower bound", "gap", "dp_accounting's", "prv ms"),
    ]
    lines = [head, ["---"] * len(head), *(measure(case, rounds) for case in CASES)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("dp-accounting", "numpy", "scipy")
    )
    return "\n\n".join(
        [
            "# Accounting: time and certainty",
            "Median milliseconds; epsilon is an upper bound, and no epsilon under the lower bound\n"
            "holds. Cases are examples / batch size / noise multiplier / length.",
            table,
            schedule(),
            running(),
            f"Command: `python -m benchmarks.accounting --rounds {rounds}`",
            f"Python {platform.python_version()}, hushgrad {hg.__version__}, {versions}; "
            f"{platform.machine()}, {os.cpu_count()} cores.",
        ]
    )


def main() -> None:
    """Measures all cases and prints or writes the page."""
    parser = argparse.ArgumentParser(description="time and certainty of the accountant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    args = parser.parse_args()
    page = report(args.rounds) + "\n"
    print(page)
    if args.output:
        args.output.write_text(page)


if __name__ == "__main__":
    main()
