"""Figures as SVG that stands within a page and takes its colours and fonts from it."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

from hushgrad.errors import InputError

__all__ = ["INK", "drawing", "inline", "needs"]

# Colours that no figure has otherwise, in place of the page's, which change with its theme.
_INKS = ("ink", "muted", "line", "accent", "second", "soft", "paper")
INK = {name: f"#0000{number:02x}" for number, name in enumerate(_INKS, start=1)}
_SIZE = 10.2
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hushgrad",
    "font.size": _SIZE,
    "axes.edgecolor": INK["line"],
    "axes.labelcolor": INK["muted"],
    "axes.labelsize": _SIZE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK["ink"],
    "xtick.color": INK["line"],
    "ytick.color": INK["line"],
    "xtick.labelcolor": INK["muted"],
    "ytick.labelcolor": INK["muted"],
    "xtick.labelsize": _SIZE,
    "ytick.labelsize": _SIZE,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "grid.color": INK["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.axisbelow": True,
}


def needs(module: str) -> Any:
    """A library of the extra `report`.

    Raises:
      InputError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise InputError(
            f"a report as HTML needs {name}: pip install 'hushgrad[report]'; "
            "hushgrad report --json does without"
        ) from error


@contextlib.contextmanager
def drawing(width: float = 4.4, height: float = 2.9) -> Iterator[tuple[Any, Any]]:
    """A figure of so many inches and its axes, in the page's style.

    Small, so that what is written in it can still be read on a telephone.
    """
    matplotlib, figures = needs("matplotlib"), needs("matplotlib.figure")
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(True)
        axes.tick_params(length=0, which="both")
        yield figure, axes


def inline(figure: Any, name: str, title: str, text: str) -> str:
    """The figure as an SVG element.

    Args:
      figure: matplotlib's.
      name: unlike that of any other figure of the page.
      title: what it is called, for those who do not see it.
      text: what there is to be seen.
    """
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    drawn = target.getvalue()
    drawn = drawn[drawn.index("<svg") :].strip()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->", "", drawn, flags=re.DOTALL)
    for ink, code in INK.items():
        drawn = drawn.replace(code, f"var(--{ink})")
    drawn = re.sub(r"font: ([^;\"]*?px) [^;\"]+", r"font: \1 var(--sans)", drawn)
    drawn = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", drawn)
    # What several figures call the same must not meet in one page.
    drawn = re.sub(r'\bid="', f'id="{name}-', drawn)
    drawn = re.sub(r"url\(#", f"url(#{name}-", drawn)
    drawn = re.sub(r'href="#', f'href="#{name}-', drawn)
    body = drawn[drawn.index(">") + 1 :]
    found = re.search(r'viewBox="([^"]+)"', drawn)
    assert found is not None
    return (
        f'<svg viewBox="{found[1]}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-text">{html.escape(text)}</desc>{body}'
    )
