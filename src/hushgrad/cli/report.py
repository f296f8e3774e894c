"""`hushgrad report` and `hushgrad compare`: what runs spent, for who signs and who debugs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hushgrad.cli.command import examples

__all__ = ["COMPARE_EXAMPLES", "EXAMPLES", "compare", "report"]

EXAMPLES = examples(
    "hushgrad report runs/mine",
    "hushgrad report runs/mine --public -o public.html --title 'Model of 2026'",
    "hushgrad report runs/mine --json",
)
COMPARE_EXAMPLES = examples(
    "hushgrad compare runs/a runs/b",
    "hushgrad compare runs/* -o compare.html",
)

_NOT_TRUSTED = 1
_NAME = 26

Run = Annotated[
    Path, typer.Argument(help="Directory of a run or of a tuning, or the ledger of a Keras model.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The HTML file to write.", show_default=True)
]
Public = Annotated[
    bool,
    typer.Option("--public", help="Leave out what carries no noise or names people and machines."),
]
Metrics = Annotated[
    Path | None,
    typer.Option(help="Lines of hg.callbacks.JsonLines. [default: metrics.jsonl in the run]"),
]
Title = Annotated[
    str | None, typer.Option(help="Of the report. [default: the directory's name; none if public]")
]
Training = Annotated[
    str | None, typer.Option(help="Of a Keras ledger with several: how the run's name begins.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts instead, for machines.")]
Runs = Annotated[list[Path], typer.Argument(help="Directories of runs.")]
Picture = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write an HTML file with a plot.")
]
Delta = Annotated[
    float | None, typer.Option(help="At which all epsilons are computed. [default: each run's own]")
]


def report(
    run: Run,
    output: Output = Path("report.html"),
    public: Public = False,
    metrics: Metrics = None,
    title: Title = None,
    training: Training = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's privacy as one HTML file.

    Status 1 if its ledger cannot be trusted.

    Everything promised is computed anew from the ledger, row by row. A run that goes on or was
    broken off is told as what it spent so far.
    """
    from hushgrad.report import facts
    from hushgrad.report.page import rendered

    told = facts(run, public=public, metrics=metrics, title=title, training=training)
    if as_json:
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
    else:
        _write(output, rendered(told), for_all=public)
        typer.echo(_told(told, output))
    if not told["trusted"]:
        typer.echo("error: the ledger cannot be trusted; nothing is promised", err=True)
        raise typer.Exit(_NOT_TRUSTED)


def compare(
    runs: Runs, output: Picture = None, delta: Delta = None, as_json: AsJson = False
) -> None:
    """Set runs side by side: accuracy and epsilon.

    Status 1 if a ledger cannot be trusted.

    Not for publication: scores carry no noise.
    """
    from hushgrad.report import comparison, comparison_html

    told = comparison(runs, delta=delta)
    if output is not None:
        _write(output, comparison_html(runs, delta=delta), for_all=False)
    if as_json:
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
    else:
        _table(told)
        if output is not None:
            typer.echo(f"Written to {output}")
    if not all(row["trusted"] for row in told["runs"]):
        raise typer.Exit(_NOT_TRUSTED)


def _told(told: dict[str, Any], output: Path) -> str:
    run, privacy = told["run"], told["privacy"]
    heads = [one["head"] for one in told["notices"]]
    for_whom = "may be published" if told["public"] else "not for publication: it holds more"
    lines = [f"Written to {output} ({for_whom})."]
    if privacy is not None:
        epsilon = privacy["epsilon"]
        spent = "infinite" if epsilon is None else f"{epsilon:.4f}"
        lines.insert(
            0,
            f"{run['state'].capitalize()}: epsilon {spent} at delta {privacy['delta']:g} after "
            f"{run['steps_charged']:,} of {run['steps_planned']:,} steps.",
        )
    if heads:
        lines.insert(len(lines) - 1, f"Mind: {'; '.join(heads)}.")
    return "\n".join(lines)


def _write(file: Path, text: str, *, for_all: bool) -> None:
    """Replaces a file; what is not for publication is for its owner alone."""
    from hushgrad.errors import InputError

    try:
        file.unlink(missing_ok=True)
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if for_all else 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(
            f"output {str(file)!r} cannot be written ({error.strerror}); name another file"
        ) from error


def _table(told: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", no_wrap=True, max_width=_NAME)
    for name in ("epsilon", "delta", "score", "steps", "noise"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in told["runs"]:
        state = row["state"] if row["trusted"] else "NOT TRUSTED"
        # Names are the users': no markup is read in them.
        table.add_row(Text(row["name"]), *_cells(row), state)
    console = Console(highlight=False, width=80)
    console.print(table)
    for row in told["runs"]:
        for missing in row["missing"]:
            console.print(Text(f"{row['name']}: {missing}"))
    for remark in told["remarks"]:
        console.print(Text(remark))


def _cells(row: dict[str, Any]) -> list[str]:
    share = row["score"] is not None and row["score_name"] != "test_rmse" and row["score"] <= 1
    score = "-" if row["score"] is None else f"{row['score']:.2%}" if share else ""
    made, planned, noise = row["steps_charged"], row["steps_planned"], row["noise_multiplier"]
    return [
        "unknown" if row["epsilon"] is None else f"{row['epsilon']:.4f}",
        f"{row['delta']:g}",
        score or f"{row['score']:.4g}",
        f"{made:,}" if made == planned else f"{made:,}/{planned:,}",
        f"{noise[0]:.4g}" if len(noise) == 1 else f"{len(noise)} phases",
    ]
