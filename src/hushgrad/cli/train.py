"""`hushgrad train`: a private classifier from one command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hushgrad.cli.command import PLAIN, Command, Group, examples

if TYPE_CHECKING:
    from hushgrad.datasets import Dataset
    from hushgrad.mechanism import Mechanism
    from hushgrad.recipes import Recipe
    from hushgrad.training import Budget, Run

__all__ = ["INTERRUPTED", "AsJson", "app", "opened_budget"]

app = typer.Typer(help="Train a classifier with differential privacy.", cls=Group, **PLAIN)

_EPSILON = 3.0
INTERRUPTED = 130
_BUDGETS = "HUSHGRAD_BUDGETS"

Epsilon = Annotated[
    float | None,
    typer.Option(help=f"Privacy budget; the noise is found. [default: {_EPSILON:g}]"),
]
Noise = Annotated[float | None, typer.Option(help="Instead of --epsilon: noise over clip.")]
Delta = Annotated[float, typer.Option(help="Probability that the promise may fail.")]
Clip = Annotated[float, typer.Option(help="Bound on one example's gradient norm.")]
BatchSize = Annotated[int, typer.Option(help="Expected batch size.")]
Epochs = Annotated[float, typer.Option(help="Passes over the data.")]
LearningRate = Annotated[float, typer.Option(help="Step size of plain SGD.")]
Seed = Annotated[int | None, typer.Option(help="For tests: not private against whoever knows it.")]
Directory = Annotated[
    Path | None,
    typer.Option(help="Where the run is kept. [default: runs/NAME-SETTINGS]"),
]
BudgetName = Annotated[str | None, typer.Option("--budget", help="Budget that must hold the run.")]
BudgetUrl = Annotated[
    str | None,
    typer.Option(envvar=_BUDGETS, help="Database of budgets. [default: the user's own]"),
]
Canaries = Annotated[
    int | None,
    typer.Option(help="Measure what is given away: canaries in place of so many examples."),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result for machines.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of MNIST's four idx .gz files. [default: the user's cache]"),
]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that all data sets share."""

    epsilon: float | None
    noise_multiplier: float | None
    delta: float
    clip: float
    batch_size: int
    epochs: float
    learning_rate: float
    seed: int | None
    budget: str | None = None
    budget_url: str | None = None
    canaries: int | None = None

    def opened_budget(self) -> Budget | None:
        """The data set's budget, if one was named."""
        return opened_budget(self.budget, self.budget_url)

    def mechanism(self, examples: int) -> Mechanism:
        """The mechanism for so many examples; its warnings go to the terminal."""
        from hushgrad.cli.mechanisms import made

        epsilon = self.epsilon
        if epsilon is None and self.noise_multiplier is None:
            epsilon = _EPSILON
        return made(
            examples=examples,
            batch_size=self.batch_size,
            epochs=self.epochs,
            clip=self.clip,
            delta=self.delta,
            epsilon=epsilon,
            noise_multiplier=self.noise_multiplier,
        )

    def directory(self, name: str) -> Path:
        """One directory for each data set and settings: the same command goes on there."""
        # Left out where there is none, so that directories keep their names; never the address,
        # which may hold a password.
        given = {k: v for k, v in dataclasses.asdict(self).items() if not k.startswith("budget")}
        given |= {"budget": self.budget} if self.budget else {}
        if self.canaries is None:
            del given["canaries"]
        content = json.dumps(given, sort_keys=True)
        return Path("runs") / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def opened_budget(name: str | None, url: str | None) -> Budget | None:
    """The budget of that name, if one was named."""
    from hushgrad.errors import InputError
    from hushgrad.training import Budget

    if name is None and url is not None and not os.getenv(_BUDGETS):
        raise InputError("--budget-url needs --budget, the budget's name")
    return None if name is None else Budget(name, url=url)


