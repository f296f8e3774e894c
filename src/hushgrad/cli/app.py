"""The commands, and how their errors reach the user."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer

from hushgrad._version import __version__
from hushgrad.cli import audit, budget, doctor, epsilon, plan, report, schema, table, train
from hushgrad.cli.command import PLAIN, Command, Group
from hushgrad.errors import HushgradError

__all__ = ["app", "main"]

_USER_ERROR, _FAULT = 2, 70

_EPILOG = """\b
Start with:  hushgrad train digits
Status: 0 done, 1 a check failed, 2 mend and repeat, 70 a bug, 130 interrupted"""

# As they are needed; typer itself would list groups last.
_ORDER = ("train", "plan", "epsilon", "report", "compare", "audit", "budget", "schema", "doctor")


class _Commands(Group):
    def list_commands(self, ctx: Any) -> list[str]:
        """Their names in the order of the help."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    help="Train models on people's data with a proven privacy guarantee.",
    epilog=_EPILOG,
    cls=_Commands,
    pretty_exceptions_enable=False,
    **PLAIN,
)
train.app.command(cls=Command, epilog=table.EXAMPLES)(table.table)
app.command(cls=Command, epilog=plan.EXAMPLES)(plan.plan)
app.add_typer(train.app, name="train")
app.command(cls=Command, epilog=schema.EXAMPLES)(schema.schema)
app.command(cls=Command, epilog=epsilon.EXAMPLES)(epsilon.epsilon)
app.add_typer(budget.app, name="budget")
app.command(cls=Command, epilog=audit.EXAMPLES)(audit.audit)
app.command(cls=Command, epilog=report.EXAMPLES)(report.report)
app.command(cls=Command, epilog=report.COMPARE_EXAMPLES)(report.compare)
app.command(cls=Command, epilog=doctor.EXAMPLES)(doctor.doctor)


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
    """Runs the command line.

    A mistake the user can mend ends with a message and status 2; a fault of hushgrad's own with
    its traceback and status 70, so that nobody takes it for status 1, a check that found a failure.
    """
    try:
        app()
    except HushgradError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(_USER_ERROR)
    except Exception:
        traceback.print_exc()
        typer.echo("error: this is a fault of hushgrad; please report what stands above", err=True)
        sys.exit(_FAULT)
