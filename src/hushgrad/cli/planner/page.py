"""The page itself: sliders on one side, what follows from them on the other."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import math
from collections.abc import Callable
from typing import Any

from nicegui import app, ui

from hushgrad.accounting import Bound
from hushgrad.cli.planner.facts import Facts, Settings, code, facts, noise_for, ways
from hushgrad.cli.planner.guard import Guard
from hushgrad.cli.planner.style import STYLE
from hushgrad.errors import HushgradError

__all__ = ["build"]


@dataclasses.dataclass(frozen=True)
class Dial:
    """One number that can be set, on a logarithmic slider.

    Attributes:
      name: of the setting.
      label: for people.
      low: least.
      high: largest.
      whole: takes whole numbers alone.
      digits: that are kept where the slider is let go.
    """

    name: str
    label: str
    low: float
    high: float
    whole: bool = False
    digits: int = 3

    def at(self, place: float) -> float:
        """The number at a place from 0 to 1."""
        value = self.low * (self.high / self.low) ** place
        value = float(f"{value:.{self.digits - 1}e}")
        return max(1, round(value)) if self.whole else value

    def place(self, value: float) -> float:
        """Where a number stands, from 0 to 1."""
        inside = min(max(value, self.low), self.high)
        return math.log(inside / self.low) / math.log(self.high / self.low)


DIALS = (
    Dial("examples", "Examples", 100, 1e8, whole=True, digits=2),
    Dial("batch_size", "Batch size", 1, 1e6, whole=True),
    Dial("epochs", "Epochs", 1, 1000, whole=True, digits=2),
    Dial("noise_multiplier", "Noise multiplier", 0.2, 50, digits=3),
    Dial("delta", "Delta", 1e-12, 1e-2, digits=1),
)


class Page:
    """One visitor's page and settings."""

    def __init__(self, start: Settings) -> None:
        self._settings, self._mistake = start, ""
        self._busy, self._stale = False, False
        self._numbers: dict[str, Any] = {}
        self._sliders: dict[str, Any] = {}
        self._code: dict[str, Any] = {}

    async def show(self) -> None:
        """Builds the page and fills it in."""
        ui.add_head_html(f"<style>{STYLE}</style>")
        ui.add_head_html('<script>document.documentElement.lang = "en"</script>')
        with ui.element("div").classes("planner"):
            ui.html("<h1>Plan a private training run</h1>", sanitize=False)
            with ui.element("div").classes("columns"):
                with ui.element("section").props('aria-label="Settings"').classes("panel"):
                    for dial in DIALS:
                        self._dial(dial)
                    self._solver()
                with ui.element("section").props('aria-label="What follows"').classes("panel"):
                    self._results()
            with ui.element("section").props('aria-label="Code"').classes("panel"):
                self._copies()
            ui.label(
                "DP-SGD with Poisson sampling, neighbours by adding or removing one example. "
                "Nothing you set here leaves this machine."
            ).classes("foot")
        await self._refresh()

    def _dial(self, dial: Dial) -> None:
        value = getattr(self._settings, dial.name)

        async def moved(event: Any) -> None:
            await self._set(dial.name, dial.at(float(event.args)), typed=False)

        async def typed() -> None:
            given = self._numbers[dial.name].value
            try:
                number = float(given)
            except (TypeError, ValueError):
                await self._refresh(f"{dial.label} must be a number, got {given!r}")
                return
            await self._set(dial.name, number, typed=True)

        with ui.element("div").classes("dial"):
            field = ui.input(dial.label, value=_shown(value)).props("dense outlined")
            field.on("blur", typed).on("keydown.enter", typed)
            slider = ui.slider(min=0, max=1, step=0.002, value=dial.place(value))
            slider.props(f'aria-label="{dial.label}, slider"')
            slider.on("update:model-value", moved, throttle=0.05)
        self._numbers[dial.name], self._sliders[dial.name] = field, slider

    def _solver(self) -> None:
        async def solve() -> None:
            try:
                wanted = float(self._wanted.value or "")
                noise = await asyncio.to_thread(noise_for, self._settings, wanted)
            except (TypeError, ValueError, HushgradError) as error:
                await self._refresh(str(error))
                return
            await self._set("noise_multiplier", noise, typed=True)

        with ui.element("form").classes("solver").on("submit.prevent", solve):
            self._wanted = ui.input("Epsilon to keep", value="3").props("dense outlined")
            ui.button("Find the noise", color=None).props('type="submit" unelevated no-caps')

    def _results(self) -> None:
        with ui.element("div").classes("answer").props('role="status"'):
            ui.label("epsilon").classes("what")
            self._epsilon = ui.label().classes("epsilon").props('id="epsilon"')
        self._facts = ui.html(sanitize=False)
        self._warnings = ui.html(sanitize=False)
        self._table = ui.html(sanitize=False)

    def _copies(self) -> None:
        names = list(code(self._settings))
        with ui.tabs().props("dense align=left no-caps") as tabs:
            for name in names:
                ui.tab(name)
        with ui.tab_panels(tabs, value=names[0]).props("animated=false").classes("code"):
            for name in names:
                with ui.tab_panel(name):
                    self._code[name] = ui.code("", language=None)
                    self._code[name].copy_button.props(f'aria-label="Copy: {name}"')

    async def _set(self, name: str, value: float, *, typed: bool) -> None:
        dial = next(dial for dial in DIALS if dial.name == name)
        if dial.whole and float(value).is_integer():
            value = int(value)
        changed = {name: value}
        if name == "examples":
            changed["batch_size"] = min(self._settings.batch_size, int(value))
        elif name == "batch_size" and not typed:
            changed[name] = min(int(value), self._settings.examples)
        self._settings = dataclasses.replace(self._settings, **changed)
        for each in DIALS:
            number = getattr(self._settings, each.name)
            self._numbers[each.name].value = _shown(number)
            # The slider that is being moved is left where it is.
            if typed or each.name != name:
                self._sliders[each.name].value = each.place(number)
        await self._refresh()

    async def _refresh(self, mistake: str = "") -> None:
        """Shows what follows; of many moves, the last."""
        self._mistake, self._stale = mistake, True
        if self._busy:
            return
        self._busy = True
        try:
            while self._stale:
                self._stale = False
                await self._tell(self._settings, self._mistake)
        finally:
            self._busy = False

    async def _tell(self, settings: Settings, mistake: str) -> None:
        try:
            found = await asyncio.to_thread(facts, settings)
            copies = await asyncio.to_thread(code, settings)
        except HushgradError as error:
            mistake = mistake or str(error)
            found, copies = None, {}
        self._epsilon.text = f"{found.epsilon:.4g}" if found else "—"
        self._facts.content = _facts(found) if found else ""
        told = [mistake] if mistake else found.warnings if found else []
        self._warnings.content = "".join(f'<p class="warning">{html.escape(w)}</p>' for w in told)
        for name, block in self._code.items():
            block.content = copies.get(name, "")
        if found is None:
            self._table.content = ""
            return
        rows = await asyncio.to_thread(ways, settings)
        if not self._stale:
            self._table.content = _table(rows)