@app.command(
    cls=Command,
    epilog=examples(
        "hushgrad train digits",
        "hushgrad train digits --epsilon 1 --directory runs/digits --json",
        "hushgrad train digits --canaries 200",
    ),
)
def digits(
    epsilon: Epsilon = None,
    noise_multiplier: Noise = None,
    delta: Delta = 1e-5,
    clip: Clip = 0.5,
    batch_size: BatchSize = 256,
    epochs: Epochs = 60,
    learning_rate: LearningRate = 4.0,
    seed: Seed = None,
    directory: Directory = None,
    budget: BudgetName = None,
    budget_url: BudgetUrl = None,
    canaries: Canaries = None,
    as_json: AsJson = False,
) -> None:
    """Digits bundled with scikit-learn; under a minute.

    1,797 images of 8x8 pixels.
    """
    from hushgrad import datasets, recipes

    settings = Settings(
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        delta=delta,
        clip=clip,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        budget=budget,
        budget_url=budget_url,
        canaries=canaries,
    )
    _train(recipes.digits, datasets.load_digits(), settings, directory, as_json)


@app.command(
    cls=Command,
    epilog=examples(
        "hushgrad train mnist --data-dir mnist",
        "hushgrad train mnist --epsilon 3 --budget patients-2026",
    ),
)
def mnist(
    data_dir: DataDir = None,
    epsilon: Epsilon = None,
    noise_multiplier: Noise = None,
    delta: Delta = 1e-5,
    clip: Clip = 1.5,
    batch_size: BatchSize = 256,
    epochs: Epochs = 15,
    learning_rate: LearningRate = 0.25,
    seed: Seed = None,
    directory: Directory = None,
    budget: BudgetName = None,
    budget_url: BudgetUrl = None,
    canaries: Canaries = None,
    as_json: AsJson = False,
) -> None:
    """MNIST, by the CNN of TensorFlow Privacy's tutorial.

    60,000 handwritten digits of 28x28 pixels.
    """
    from hushgrad import datasets, recipes

    settings = Settings(
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        delta=delta,
        clip=clip,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        budget=budget,
        budget_url=budget_url,
        canaries=canaries,
    )
    _train(recipes.mnist, datasets.load_mnist(data_dir), settings, directory, as_json)


def _train(
    recipe: Recipe, data: Dataset, settings: Settings, directory: Path | None, as_json: bool
) -> None:
    import optax

    from hushgrad._check import positive, whole
    from hushgrad.audit import Canaries as Planted
    from hushgrad.cli.display import Display
    from hushgrad.cli.metrics import metrics_of
    from hushgrad.recipes import accuracy
    from hushgrad.training import train

    def score(params: Any) -> float:
        return accuracy(recipe, params, *data.test)

    learning_rate = positive("learning_rate", settings.learning_rate)
    start = 0 if settings.seed is None else whole("seed", settings.seed, at_least=0)
    mechanism = settings.mechanism(len(data.train[0]))
    directory = directory or settings.directory(recipe.name)
    display = Display(mechanism, as_json)
    display.introduce(recipe.name, directory)
    try:
        run = train(
            recipe.loss,
            recipe.init(start),
            data.train,
            mechanism,
            optimizer=optax.sgd(learning_rate),
            directory=directory,
            budget=settings.opened_budget(),
            seed=settings.seed,
            # The test images are as public as the data sets that these commands load.
            callback=[display.bar, metrics_of(directory, mechanism.steps, score, public=True)],
            audit=None if settings.canaries is None else Planted(settings.canaries),
        )
    except KeyboardInterrupt as interrupted:
        typer.echo(str(interrupted) or "interrupted; the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    scored = score(run.params)
    _write(run, scored)
    tested = f"Test accuracy {scored:.2%} on {len(data.test[0]):,} held-out images"
    display.conclude(run, tested, run.statement())


def _write(run: Run, score: float) -> None:
    """Leaves the result beside the ledger, in forms that need no hushgrad to read."""
    import numpy as np

    params: dict[str, Any] = {name: np.asarray(value) for name, value in run.params.items()}
    np.savez(run.directory / "params.npz", **params)
    (run.directory / "statement.txt").write_text(run.statement() + "\n")
    result = {
        "test_accuracy": score,
        "test_set": "public",
        "epsilon": run.epsilon,
        "delta": run.mechanism.delta,
        "steps": run.steps,
        "seeded": run.seeded,
        "mechanism": run.mechanism.to_dict(),
    }
    (run.directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
