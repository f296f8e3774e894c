"""`hushgrad train table`: a private model of a CSV or Parquet file, from one command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hushgrad.cli.command import examples
from hushgrad.cli.train import (
    INTERRUPTED,
    AsJson,
    BudgetName,
    BudgetUrl,
    Delta,
    Directory,
    Seed,
    opened_budget,
)

if TYPE_CHECKING:
    import numpy as np

    from hushgrad.datasets import Schema
    from hushgrad.recipes import Network
    from hushgrad.summaries import Releases
    from hushgrad.training import Budget, Run

__all__ = ["EXAMPLES", "table"]

EXAMPLES = examples(
    "hushgrad train table --data adult.csv --schema adult.toml --epsilon 1",
    "hushgrad train table --data adult.csv --test-data test.csv --json",
)

_SCHEMA = "schema.toml"
_REMARK = (
    "Features and labels were made of each record by itself, by the schema; a record without a "
    "known label counts and teaches nothing."
)

Data = Annotated[Path, typer.Option(help="CSV with names in its first line, or Parquet.")]
Label = Annotated[str | None, typer.Option(help="Column to predict. (default: the schema's)")]
SchemaFile = Annotated[
    Path | None,
    typer.Option(help="What is public of the columns. (default: DATA with .toml at its end)"),
]
TestData = Annotated[
    Path | None, typer.Option(help="A file like --data to score on; the score has no noise.")
]
Clip = Annotated[
    float | None,
    typer.Option(help="Bound on one record's gradient norm. (default: 1; 0.2 for a number)"),
]
Hidden = Annotated[
    list[int] | None,
    typer.Option(help="Units of a hidden layer; again for more. (default: a linear model)"),
]
Epsilon = Annotated[float, typer.Option(help="Privacy budget, an estimated schema included.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Expected. (default: a sixteenth of the rows, or 512, or all)")
]
Steps = Annotated[int, typer.Option(help="Noisy gradients.")]
Rate = Annotated[
    float | None, typer.Option(help="Step size at the start. (default: what suits the noise)")
]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the same command must have the same to go on."""

    data: str
    schema: dict[str, Any]
    epsilon: float
    delta: float
    clip: float
    batch_size: int | None
    steps: int
    learning_rate: float | None
    hidden: tuple[int, ...]
    seed: int | None
    budget: str | None

    def directory(self) -> Path:
        """One for each file, schema and settings."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True)
        mark = hashlib.sha256(content.encode()).hexdigest()[:8]
        return Path("runs") / f"{Path(self.data).name.split('.')[0]}-{mark}"


def table(
    data: Data,
    label: Label = None,
    schema: SchemaFile = None,
    test_data: TestData = None,
    hidden: Hidden = None,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    clip: Clip = None,
    batch_size: BatchSize = None,
    steps: Steps = 200,
    learning_rate: Rate = None,
    seed: Seed = None,
    directory: Directory = None,
    budget: BudgetName = None,
    budget_url: BudgetUrl = None,
    as_json: AsJson = False,
) -> None:
    """A CSV or Parquet file with a schema.

    The label is a class or a number; `hushgrad schema` drafts the schema.
    """
    from hushgrad.datasets import Schema
    from hushgrad.recipes.tabular import CLIPS

    declared = Schema.read(_schema_file(data, schema))
    _same_label(label, declared)
    settings = _Settings(
        data=str(data),
        schema=dataclasses.asdict(declared),
        epsilon=epsilon,
        delta=delta,
        clip=CLIPS[_task(declared)] if clip is None else clip,
        batch_size=batch_size,
        steps=steps,
        learning_rate=learning_rate,
        hidden=tuple(hidden or ()),
        seed=seed,
        budget=budget,
    )
    opened = opened_budget(budget, budget_url)
    kept, where = _schema_file(data, schema), directory or settings.directory()
    _train(settings, declared, kept, test_data, where, opened, as_json)


def _train(
    settings: _Settings,
    schema: Schema,
    schema_file: Path,
    test_data: Path | None,
    directory: Path,
    budget: Budget | None,
    as_json: bool,
) -> None:
    from hushgrad._check import whole
    from hushgrad.cli.display import Display
    from hushgrad.cli.metrics import metrics_of
    from hushgrad.datasets import Category, encode_table, read_table, table_labels
    from hushgrad.recipes import Network
    from hushgrad.training import train

    start = 0 if settings.seed is None else whole("seed", settings.seed, at_least=0)
    rows = read_table(settings.data, schema)
    tested = None if test_data is None else read_table(test_data, schema)
    features, (labels, weights) = encode_table(rows, schema), table_labels(rows, schema)
    classes = len(schema.label.categories) if isinstance(schema.label, Category) else 1
    network = Network(
        features=features.shape[1],
        outputs=1 if classes == 2 else classes,
        hidden=tuple(whole("hidden", units) for units in settings.hidden),
        task=_task(schema),
    )
    releases = _releases(len(features), settings, schema)
    optimizer = network.optimizer(releases.training, settings.learning_rate)
    display = Display(releases.training, as_json)
    display.introduce(Path(settings.data).name, directory, *_remarks(weights, schema, releases))
    _charge_schema(schema, releases, budget)
    score = None
    if tested is not None and _task(schema) == "classes":
        score = lambda params: _scores(network, params, tested, schema)["test_accuracy"]  # noqa: E731
    log = metrics_of(directory, releases.training.steps, score)
    try:
        run = train(
            network.loss,
            network.init(start),
            (features, weights, labels),
            releases.training,
            optimizer=optimizer,
            directory=directory,
            budget=budget,
            seed=settings.seed,
            callback=[display.bar, log, _Kept(schema_file)],
        )
    except KeyboardInterrupt as interrupted:
        typer.echo(str(interrupted) or "interrupted; the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    scores = {} if tested is None else _scores(network, run.params, tested, schema)
    seeded = run.seeded or bool(schema.spent and schema.spent.get("seeded"))
    public = ["the number of records", "what the schema declares"]
    if releases.histograms is not None:
        public[1] = "what the schema declares and was not estimated"
    statement = releases.statement(public, _REMARK, seeded=seeded)
    _write(run, releases, scores, statement, schema_file, seeded)
    display.conclude(run, _told(scores, tested), statement, "schema.toml")


class _Kept:
    """Keeps the schema beside the ledger from the first step on: it says what was spent on it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def begin(self, directory: Path, start: int, params: Any) -> None:
        """Copies it."""
        shutil.copyfile(self._file, directory / _SCHEMA)

    def __call__(self, progress: Any) -> None:
        """Has nothing to do."""


