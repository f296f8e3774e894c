"""The pictures of a report, drawn from its facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hushgrad.report import words
from hushgrad.report.svg import INK, drawing, inline
from hushgrad.report.words import number, power, share

__all__ = [
    "bounds",
    "compared",
    "line",
    "profile",
    "roc",
    "scores",
    "shown_in_plot",
    "spent",
    "trade_off",
]

_FEWEST_SHARE = 0.02
# From so much on there is room for words below a trade-off curve.
_WIDE = 0.2


def spent(told: dict[str, Any]) -> str:
    """Epsilon over the steps: what was charged, and what the plan goes on to."""
    curve, run, privacy = told["curves"]["spent"], told["run"], told["privacy"]
    made = run["steps_charged"]
    points = [
        (s, e) for s, e in zip(curve["steps"], curve["epsilon"], strict=True) if e is not None
    ]
    before = [point for point in points if point[0] <= made]
    with drawing() as (figure, axes):
        if made < run["steps_planned"]:
            rest = [point for point in points if point[0] >= made]
            axes.plot(*_both(rest), color=INK["muted"], linestyle=(0, (2, 3)))
            _mark(axes, rest[-1], f"planned {words.epsilon(rest[-1][1])}", hollow=True)
        axes.plot(*_both(before), color=INK["accent"])
        axes.fill_between(*_both(before), color=INK["accent"], alpha=0.1, linewidth=0)
        _mark(axes, before[-1], f"{words.epsilon(before[-1][1])} spent")
        axes.set(xlabel="steps", ylabel=f"epsilon at delta {power(privacy['delta'])}")
        axes.set_xlim(0, run["steps_planned"] * 1.03)
        axes.set_ylim(0, max(e for _, e in points) * 1.22)
        _thousands(axes.xaxis)
        text = f"After {made:,} steps epsilon is {words.epsilon(before[-1][1])}"
        if made < run["steps_planned"]:
            text += f"; after all {run['steps_planned']:,} planned it would be"
            text += f" {words.epsilon(points[-1][1])}"
        return inline(figure, "spent", "Epsilon over the steps of the run", text + ".")


def profile(told: dict[str, Any]) -> str:
    """The epsilon-delta curve."""
    curve, privacy = told["curves"]["profile"], told["privacy"]
    points = [(e, d) for e, d in zip(curve["epsilon"], curve["delta"], strict=True) if d > 0]
    with drawing() as (figure, axes):
        axes.plot(*_both(points), color=INK["accent"])
        axes.fill_between(*_both(points), 1, color=INK["accent"], alpha=0.1, linewidth=0)
        axes.set_yscale("log")
        axes.set_ylim(min(d for _, d in points), 1)
        axes.set_xlim(0, points[-1][0])
        _powers(axes.yaxis)
        here = (privacy["epsilon"], privacy["delta"])
        if here[0] is not None:
            _mark(axes, here, "  stated", place=(6, 6))
        axes.text(0.97, 0.93, "the promise holds", transform=axes.transAxes, ha="right", va="top")
        axes.set(xlabel="epsilon", ylabel="delta")
        text = (
            "The larger epsilon, the smaller delta. The statement is about one point of the curve: "
            f"epsilon {words.epsilon(here[0])} at delta {power(here[1])}."
        )
        return inline(figure, "profile", "Which delta holds at which epsilon", text)


def trade_off(told: dict[str, Any]) -> str:
    """False negatives over false positives: where an attacker may be, and where none can."""
    curve, attack = told["curves"]["trade_off"], told["privacy"]["attack"]
    x, y = curve["false_positive"], curve["false_negative"]
    with drawing() as (figure, axes):
        axes.plot([0, 1], [1, 0], color=INK["muted"], linestyle=(0, (2, 3)), linewidth=1)
        guessing = [1 - value for value in x]
        axes.fill_between(x, y, guessing, color=INK["second"], alpha=0.2, linewidth=0)
        axes.plot(x, y, color=INK["accent"])
        middle = min(range(len(x)), key=lambda i: abs(x[i] - y[i]))
        if x[middle] > _WIDE:
            axes.text(x[middle] / 2, y[middle] / 2, "out of reach", ha="center", va="center")
        gap = 0.5 - x[middle]
        axes.annotate(
            "where attackers are",
            (x[middle] + gap / 2, y[middle] + gap / 2),
            xytext=(0.99, 0.8),
            ha="right",
            arrowprops={"arrowstyle": "-", "color": INK["muted"], "linewidth": 0.8},
        )
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set(xlabel="false positives", ylabel="false negatives")
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.set_xticks([0.2, 0.4, 0.6, 0.8, 1.0])  # the axes meet at one zero
        text = (
            f"Whoever takes {share(attack['false_positive'])} of outsiders for members misses at "
            f"least {share(1 - attack['true_positive_at_most'])} of the members."
        )
        return inline(figure, "tradeoff", "What any attacker must put up with", text)


def bounds(told: dict[str, Any]) -> str:
    """What each way of accounting would have said."""
    rows = [row for row in told["bounds"] if row["epsilon"]][::-1]
    with drawing(4.4, 0.55 + 0.31 * len(rows)) as (figure, axes):
        axes.set_xscale("log")
        for place, row in enumerate(rows):
            upper = row["kind"] == "upper bound"
            ink = INK["accent"] if row["name"] == "PLD" else INK["muted"]
            face = ink if upper else "none"
            axes.plot([row["epsilon"]], [place], "o", ms=6, mfc=face, mec=ink, mew=1.4)
            axes.annotate(
                words.epsilon(row["epsilon"]),
                (row["epsilon"], place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.tick_params(axis="y", labelcolor=INK["ink"])
        axes.grid(False, axis="x")
        axes.margins(y=0.08)
        values = [row["epsilon"] for row in rows]
        low, high = min(values), max(values)
        wide = max(high / low, 2)
        axes.set_xlim(low / wide**0.12, high * wide**0.3)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("epsilon (logarithmic)")
        text = "; ".join(f"{row['name']} {number(row['epsilon'])}" for row in rows[::-1])
        return inline(figure, "bounds", "Epsilon by every way of accounting", text + ".")


def scores(told: dict[str, Any]) -> str:
    """Scores on other data than the run's, over the steps."""
    rows = told["accuracy"]["scores"]
    points = [(row["step"], row["score"]) for row in rows]
    with drawing() as (figure, axes):
        axes.plot(*_both(points), color=INK["accent"], marker="o", ms=2.5)
        shares = all(0 <= score <= 1 for _, score in points)
        shown = share if shares else number
        _mark(axes, points[-1], shown(points[-1][1]), place=(-2, 9))
        axes.set(xlabel="steps", ylabel="score")
        axes.set_xlim(0, points[-1][0] * 1.06)
        if shares:
            _percent(axes.yaxis)
        axes.margins(y=0.2)
        _thousands(axes.xaxis)
        best = max(score for _, score in points)
        text = f"{shown(points[-1][1])} after step {points[-1][0]:,}; {shown(best)} at best."
        return inline(figure, "scores", "Scores over the steps of the run", text)


