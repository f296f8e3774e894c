"""`hushgrad schema`: a draft of what is declared of a table's columns."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hushgrad.cli.command import examples
from hushgrad.cli.train import AsJson, BudgetName, BudgetUrl, Delta, Seed, opened_budget

if TYPE_CHECKING:
    from hushgrad.summaries import Noisy
    from hushgrad.training import Budget

__all__ = ["EXAMPLES", "schema"]

EXAMPLES = examples(
    "hushgrad schema --data adult.csv --label income -o adult.toml",
    "hushgrad schema --data adult.csv --label income -o adult.toml \\",
    "    --spend-epsilon 0.1",
)

_HEAD = """\
# What is public of {file}; see hushgrad train table --help.
#
# bounds and categories come from public knowledge: a form, a law, a code book. Taken from the
# records they would tell of them. What is outside the bounds is clipped to them, and a name that
# is not listed counts as "other". kind = "ignored" leaves a column out. A number may have
# scale = "log", where most values are near its least, and knots = 0, for a straight line.
"""
_ESTIMATED = """\
#
# Bounds and categories below were ESTIMATED from the records, at the price in [spent], which
# every run that uses this file counts. What you know better may be changed.
"""

Data = Annotated[Path, typer.Option(help="CSV with names in its first line, or Parquet.")]
Label = Annotated[str, typer.Option(help="Column to predict.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The TOML file to write.")]
Spend = Annotated[
    float | None,
    typer.Option(help="Estimate kinds, bounds and categories from the records at this epsilon."),
]
Missing = Annotated[
    list[str] | None, typer.Option(help="A text for a value that is not there; again for more.")
]
AsCategory = Annotated[
    list[str] | None,
    typer.Option("--category", help="A column whose numbers are names; again for more."),
]


def schema(
    data: Data,
    label: Label,
    output: Output,
    spend_epsilon: Spend = None,
    delta: Delta = 1e-5,
    missing: Missing = None,
    category: AsCategory = None,
    seed: Seed = None,
    budget: BudgetName = None,
    budget_url: BudgetUrl = None,
    as_json: AsJson = False,
) -> None:
    """Draft what is declared of a table's columns.

    From the file's names and declared types, or, with --spend-epsilon, estimated from its records
    with noise.
    """
    from hushgrad.datasets.table import column_names
    from hushgrad.errors import InputError

    names, categories = column_names(data), list(category or [])
    for name, chosen in (("--label", [label]), ("--category", categories)):
        if unknown := [n for n in chosen if n not in names]:
            raise InputError(f"{name} must be a column of {str(data)!r}, {names}, got {unknown}")
    opened = opened_budget(budget, budget_url)
    if opened is not None and spend_epsilon is None:
        raise InputError("--budget needs --spend-epsilon: a draft from names costs nothing")
    absent = ["", *(text for text in missing or [] if text)]
    try:
        # Before anything is spent; a schema that is there may hold what was spent on it.
        file = output.open("x", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output {output} cannot be made ({error.strerror})") from error
    try:
        with file:
            head = _HEAD.format(file=data.name)
            if spend_epsilon is None:
                entries, spent = _drafted(data, names, categories), ""
            else:
                head += _ESTIMATED
                entries, spent = _estimated(
                    data, categories, absent, spend_epsilon, delta, opened, seed
                )
            listed = f"label = {_text(label)}\nmissing = {_texts(absent)}\n"
            tables = "".join(f"\n[columns.{_text(n)}]\n{entry}" for n, entry in entries.items())
            file.write(f"{head}\n{listed}{tables}{spent}")
    except BaseException:
        output.unlink()
        raise
    _tell(output, entries, spend_epsilon is not None, as_json)


def _drafted(data: Path, names: list[str], categories: list[str]) -> dict[str, str]:
    from hushgrad.datasets.table import column_kinds

    kinds = {name: "category" if name in categories else None for name in names}
    declared = column_kinds(data)
    return {name: _entry(kind or declared.get(name)) for name, kind in kinds.items()}


def _entry(kind: str | None, bounds: Any = None, categories: Any = None) -> str:
    """What a file says of one column, with marks where somebody has to fill it in."""
    from hushgrad.datasets.schema import FILL_IN

    if kind == "number":
        known = _numbers(bounds) if bounds else f'["{FILL_IN}: least", "{FILL_IN}: largest"]'
        return f'kind = "number"\nbounds = {known}\n'
    if kind == "category":
        known = _texts(categories) if categories else f'["{FILL_IN}: all names that can occur"]'
        return f'kind = "category"\ncategories = {known}\n'
    # The type of a CSV column would follow from its records.
    return (
        f'kind = "{FILL_IN}: number, category or ignored"\n'
        "# bounds = [0, 100]\n"
        '# categories = ["no", "yes"]\n'
    )


def _estimated(
    data: Path,
    categories: list[str],
    missing: list[str],
    epsilon: float,
    delta: float,
    budget: Budget | None,
    seed: int | None,
) -> tuple[dict[str, str], str]:
    """All columns' entries from one private release, and what it cost."""
    from hushgrad.datasets.table import as_texts, read_texts
    from hushgrad.summaries import Counts, Histograms, survey

    table = read_texts(data)
    texts = {name: as_texts(column, missing) for name, column in table.items()}
    counts = [Counts.of_texts(t, numbers=n not in categories) for n, t in texts.items()]
    histograms = Histograms.of(
        examples=len(next(iter(texts.values()))),
        columns=len(counts),
        named=len(counts),
        epsilon=epsilon,
        delta=delta,
    )
    name = uuid.uuid4().hex
    found = survey(counts, histograms, budget=budget, run=name, directory=str(data), seed=seed)
    spent = (
        "\n[spent]\n"
        f"id = {_text(name)}\nepsilon = {epsilon!r}\ndelta = {delta!r}\n"
        f"seeded = {'false' if seed is None else 'true'}\n"
        f"mechanism = {_text(json.dumps(histograms.to_dict()))}\n"
    )
    return {n: _read_off(column) for n, column in zip(texts, found, strict=True)}, spent


def _read_off(column: Noisy) -> str:
    """A column's entry: what most records seem to have, numbers or names."""
    from hushgrad.summaries import bounds_of, records_of

    numbers, named = records_of(column), sum(column.names.values())
    if not numbers and not named:
        return "# Noise hides what is in it.\n" + _entry(None)
    if numbers >= named:
        (found,) = bounds_of([column])
        return _entry("number", bounds=(found.low, found.high))
    return _entry("category", categories=list(column.names))


def _tell(output: Path, entries: dict[str, str], spent: bool, as_json: bool) -> None:
    from hushgrad.datasets.schema import FILL_IN

    left = sum(FILL_IN in entry for entry in entries.values())
    if as_json:
        told = {"output": str(output), "columns": len(entries), "to_fill_in": left, "spent": spent}
        typer.echo(json.dumps(told, indent=2))
        return
    if left:
        typer.echo(
            f"Written to {output}: {len(entries)} columns, {left} of them to be filled in where it "
            f"says {FILL_IN}."
        )
    else:
        typer.echo(f"Written to {output}: {len(entries)} columns; please read it.")
    if spent:
        typer.echo("What was spent is in it, and is counted by each run that uses it.")


def _text(text: str) -> str:
    # JSON's strings are TOML's, but for one character.
    return json.dumps(text).replace("\x7f", "\\u007f")


def _texts(texts: Any) -> str:
    return f"[{', '.join(_text(text) for text in texts)}]"


def _numbers(pair: tuple[float, float]) -> str:
    return f"[{pair[0]:.6g}, {pair[1]:.6g}]"
