"""`hushgrad plan`: what to run for a given epsilon."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hushgrad.accounting import Calibration

__all__ = ["plan"]

_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_EPOCHS = (1.0, 5.0, 15.0, 30.0, 60.0)
# Beyond this share of the data in one batch there is little left to gain.
_LARGEST_SHARE = 0.25

Examples = Annotated[int, typer.Option("--examples", "--N", help="Number of examples.")]
Epsilon = Annotated[float, typer.Option("--epsilon", help="Privacy budget.")]
Delta = Annotated[float, typer.Option("--delta", help="Probability that the promise may fail.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "--batch_size", help="Expected batch size.")
]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Passes over the data.")]
Accountant = Annotated[str, typer.Option("--accountant", help="pld (tight) or rdp.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Picture of every bound over the steps (needs matplotlib)."),
]


def plan(
    examples: Examples,
    epsilon: Epsilon,
    delta: Delta = 1e-5,
    batch_size: BatchSize = None,
    epochs: Epochs = None,
    accountant: Accountant = "pld",
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """How much noise a budget takes; without --batch-size or --epochs, a table over them."""
    from hushgrad.accounting import calibrate

    batches = (batch_size,) if batch_size is not None else _batches(examples)
    passes = (epochs,) if epochs is not None else _EPOCHS
    rows = [
        calibrate(
            examples=examples,
            batch_size=batch,
            epochs=count,
            epsilon=epsilon,
            delta=delta,
            accountant=accountant,
        )
        for batch in batches
        for count in passes
    ]
    if plot is not None:
        _draw(_best(rows), plot)
    if as_json:
        found = [{**dataclasses.asdict(row), "epochs": row.epochs} for row in rows]
        typer.echo(json.dumps(found, indent=2))
    elif len(rows) == 1:
        _one(rows[0])
    else:
        _table(rows, batches, passes, epsilon)
    if plot is not None and not as_json:
        typer.echo(f"\nEvery bound over the steps: {plot}")


def _batches(examples: int) -> tuple[int, ...]:
    fitting = tuple(b for b in _BATCHES if b <= _LARGEST_SHARE * examples)
    return fitting or (max(1, examples // 4),)


def _ratio(row: Calibration) -> float:
    """Standard deviation of the noise on the mean gradient, in clips: what costs accuracy."""
    return row.noise_multiplier / row.batch_size


def _best(rows: list[Calibration]) -> Calibration:
    """The least noise on a mean gradient, by step and by the square root of how many."""
    return min(rows, key=lambda row: _ratio(row) / row.steps**0.5)


def _one(row: Calibration) -> None:
    typer.echo(
        f"noise multiplier {row.noise_multiplier:.5g}\n"
        f"epsilon {row.epsilon:.4f} at delta {row.delta:g} "
        f"({row.accountant.upper()}, Poisson sampling, add-or-remove-one)\n"
        f"{row.examples:,} examples, batch size {row.batch_size:,}, {row.steps:,} steps "
        f"({row.epochs:.4g} epochs)\n"
        f"noise on a mean gradient: {_ratio(row):.3g} clips"
    )


def _table(
    rows: list[Calibration],
    batches: tuple[int, ...],
    passes: tuple[float, ...],
    epsilon: float,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    best = _best(rows)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"noise multiplier (noise on a mean gradient, in clips) for epsilon {epsilon:g}",
        title_justify="left",
    )
    table.add_column("batch", justify="right")
    for count in passes:
        table.add_column(f"{count:g} epochs" if count != 1 else "1 epoch", justify="right")
    cells = iter(rows)
    for batch in batches:
        line = []
        for _ in passes:
            row = next(cells)
            mark = "*" if row is best else " "
            line.append(f"{row.noise_multiplier:.3g} ({_ratio(row):.2g}){mark}")
        table.add_row(f"{batch:,}", *line)
    Console(highlight=False).print(table)
    typer.echo(
        "* the least noise in all: noise on a mean gradient over the square root of the steps.\n"
        "A larger batch costs more computing for every step; take the largest that you can\n"
        "afford, then as many epochs as still help."
    )


def _draw(row: Calibration, file: Path) -> None:
    """Epsilon after every step, by each accountant."""
    from hushgrad.cli.picture import bounds_over_steps

    bounds_over_steps(row, file)