def _schema_file(data: Path, schema: Path | None) -> Path:
    from hushgrad.errors import InputError

    file = data.with_name(data.name.split(".")[0] + ".toml") if schema is None else schema
    if schema is None and not file.exists():
        raise InputError(
            f"--schema is needed, since there is no {str(file)!r}: draft one with "
            f"'hushgrad schema --data {data} --label NAME -o {file}' and fill it in"
        )
    return file


def _task(schema: Schema) -> Literal["classes", "number"]:
    from hushgrad.datasets import Number

    return "number" if isinstance(schema.label, Number) else "classes"


def _same_label(label: str | None, schema: Schema) -> None:
    from hushgrad.errors import InputError

    if label is not None and label != schema.label.name:
        raise InputError(
            f"--label must be the schema's, {schema.label.name!r}, got {label!r}; change one"
        )


def _releases(examples: int, settings: _Settings, schema: Schema) -> Releases:
    """The estimate of the schema, if it was one, and the training that epsilon leaves."""
    from hushgrad.recipes import tabular_mechanism
    from hushgrad.summaries import Histograms, Releases

    histograms = None
    if schema.spent is not None:
        histograms = Histograms(**schema.spent["mechanism"]["histograms"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        training = tabular_mechanism(
            examples,
            epsilon=settings.epsilon,
            delta=settings.delta,
            batch_size=settings.batch_size,
            steps=settings.steps,
            clip=settings.clip,
            before=None if histograms is None else histograms.event,
        )
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        typer.echo(f"warning: {message}", err=True)
    return Releases(training, histograms)


def _remarks(weights: np.ndarray, schema: Schema, releases: Releases) -> list[str]:
    from hushgrad.errors import DataError

    unknown = int((weights == 0).sum())
    if unknown == len(weights):
        raise DataError(
            f"no record has a label that the schema knows: compare columns.{schema.label.name} "
            "with the file"
        )
    remarks = []
    if unknown:
        remarks.append(
            f"* {unknown:,} records have no label that the schema knows; they count and teach\n"
            "nothing. This number carries no noise either."
        )
    if releases.histograms is not None:
        remarks.append(
            f"The schema was estimated: with what that cost, epsilon is {releases.epsilon:.4g}."
        )
    return remarks


def _charge_schema(schema: Schema, releases: Releases, budget: Budget | None) -> None:
    """What the schema's estimate cost, once in each budget, whoever drafted it."""
    if schema.spent is None or releases.histograms is None or budget is None:
        return
    held = budget.reserve(releases.histograms, schema.spent["id"])
    held.charge(1)
    held.finish(1)


def _scores(network: Network, params: Any, rows: Any, schema: Schema) -> dict[str, float]:
    """On records with a known label, without noise."""
    import numpy as np

    from hushgrad.datasets import Number, encode_table, table_labels

    labels, weights = table_labels(rows, schema)
    known = weights > 0
    params = {name: np.asarray(value) for name, value in params.items()}
    out = network.apply(params, encode_table(rows, schema)[known], np.tanh)
    labels = labels[known]
    if isinstance(schema.label, Number):
        half = (schema.label.high - schema.label.low) / 2
        wrong = np.clip(out[:, 0], -1, 1) - labels
        return {"test_rmse": half * float(np.sqrt(np.mean(wrong**2)))} | {"tested": len(labels)}
    found = (out[:, 0] > 0) if network.outputs == 1 else out.argmax(axis=1)
    return {"test_accuracy": float(np.mean(found == labels)), "tested": len(labels)}


def _told(scores: dict[str, float], tested: Any) -> str:
    if tested is None:
        return "No --test-data, so no score."
    where = f"on {scores['tested']:,} held-out records (without noise)"
    if "test_rmse" in scores:
        return f"Test error {scores['test_rmse']:.4g} (root mean square) {where}"
    return f"Test accuracy {scores['test_accuracy']:.2%} {where}"


def _write(
    run: Run,
    releases: Releases,
    scores: dict[str, float],
    statement: str,
    schema_file: Path,
    seeded: bool,
) -> None:
    """Leaves the result beside the ledger, in forms that need no hushgrad to read."""
    import numpy as np

    params: dict[str, Any] = {name: np.asarray(value) for name, value in run.params.items()}
    np.savez(run.directory / "params.npz", **params)
    shutil.copyfile(schema_file, run.directory / _SCHEMA)
    (run.directory / "statement.txt").write_text(statement + "\n")
    histograms = releases.histograms
    result = {
        **scores,
        "test_set": "private",
        "epsilon": releases.epsilon,
        "delta": releases.training.delta,
        "steps": run.steps,
        "seeded": seeded,
        "mechanism": releases.training.to_dict(),
        "histograms": None if histograms is None else histograms.to_dict()["histograms"],
    }
    (run.directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
