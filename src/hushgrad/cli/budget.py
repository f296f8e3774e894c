"""`hushgrad budget`: what may be spent on a data set, what is, and by which runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hushgrad.cli.command import PLAIN, Command, Group, examples

if TYPE_CHECKING:
    from hushgrad.training import Budget

__all__ = ["app"]

app = typer.Typer(help="Hold a data set's privacy budget across runs.", cls=Group, **PLAIN)

_CREATE = examples("hushgrad budget create patients-2026 --epsilon 5 --delta 1e-5")
_SHOW = examples("hushgrad budget show patients-2026", "hushgrad budget show patients-2026 --json")
_RUNS = examples("hushgrad budget runs patients-2026")
_CLOSE = examples("hushgrad budget close patients-2026 3f2a")
_VERIFY = examples(
    "hushgrad budget verify patients-2026", "hushgrad budget verify patients-2026 --head HASH"
)

_BAR = 40

Name = Annotated[str, typer.Argument(help="Of the data set's budget.")]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="HUSHGRAD_BUDGETS",
        help="Database: sqlite:///FILE or postgresql://... [default: a file of the user's own]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines.")]


@app.command(cls=Command, epilog=_CREATE)
def create(
    name: Name,
    epsilon: Annotated[float, typer.Option(help="The total that may ever be spent.")],
    delta: Annotated[float, typer.Option(help="At which epsilon is counted.")],
    relation: Annotated[
        str, typer.Option(help="add-or-remove-one, replace-special or replace-one.")
    ] = "add-or-remove-one",
    unit: Annotated[str, typer.Option(help="example, user, or, say, 'group of 4'.")] = "example",
    accountant: Annotated[str, typer.Option(help="pld (tight) or rdp.")] = "pld",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a budget.

    One that is there with the same total stays as it is.
    """
    from hushgrad.training import Budget

    budget = Budget(
        name,
        epsilon,
        delta,
        url=url,
        neighbouring_relation=relation,
        unit=unit,
        accountant=accountant,
    )
    _told(budget, as_json)


@app.command(cls=Command, epilog=_SHOW)
def show(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """What is left, and what holds the rest."""
    _told(_opened(name, url), as_json)


@app.command(cls=Command, epilog=_RUNS)
def runs(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """All runs, with what each costs by itself."""
    budget = _opened(name, url)
    facts = budget.to_dict()["runs"]
    if as_json:
        _print_json(facts)
        return
    if not facts:
        typer.echo(f"No run holds anything of {name!r}.")
    for run in facts:
        typer.echo(
            f"{run['name']}  {run['status']}\n"
            f"    {run['charged']:,} of {run['steps']:,} steps charged; counts as epsilon "
            f"{run['epsilon_alone']:.4g} alone\n"
            f"    since {run['opened_at'][:19]} UTC"
            + (f"\n    {run['directory']}" if run["directory"] else "")
        )


@app.command(cls=Command, epilog=_CLOSE)
def close(
    name: Name,
    run: Annotated[str, typer.Argument(help="Its name, or the beginning of it.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """End a run that died: what it did not charge is given back."""
    from hushgrad.errors import InputError

    budget = _opened(name, url)
    before = budget.epsilon_held
    found = [r for r in budget.runs if r.status == "open" and r.name.startswith(run)]
    if len(found) != 1:
        held = ", ".join(r.name for r in budget.runs if r.status == "open") or "none"
        raise InputError(f"run must name one open run ({held}), got {run!r}")
    budget.close(found[0].name)
    (closed,) = [r for r in budget.runs if r.name == found[0].name]
    if as_json:
        after = {"epsilon_held_before": before, "epsilon_held": budget.epsilon_held}
        _print_json({"name": closed.name, "charged": closed.charged, **after})
        return
    typer.echo(
        f"Closed {closed.name} after {closed.charged:,} charged steps: epsilon {before:.4g} "
        f"held before, {budget.epsilon_held:.4g} now."
    )


@app.command(cls=Command, epilog=_VERIFY)
def verify(
    name: Name,
    head: Annotated[
        str | None, typer.Option(help="A hash noted earlier: nothing up to it may have changed.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Check that nobody changed the ledger.

    With --head, also that nobody cut it off or wrote it anew.
    """
    budget = _opened(name, url)
    rows = budget.verify(head)
    if as_json:
        _print_json({"rows": rows, "head": budget.head})
        return
    counted = "1 row" if rows == 1 else f"{rows:,} rows"
    typer.echo(f"{counted}, each following from those before it.\nhead {budget.head}")


def _opened(name: str, url: str | None) -> Budget:
    from hushgrad.training import Budget

    return Budget(name, url=url)


def _told(budget: Budget, as_json: bool) -> None:
    if as_json:
        _print_json(budget.to_dict())
    else:
        _show(budget)


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def _show(budget: Budget) -> None:
    held, total = budget.epsilon_held, budget.epsilon
    filled = min(_BAR, round(_BAR * held / total))
    runs = budget.runs
    still = sum(run.status == "open" for run in runs)
    typer.echo(
        f"{budget.name}: epsilon {held:.4g} of {total:g} held at delta {budget.delta:g}\n"
        f"[{'#' * filled}{'.' * (_BAR - filled)}] {held / total:.0%}\n"
        f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {still} open; unit {budget.unit}, "
        f"{budget.neighbouring_relation}, composed by {budget.accountant}\n"
        f"head {budget.head}"
    )
