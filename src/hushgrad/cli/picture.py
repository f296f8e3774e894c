"""The picture of every bound over the steps of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hushgrad import accounting
from hushgrad.errors import InputError

if TYPE_CHECKING:
    from hushgrad.accounting import Calibration

__all__ = ["bounds_over_steps"]

_POINTS = 16
_STYLES = {"upper bound": "-", "approximation": "--", "lower bound": ":"}


def bounds_over_steps(row: Calibration, file: Path) -> None:
    """Draws epsilon by every way of accounting over the steps of a plan.

    Raises:
      InputError: if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "--plot needs matplotlib; install it with: pip install 'hushgrad[plot]'"
        ) from error
    rate = row.batch_size / row.examples
    steps = np.unique(np.geomspace(1, row.steps, _POINTS).astype(int))
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for count in steps:
        event = accounting.poisson_gaussian(rate, row.noise_multiplier, int(count))
        for bound in accounting.bounds(event, row.delta):
            if 0 < bound.epsilon < math.inf:
                name = (bound.name, bound.kind)
                curves.setdefault(name, []).append((int(count), bound.epsilon))
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for (name, kind), points in curves.items():
        label = name if kind == "upper bound" else f"{name} ({kind})"
        axes.plot(*zip(*points, strict=True), _STYLES[kind], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel(f"epsilon at delta = {row.delta:g}")
    axes.set_title(
        f"{row.examples:,} examples, batch size {row.batch_size:,}, noise multiplier "
        f"{row.noise_multiplier:.4g}"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise InputError(f"plot cannot be written to {str(file)!r}: {error}") from error
