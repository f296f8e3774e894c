"""`hushgrad epsilon`: what a run costs, by every accountant."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hushgrad.cli.command import examples

if TYPE_CHECKING:
    from hushgrad.mechanism import Mechanism

__all__ = ["EXAMPLES", "epsilon"]

EXAMPLES = examples(
    "hushgrad epsilon --examples 60000 --batch-size 256 --noise-multiplier 1.1 \\",
    "    --epochs 60",
    "hushgrad epsilon --examples 60000 --batch-size 256 --noise-multiplier 1.1 \\",
    "    --epochs 60 --sampling shuffle --json",
)

# The second spellings are those of TensorFlow Privacy's command.
Examples = Annotated[int, typer.Option("--examples", "--N", help="Number of examples.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "--batch_size", help="(Expected) batch size.")
]
Noise = Annotated[
    float, typer.Option("--noise-multiplier", "--noise_multiplier", help="Noise over clip.")
]
Epochs = Annotated[float, typer.Option("--epochs", help="Passes over the data.")]
Delta = Annotated[float, typer.Option("--delta", help="Probability that the promise may fail.")]
Sampling = Annotated[
    str, typer.Option("--sampling", help="How batches are drawn: poisson or shuffle.")
]
Users = Annotated[
    int | None,
    typer.Option(
        "--max-examples-per-user",
        "--max_examples_per_user",
        help="Also for users with so many examples.",
    ),
]
Microbatching = Annotated[
    bool,
    typer.Option(
        "--used-microbatching",
        "--used_microbatching",
        help="Several examples were clipped together: the noise counts half.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines.")]


def epsilon(
    examples: Examples,
    batch_size: BatchSize,
    noise_multiplier: Noise,
    epochs: Epochs,
    delta: Delta = 1e-5,
    sampling: Sampling = "poisson",
    max_examples_per_user: Users = None,
    used_microbatching: Microbatching = False,
    as_json: AsJson = False,
) -> None:
    """What a run costs, by every accountant.

    Epsilon of DP-SGD by each way of accounting, and the privacy statement.
    """
    from hushgrad import accounting
    from hushgrad import sampling as samplers
    from hushgrad.cli.mechanisms import made
    from hushgrad.errors import InputError

    known = {sampler.kind: sampler for sampler in samplers.SAMPLERS}
    if sampling not in known:
        raise InputError(f"sampling must be one of {', '.join(known)}, got {sampling!r}")
    m = made(
        examples=examples,
        batch_size=batch_size,
        epochs=epochs,
        noise_multiplier=noise_multiplier,
        delta=delta,
        sampling=known[sampling],
    )
    more: dict[str, Any] = {
        "max_examples_per_user": max_examples_per_user,
        "microbatching": used_microbatching,
    }
    # An example that is replaced moves the mean of its microbatch by two clips.
    counts = dataclasses.replace(m, noise_multiplier=noise_multiplier / 2)
    bounded = counts if used_microbatching else m
    if as_json:
        facts = accounting.statement_facts(m, **more)
        typer.echo(json.dumps({**facts, "bounds": _rows(bounded)}, indent=2, allow_nan=False))
        return
    # Mistakes end the command before anything is shown.
    statement = m.statement(**more)
    _table(bounded)
    typer.echo(statement)


def _rows(m: Mechanism) -> list[dict[str, Any]]:
    from hushgrad import accounting

    rows = accounting.bounds(m, m.delta)
    return [
        {
            "name": row.name,
            "epsilon": row.epsilon if row.epsilon < float("inf") else None,
            "kind": row.kind,
            "source": row.source,
        }
        for row in rows
    ]


def _table(m: Mechanism) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"epsilon at delta {m.delta:g}", title_justify="left")
    table.add_column("accounting")
    table.add_column("epsilon", justify="right")
    table.add_column("")
    table.add_column("source", overflow="fold")
    for row in _rows(m):
        worth = "infinite" if row["epsilon"] is None else f"{row['epsilon']:,.4f}"
        table.add_row(row["name"], worth, row["kind"], row["source"])
    Console(highlight=False).print(table)
