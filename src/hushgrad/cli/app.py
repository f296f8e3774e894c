"""The commands, and how their errors reach the user."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hushgrad._version import __version__
from hushgrad.cli import budget, train
from hushgrad.cli.audit import audit
from hushgrad.cli.epsilon import epsilon
from hushgrad.cli.plan import plan
from hushgrad.cli.schema import schema
from hushgrad.cli.table import table
from hushgrad.errors import HushgradError

__all__ = ["app", "main"]

_USER_ERROR = 2

app = typer.Typer(
    help="Train models on people's data with a proven privacy guarantee.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train.app.command()(table)
app.add_typer(train.app, name="train")
app.add_typer(budget.app, name="budget")
app.command()(epsilon)
app.command()(plan)
app.command()(audit)
app.command()(schema)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hushgrad {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Options that stand before the command."""


def main() -> None:
    """Runs the command line; a mistake the user can mend ends with a message and status 2."""
    try:
        app()
    except HushgradError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(_USER_ERROR)
