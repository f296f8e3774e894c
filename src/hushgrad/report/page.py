"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from hushgrad.report import charts
from hushgrad.report.facts import facts
from hushgrad.report.kept import plan_of
from hushgrad.report.svg import needs
from hushgrad.report.words import epsilon, number, power, share

__all__ = ["as_json", "environment", "html", "rendered"]

# Of a schedule's phases, so many are told one by one.
_TOLD = 8
_UNPROTECTED = (
    ("loss", "Training loss", "loss", None),
    ("mean_norm", "Norm of the mean clipped gradient", "norm", None),
    ("clipped_share", "Share of gradients that were clipped", "clipped", None),
    ("signal_to_noise", "Signal to noise", "ratio", 1.0),
    ("nonfinite", "Gradients that were not finite", "examples", None),
)


def html(
    run: Any,
    *,
    public: bool = False,
    metrics: str | Path | None = None,
    title: str | None = None,
    training: str | None = None,
) -> str:
    """A report of a run: one HTML file that fetches nothing, to be read, signed and kept.

    ```python
    Path("report.html").write_text(hg.report.html("runs/mine"), encoding="utf-8")
    ```

    Takes and raises what `facts` does, whose numbers it shows; they are in it for machines, too,
    as `<script type="application/json" id="hushgrad-report">`.

    Raises:
      InputError: also if jinja2 or matplotlib are missing: pip install 'hushgrad[report]'.
    """
    needs("jinja2")
    needs("matplotlib")
    return rendered(facts(run, public=public, metrics=metrics, title=title, training=training))


def rendered(told: dict[str, Any]) -> str:
    """The page of a report's facts; nothing else gets into it."""
    return (
        environment()
        .get_template("report.html")
        .render(
            told=told,
            pictures=_pictures(told),
            statement=_paragraphs(told["statement"] or ""),
            mechanism=_mechanism(told["mechanism"]),
            seal=_seal(told["ledger"]["head"]),
            machine=as_json(told),
        )
    )


@functools.cache
def environment() -> Any:
    """Of the templates: all that they are given is escaped, unless it is marked as HTML."""
    jinja2 = needs("jinja2")
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hushgrad.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"epsilon": epsilon, "number": number, "power": power, "share": share}
    return made


def as_json(told: dict[str, Any]) -> Any:
    """Facts as JSON that may stand in a script element, whatever text is in them."""
    markup = needs("markupsafe").Markup
    text = json.dumps(told, indent=1, allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markup(text)


def _pictures(told: dict[str, Any]) -> dict[str, Any]:
    markup, drawn = needs("markupsafe").Markup, {}
    curves, audit = told["curves"] or {}, told["audit"]
    for name, draw in (
        ("spent", charts.spent),
        ("profile", charts.profile),
        ("trade_off", charts.trade_off),
    ):
        if curves.get(name) is not None:
            drawn[name] = draw(told)
    if any(row["epsilon"] for row in told["bounds"]):
        drawn["bounds"] = charts.bounds(told)
    if told["accuracy"] is not None and told["accuracy"]["scores"]:
        drawn["scores"] = charts.scores(told)
    if audit is not None and audit["roc"] is not None:
        drawn["roc"] = charts.roc(told)
    for name, title, label, at in _UNPROTECTED:
        values = (told["unprotected"] or {}).get(name, [])
        if any(values) if name == "nonfinite" else any(v is not None for v in values):
            drawn[name] = charts.line(told, name, title, label, at)
    return {name: markup(svg) for name, svg in drawn.items()}


def _paragraphs(statement: str) -> list[dict[str, Any]]:
    """A statement's paragraphs: prose flows, tables stay as they are."""
    found = []
    for text in statement.split("\n\n"):
        table = any(line.startswith("    ") for line in text.splitlines())
        found.append({"table": table, "text": text if table else " ".join(text.split())})
    return found


def _mechanism(plain: dict[str, Any]) -> list[tuple[str, str]]:
    plan = plan_of(plain)
    first, several = plan.phases[0], len(plan.phases) > 1
    stream = first.sampling.kind == "stream"
    rows = [
        ("protected", f"any one {first.unit}" if first.unit in ("example", "user") else first.unit),
        ("adjacency", plan.neighbouring_relation),
        ("data set", "a stream" if stream else f"{first.examples:,} {_whose(first.unit)}"),
        ("steps planned", f"{plan.steps:,}"),
        ("delta", power(plan.delta)),
    ]
    for place, phase in enumerate(plan.phases[:_TOLD], start=1):
        of = f"phase {place}: " if several else ""
        rows += [
            (f"{of}batches", phase.sampling.describe(phase.batch_size)),
            (f"{of}gradients", phase.clip.describe()),
            (f"{of}noise", phase.strategy.describe(phase.noise_multiplier)),
        ]
        if several:
            rows.append((f"{of}steps", f"{phase.steps:,}"))
    if len(plan.phases) > _TOLD:
        rows.append(("and", f"{len(plan.phases) - _TOLD:,} phases more"))
    return rows


def _whose(unit: str) -> str:
    return "users" if unit == "user" else "examples"


def _seal(head: str | None) -> list[int]:
    """A hash as heights of bars, so that two papers can be compared at a glance."""
    return [int(digit, 16) for digit in head or ""]