def line(told: dict[str, Any], name: str, title: str, label: str, at: float | None = None) -> str:
    """One of the quantities that are not private, over the steps.

    Args:
      told: the report's facts.
      name: of the quantity.
      title: of the picture.
      label: of its axis.
      at: where a line across is of use.
    """
    columns = told["unprotected"]
    pairs = zip(columns["step"], columns[name], strict=True)
    points = [(step, value) for step, value in pairs if value is not None]
    with drawing(3.6, 2.3) as (figure, axes):
        axes.plot(*_both(points), color=INK["second"], marker="o", ms=2, linewidth=1.4)
        if at is not None:
            axes.axhline(at, color=INK["muted"], linestyle=(0, (2, 3)), linewidth=1)
        axes.set(xlabel="steps", ylabel=label)
        axes.set_xlim(0, points[-1][0] * 1.03)
        axes.margins(y=0.15)
        if name == "clipped_share":
            axes.set_ylim(0, 1.05)
            _percent(axes.yaxis)
        _thousands(axes.xaxis)
        first, last = number(points[0][1]), number(points[-1][1])
        return inline(figure, name, title, f"From {first} at first to {last} in the end.")


def roc(told: dict[str, Any]) -> str:
    """How well the canaries' scores tell those that were in, beside what is allowed."""
    curve = told["audit"]["roc"]
    allowed = curve["allowed"]
    x = _reached(curve) if allowed is None else allowed["false_positive"]
    with drawing() as (figure, axes):
        least = x[0]
        floor = min(least, _FEWEST_SHARE)
        if allowed is not None:
            most = allowed["true_positive"]
            axes.fill_between(x, floor, most, color=INK["accent"], alpha=0.14, linewidth=0)
            axes.plot(x, most, color=INK["accent"], linewidth=1)
            axes.text(0.96, 0.12, "what is allowed", transform=axes.transAxes, ha="right")
        axes.plot([least, 1], [least, 1], color=INK["muted"], linestyle=(0, (2, 3)), linewidth=1)
        found = [max(value, floor) for value in _steps_at(x, curve)]
        axes.step(x, found, where="post", color=INK["second"])
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(floor, 1))
        for axis in (axes.xaxis, axes.yaxis):
            _percent_powers(axis)
        axes.set(xlabel="outsiders accused", ylabel="canaries found")
        text = (
            f"The area under the attack's curve is {curve['auc']:.3f}, where 0.5 is guessing. A "
            "shaded region is what the mechanism allows."
        )
        return inline(figure, "roc", "What the attack on the canaries found", text)


