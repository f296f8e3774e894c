"""`hushgrad plan`: what to run for a given epsilon."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hushgrad.cli.command import examples

if TYPE_CHECKING:
    from hushgrad.accounting import Calibration
    from hushgrad.comparing import Choice
    from hushgrad.mechanism import Mechanism

__all__ = ["EXAMPLES", "plan"]

EXAMPLES = examples(
    "hushgrad plan --examples 60000 --epsilon 3",
    "hushgrad plan --examples 60000 --epsilon 3 --batch-size 256 --json",
    "hushgrad plan --examples 60000 --epsilon 3 --batch-size 256 --epochs 15 \\",
    "    --compare",
    "hushgrad plan --ui",
)

_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_EPOCHS = (1.0, 5.0, 15.0, 30.0, 60.0)
# Beyond this share of the data in one batch there is little left to gain.
_LARGEST_SHARE = 0.25

Number = TypeVar("Number", int, float)

Examples = Annotated[
    int | None, typer.Option("--examples", "--N", help="Number of examples. [needed]")
]
Epsilon = Annotated[float | None, typer.Option("--epsilon", help="Privacy budget. [needed]")]
Delta = Annotated[float, typer.Option("--delta", help="Probability that the promise may fail.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "--batch_size", help="Expected batch size.")
]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Passes over the data.")]
Accountant = Annotated[str, typer.Option("--accountant", help="pld (tight) or rdp.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps, in place of epochs.")]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="Every mechanism, by the noise in its sums of gradients."),
]
Separation = Annotated[
    int | None,
    typer.Option("--min-separation", help="Least steps between two turns, with --compare."),
]
Participations = Annotated[
    int | None, typer.Option("--max-participations", help="Most turns, with --compare.")
]
Ui = Annotated[
    bool, typer.Option("--ui", help="A page with sliders, for this machine's browser alone.")
]
Port = Annotated[int | None, typer.Option("--port", help="Of that page. [default: a free one]")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Picture of every bound over the steps (needs matplotlib)."),
]


def plan(
    examples: Examples = None,
    epsilon: Epsilon = None,
    delta: Delta = 1e-5,
    batch_size: BatchSize = None,
    epochs: Epochs = None,
    accountant: Accountant = "pld",
    as_json: AsJson = False,
    plot: Plot = None,
    compare: Compare = False,
    steps: Steps = None,
    min_separation: Separation = None,
    max_participations: Participations = None,
    ui: Ui = False,
    port: Port = None,
) -> None:
    """How much noise a budget takes.

    Without --batch-size or --epochs, a table over them.
    """
    from hushgrad.accounting import calibrate
    from hushgrad.errors import InputError

    if ui:
        _served(examples, epsilon, delta, batch_size, epochs, port, as_json)
        return
    if port is not None:
        raise InputError("--port needs --ui")
    examples, epsilon = _given("--examples", examples), _given("--epsilon", epsilon)
    rules = {"min_separation": min_separation, "max_participations": max_participations}
    if compare:
        if batch_size is None or (plot, accountant) != (None, "pld"):
            raise InputError("--compare needs --batch-size, and has no --plot and no --accountant")
        facts = {"examples": examples, "batch_size": batch_size, "epochs": epochs, "steps": steps}
        _compared({**facts, "epsilon": epsilon, "delta": delta, **rules}, as_json)
        return
    if any(value is not None for value in (steps, *rules.values())):
        raise InputError("--steps, --min-separation and --max-participations need --compare")
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


def _given(option: str, value: Number | None) -> Number:
    from hushgrad.errors import InputError

    if value is None:
        raise InputError(f"{option} must be given, or --ui for a page to find it on")
    return value


def _served(
    examples: int | None,
    epsilon: float | None,
    delta: float,
    batch_size: int | None,
    epochs: float | None,
    port: int | None,
    as_json: bool,
) -> None:
    """The page, started with what was given."""
    from hushgrad.cli.planner import Settings, serve
    from hushgrad.cli.planner.facts import noise_for
    from hushgrad.errors import InputError

    if epochs is not None and not float(epochs).is_integer():
        raise InputError(f"--epochs must be whole with --ui, got {epochs}")
    given = {"examples": examples, "batch_size": batch_size, "epochs": epochs and int(epochs)}
    start = Settings(**{k: v for k, v in given.items() if v is not None}, delta=delta)
    if batch_size is None and examples is not None:
        start = dataclasses.replace(start, batch_size=min(start.batch_size, examples))
    if epsilon is not None:
        start = dataclasses.replace(start, noise_multiplier=noise_for(start, epsilon))
    serve(start, port, as_json=as_json)


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


def _compared(plan: dict[str, Any], as_json: bool) -> None:
    from hushgrad.comparing import choices

    found = choices(**plan)
    reason = _reason(found)
    if as_json:
        facts = [
            {
                "name": one.name,
                "batches": one.batches,
                "needs_random_batches": one.sampled,
                "squared_error": one.squared_error,
                "memory_in_parameters": one.memory,
                "noise_multiplier": one.mechanism.noise_multiplier,
                "epsilon": one.mechanism.epsilon(),
                "neighbouring_relation": one.mechanism.neighbouring_relation,
            }
            for one in found
        ]
        recommended = {"name": found[0].name, "batches": found[0].batches, "reason": reason}
        told = {"mechanisms": facts, "recommended": recommended}
        typer.echo(json.dumps(told, indent=2))
        return
    _mechanisms(found, plan)
    typer.echo(reason)


def _mechanisms(found: tuple[Choice, ...], plan: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    m = found[0].mechanism
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{m.examples:,} examples, batch size {m.batch_size:,}, {m.steps:,} steps: noise in "
        f"sums of\ngradients at epsilon {plan['epsilon']:g}, delta {m.delta:g}, in squared clips",
        title_justify="left",
    )
    table.add_column("mechanism", no_wrap=True)
    table.add_column("batches", no_wrap=True)
    for name in ("squared error", "ratio", "noise", "memory"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            one.name,
            one.batches,
            f"{one.squared_error:.4g}",
            f"{one.squared_error / found[0].squared_error:.3g}",
            f"{one.mechanism.noise_multiplier:.4g}",
            f"{one.memory} x",
        )
    Console(highlight=False).print(table)


def _reason(found: tuple[Choice, ...]) -> str:
    """Which to take, and why, for who can sample and who cannot."""
    best = found[0]
    first = f"Take {best.name} on {best.batches}: {_why(best)}."
    plain = next(one for one in found if one.name == "DP-SGD" and one.sampled)
    if plain is not best:
        less = 1 - best.squared_error / plain.squared_error
        first += f" Its squared error is {less:.0%} less than DP-SGD's."
    told = [first, f"In Python: {_call(best.mechanism)}"]
    others: dict[str, Choice] = {}
    for one in found:
        if not one.sampled:
            others.setdefault(one.batches, one)
    listed = [
        f"{one.name} on {batches} ({one.squared_error / best.squared_error:.3g} times the least)"
        for batches, one in others.items()
    ]
    if best.sampled:
        told.append(
            f"Where batches cannot be drawn at random: {', '.join(listed)}. Their noise cancels "
            "between steps, the better the longer the same rows stay away."
        )
    told.append(
        "Noise is the noise multiplier; memory is what the noise keeps between steps, in copies of "
        "the parameters."
    )
    return "\n".join(textwrap.fill(part, 79, break_on_hyphens=False) for part in told)


def _call(m: Mechanism) -> str:
    from hushgrad.sampling import CheckIn, CyclicPoisson

    facts = f"examples={m.examples}, batch_size={m.batch_size}, steps={m.steps}, delta={m.delta:g}"
    facts += f", noise_multiplier={m.noise_multiplier:.6g}"
    if not m.strategy.correlated:
        return f"hg.dp_sgd({facts}, sampling=hg.sampling.{type(m.sampling).__name__})"
    if isinstance(m.sampling, CyclicPoisson):
        return f"hg.dp_banded({facts}, bands={m.strategy.bands})"
    strategy = f"strategy=hg.noise.{type(m.strategy).__name__}"
    if isinstance(m.sampling, CheckIn):
        rules = f"min_separation={m.sampling.min_separation}"
        rules += f", max_participations={m.sampling.max_participations}"
        return f"hg.dp_ftrl({facts}, {rules}, {strategy})"
    return f"hg.dp_ftrl({facts}, sampling=hg.sampling.{type(m.sampling).__name__}, {strategy})"


def _why(one: Choice) -> str:
    if not one.mechanism.strategy.correlated:
        return "not knowing who was drawn saves more here than noise that cancels would"
    if not one.sampled:
        return "its noise cancels between steps, the better the longer the same rows stay away"
    bands = one.mechanism.strategy.bands
    return f"nobody knows who was drawn, and the noise of {bands} steps in a row cancels"


def _draw(row: Calibration, file: Path) -> None:
    """Epsilon after every step, by each accountant."""
    from hushgrad.cli.picture import bounds_over_steps

    bounds_over_steps(row, file)
