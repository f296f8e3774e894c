"""Runs side by side: what each spent, and how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hushgrad._check import fraction
from hushgrad._version import __version__
from hushgrad.errors import InputError
from hushgrad.report import charts
from hushgrad.report.facts import accuracy
from hushgrad.report.kept import Kept
from hushgrad.report.metrics import logged
from hushgrad.report.page import as_json, environment
from hushgrad.report.svg import needs

__all__ = ["comparison", "comparison_html"]

_FORMAT = 1
_TOGETHER = (
    "Each epsilon is of one run alone. Together the runs tell more of whoever is in the data of "
    "several: a hg.Budget counts that."
)


def comparison(runs: Sequence[Any], *, delta: float | None = None) -> dict[str, Any]:
    """Runs side by side, as plain data. Not for publication: scores may be of private data.

    ```python
    for row in hg.report.comparison(["runs/a", "runs/b"])["runs"]:
        print(row["name"], row["epsilon"], row["score"])
    ```

    Args:
      runs: as `facts` takes them.
      delta: at which all epsilons are computed; each run's own by default.

    Returns:
      Under `runs` a row for each, in the order given; what is not known is None, and `missing`
      says why. Under `remarks` what to bear in mind.

    Raises:
      InputError, DataError, ResumeError: if there are no runs, or one cannot be read.
    """
    if isinstance(runs, str) or not len(runs):
        raise InputError(f"runs must be a list of runs or their directories, got {runs!r}")
    if delta is not None:
        delta = fraction("delta", delta)
    kept = [Kept.of(run) for run in runs]
    names = [one.label for one in kept]
    rows = [
        _row(one, name if names.count(name) == 1 else str(one.path), delta)
        for one, name in zip(kept, names, strict=True)
    ]
    return {
        "format": _FORMAT,
        "made_by": {"hushgrad": __version__},
        "runs": rows,
        "remarks": _remarks(rows),
    }


def comparison_html(runs: Sequence[Any], *, delta: float | None = None) -> str:
    """The same as one HTML file, with a plot of scores against epsilons.

    Takes and raises what `comparison` does.

    Raises:
      InputError: also if jinja2 or matplotlib are missing: pip install 'hushgrad[report]'.
    """
    needs("matplotlib")
    template = environment().get_template("compare.html")
    told = comparison(runs, delta=delta)
    plot = None
    if any(charts.shown_in_plot(row) for row in told["runs"]):
        plot = needs("markupsafe").Markup(charts.compared(told))
    return template.render(told=told, plot=plot, machine=as_json(told))


def _row(kept: Kept, name: str, delta: float | None) -> dict[str, Any]:
    problems, first = kept.problems, kept.plan.phases[0]
    delta = kept.delta if delta is None else delta
    told = accuracy(kept, logged(kept)) or {"scores": [], "final": None}
    scored = told["final"] or (told["scores"][-1] if told["scores"] else None)
    missing = [f"no epsilon: {problem}" for problem in problems]
    if scored is None:
        missing.append(
            "no score: neither result.json nor metrics.jsonl nor validation.json has one"
        )
    if kept.seeded is None:
        missing.append("not recorded whether seeded")
    return {
        "name": name,
        "state": kept.state,
        "trusted": not problems,
        "epsilon": None if problems else kept.epsilon(kept.charged, delta),
        "delta": delta,
        "score": None if scored is None else scored["score"],
        "score_name": None if scored is None else scored.get("name", "score"),
        "score_set": None if scored is None else scored["set"],
        "steps_charged": kept.charged,
        "steps_planned": kept.plan.steps,
        "noise_multiplier": [phase.noise_multiplier for phase in kept.plan.phases],
        "batch_size": [phase.batch_size for phase in kept.plan.phases],
        "examples": first.examples,
        "unit": first.unit,
        "neighbouring_relation": kept.relation,
        "seeded": kept.seeded,
        "missing": missing,
    }


def _remarks(rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for name, text in (
        (
            "delta",
            "Deltas differ: epsilons at different deltas are not comparable; name one delta.",
        ),
        ("unit", "Units differ: some hide an example, others more."),
        ("neighbouring_relation", "Neighbouring relations differ: they hide different things."),
        ("examples", "Data sets differ in size."),
        ("score_name", "Scores are of different kinds."),
    ):
        if len({row[name] for row in rows} - {None}) > 1:
            found.append(text)
    if any(row["seeded"] for row in rows):
        seeded = ", ".join(row["name"] for row in rows if row["seeded"])
        found.append(f"Seeded, so not private against whoever knows the seed: {seeded}.")
    return [*found, *([_TOGETHER] if len(rows) > 1 else [])]