def build(start: Settings, token: str, port: int) -> Callable[[str, Callable[[], None]], None]:
    """Makes the page; what is returned serves it on a host."""
    app.add_middleware(Guard, token=token, port=port)

    @ui.page("/", title="hushgrad planner")
    async def planner() -> None:
        await Page(start).show()

    def served(host: str, opened: Callable[[], None]) -> None:
        app.on_startup(opened)
        ui.run(
            host=host,
            port=port,
            title="hushgrad planner",
            dark=None,
            show=False,
            reload=False,
            show_welcome_message=False,
        )

    return served


def _shown(value: float) -> str:
    return f"{value}" if isinstance(value, int) else f"{value:g}"


def _facts(found: Facts) -> str:
    """What follows, as a list of terms."""
    attacker = (
        "At most, of anyone who is shown all that training releases and has to say whether one "
        "example was in it, where both are as likely."
    )
    rows = [
        ("An attacker guesses right", f"{found.success:.1%}", attacker),
        ("and can be sure to", f"{found.certainty:.1%}", "At most, but for delta; 50% is a guess."),
        ("Noise on a mean gradient", f"{found.noise_to_batch:.3g} clips", "What costs accuracy."),
        ("Steps", f"{found.steps:,}", ""),
        ("Chance to be in a batch", f"{found.sampling_rate:.3g}", ""),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{why}</small></dd></div>"
        for name, value, why in rows
    )
    return f'<dl class="facts">{cells}</dl>'


def _table(rows: list[Bound]) -> str:
    """Epsilon by every accountant."""
    lines = []
    for row in rows:
        worth = f"{row.epsilon:,.4g}" if math.isfinite(row.epsilon) else "none"
        kind = "" if row.kind == "upper bound" else f" <small>{row.kind}</small>"
        mark = ' class="tight"' if row.name == "PLD" else ""
        lines.append(
            f'<tr{mark}><th scope="row">{html.escape(row.name)}{kind}</th><td>{worth}</td>'
            f"<td>{html.escape(row.source)}</td></tr>"
        )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("accountant", "epsilon", "source"))
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<table class="ways">{body}</table>'
