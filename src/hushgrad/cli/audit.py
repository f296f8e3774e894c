"""`hushgrad audit`: what an attacker gets, beside what was promised."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hushgrad.cli.command import examples

if TYPE_CHECKING:
    import numpy as np

    from hushgrad.audit import Outputs

__all__ = ["EXAMPLES", "audit"]

EXAMPLES = examples(
    "hushgrad audit runs/mine --plot roc.png",
    "hushgrad audit --model model.keras --members a.npz --non-members b.npz",
    "hushgrad audit --members a.npz --non-members b.npz --epsilon 3 --json",
)

_EXCEEDED = 1
_OUTPUTS = ("losses", "logits", "probabilities", "labels", "features")

Run = Annotated[
    Path | None, typer.Argument(help="Directory of a run that was trained with canaries.")
]
Model = Annotated[Path | None, typer.Option(help="A Keras model; x and y are in the .npz files.")]
Members = Annotated[
    Path | None,
    typer.Option(help="An .npz of examples that were trained on, or of outputs for them."),
]
Others = Annotated[Path | None, typer.Option(help="The same for others, of the same population.")]
Attacks = Annotated[
    list[str] | None,
    typer.Option("--attack", help="threshold, entropy, logistic, forest, neighbours, mlp."),
]
ByClass = Annotated[bool, typer.Option("--by-class", help="Each class by itself, too.")]
Epsilon = Annotated[float | None, typer.Option(help="What was promised; status 1 beyond it.")]
Delta = Annotated[float | None, typer.Option(help="Of that promise. [default: 1e-5]")]
Confidence = Annotated[float | None, typer.Option(help="Of what is proved. [default: 0.95]")]
Plot = Annotated[Path | None, typer.Option(help="Picture of the ROC (needs matplotlib).")]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines.")]


def audit(
    run: Run = None,
    model: Model = None,
    members: Members = None,
    non_members: Others = None,
    attack: Attacks = None,
    by_class: ByClass = False,
    epsilon: Epsilon = None,
    delta: Delta = None,
    confidence: Confidence = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Attack a run's canaries, or a model.

    Status 1 if more is found than promised.

    The .npz files hold x and y for a model, or, without one, what it said: losses, logits or
    probabilities, and labels.
    """
    from hushgrad.errors import InputError

    if run is not None:
        asked = model, members, non_members, attack, epsilon, delta, confidence
        if by_class or any(value is not None for value in asked):
            raise InputError(
                "give a run, with --plot and --json alone, or --members and --non-members; not "
                "both: a run's audit was set by its hg.audit.Canaries"
            )
        _of_run(run, plot, as_json)
        return
    if members is None or non_members is None:
        raise InputError(
            "give the directory of a run that has canaries, or --members and --non-members with "
            "outputs or, with --model, examples"
        )
    sides = [_outputs(model, file) for file in (members, non_members)]
    settings = {
        "attacks": attack or None,
        "confidence": 0.95 if confidence is None else confidence,
        "delta": 1e-5 if delta is None else delta,
    }
    _of_outputs(sides[0], sides[1], by_class, settings, epsilon, plot, as_json)


def _of_run(run: Path, plot: Path | None, as_json: bool) -> None:
    from hushgrad.audit import CanariesFound, draw

    found = CanariesFound.load(run)
    if plot is not None:
        delta = found.proved.delta
        draw({f"{found.kind} canaries": found.roc}, plot, epsilon=found.promised, delta=delta)
    _told(found.to_dict(), str(found), plot, as_json)
    if found.exceeded:
        raise typer.Exit(_EXCEEDED)


def _of_outputs(
    members: Outputs,
    non_members: Outputs,
    by_class: bool,
    settings: dict[str, Any],
    epsilon: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from hushgrad.audit import Slices, draw, membership

    found = membership(members, non_members, slices=Slices(by_class=by_class), **settings)
    exceeded = epsilon is not None and found.exceeds(epsilon)
    text = found.table()
    if epsilon is not None:
        beyond = "which is MORE than" if exceeded else "within"
        text += f"\n{beyond} the promised epsilon {epsilon:g} at delta {found.delta:g}"
    if plot is not None:
        curves = {a.attack: a.roc for a in found.attacks if a.slice == found.attacks[0].slice}
        draw(curves, plot, epsilon=epsilon, delta=found.delta if epsilon is not None else 0.0)
    plain = {**found.to_dict(), "promised": epsilon, "exceeded": exceeded}
    _told(plain, text, plot, as_json)
    if exceeded:
        raise typer.Exit(_EXCEEDED)


def _told(plain: dict[str, Any], text: str, plot: Path | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
        return
    typer.echo(text)
    if plot is not None:
        typer.echo(f"ROC: {plot}")


def _outputs(model: Path | None, file: Path) -> Outputs:
    """What the file holds, or what the model says of it."""
    from hushgrad.audit import Outputs
    from hushgrad.errors import InputError

    arrays = _arrays(file)
    if model is None:
        given = {name: arrays[name] for name in _OUTPUTS if name in arrays}
        if not given:
            raise InputError(
                f"{file} has no outputs of a model (any of {', '.join(_OUTPUTS)}), only "
                f"{', '.join(arrays) or 'nothing'}; give --model to attack one with x and y"
            )
        return Outputs(**given)  # type: ignore[arg-type]
    if "x" not in arrays or "y" not in arrays:
        raise InputError(
            f"{file} must hold the arrays x and y, got {', '.join(arrays) or 'nothing'}: "
            "numpy.savez(file, x=..., y=...)"
        )
    loaded = _keras(model)
    try:
        return Outputs.of_keras(loaded, arrays["x"], arrays["y"])
    except (ValueError, TypeError) as error:
        raise InputError(f"{model} does not take what is in {file}: {error}") from error


def _arrays(file: Path) -> dict[str, np.ndarray]:
    import numpy as np

    from hushgrad.errors import InputError

    try:
        with np.load(file, allow_pickle=False) as opened:
            return dict(opened)
    except Exception as error:  # whatever a damaged file may raise: status 1 says something else
        # NumPy's own words for what is no archive are to read it unsafely.
        why = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"{file} cannot be read as an .npz file of plain arrays "
            f"({why or type(error).__name__}); write it by numpy.savez(file, x=..., y=...)"
        ) from error


def _keras(file: Path) -> Any:
    from hushgrad.errors import InputError

    try:
        importlib.import_module("hushgrad.keras")  # first: it asks Keras to run on JAX
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise InputError(
            "--model needs Keras; install it: pip install 'hushgrad[keras]'"
        ) from error
    try:
        return keras.saving.load_model(file, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} cannot be read as a Keras model: {error}") from error