def compared(told: dict[str, Any]) -> str:
    """Runs by what they spent and how well they do; their numbers are those of the table."""
    rows = [(n, row) for n, row in enumerate(told["runs"], start=1) if shown_in_plot(row)]
    with drawing(4.4, 3.2) as (figure, axes):
        for place, row in rows:
            whole = row["state"] == "finished"
            ink = INK["accent"] if whole else INK["muted"]
            point = (row["epsilon"], row["score"])
            axes.plot(*point, "o", ms=9, mfc=ink if whole else INK["paper"], mec=ink, mew=1.5)
            axes.annotate(
                str(place), point, xytext=(8, 5), textcoords="offset points", weight="bold"
            )
        axes.set(xlabel="epsilon", ylabel="score")
        if all(0 <= row["score"] <= 1 for _, row in rows):
            _percent(axes.yaxis)
        axes.set_xlim(0, max(row["epsilon"] for _, row in rows) * 1.15)
        axes.margins(y=0.25)
        text = "; ".join(
            f"{place}: {row['name']}, epsilon {words.epsilon(row['epsilon'])}, score "
            f"{number(row['score'])}"
            for place, row in rows
        )
        return inline(figure, "compared", "Score against epsilon", text + ".")


def shown_in_plot(row: dict[str, Any]) -> bool:
    """Whether a run has both an epsilon and a score."""
    return row["epsilon"] is not None and row["score"] is not None


def _reached(curve: dict[str, Any]) -> list[float]:
    """The shares of false positives above zero."""
    return sorted({share for share in curve["false_positive"] if share > 0})


def _steps_at(x: Sequence[float], curve: dict[str, Any]) -> list[float]:
    """True positives at the thresholds that accuse no more than so many."""
    pairs = list(zip(curve["false_positive"], curve["true_positive"], strict=True))
    return [max(tp for fp, tp in pairs if fp <= share * (1 + 1e-9)) for share in x]


def _both(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _mark(
    axes: Any,
    point: tuple[float, float],
    label: str,
    *,
    place: tuple[float, float] = (-4, 8),
    hollow: bool = False,
) -> None:
    ink = INK["muted"] if hollow else INK["accent"]
    axes.plot(*point, "o", ms=6, mfc=INK["paper"] if hollow else ink, mec=ink, zorder=5)
    side = "right" if place[0] < 0 else "left"
    axes.annotate(
        label, point, xytext=place, textcoords="offset points", ha=side, weight="bold", zorder=6
    )


def _thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def _powers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))


def _percent_powers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
