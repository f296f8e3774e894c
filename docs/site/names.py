"""The reference's pages: a marker becomes all public names of a module, each from where it is made.

    <!-- names of hushgrad.noise as hg.noise -->
    <!-- names of hushgrad as hg, level 3: dp_sgd, dp_ftrl -->

Read from the source, which is not imported: a function may be called as the module that it
stands in, and then mkdocstrings alone would show the module.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"
_MARKER = re.compile(
    r"^<!-- names of (?P<module>[\w.]+) as (?P<shown>[\w.]+)(, level (?P<level>\d))?"
    r"(: (?P<names>[\w, ]+))? -->$",
    re.MULTILINE,
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts names in the place of their markers; mkdocs calls it for every page."""
    return _MARKER.sub(_named, markdown)


def _named(marker: re.Match[str]) -> str:
    level = int(marker["level"] or 2)
    asked = marker["names"]
    chosen = re.findall(r"\w+", asked) if asked else documented(marker["module"])
    return "\n\n".join(
        _entry(home(marker["module"], name), f"{marker['shown']}.{name}", level) for name in chosen
    )


def _entry(path: str, shown: str, level: int) -> str:
    options = {
        "heading": shown,
        "toc_label": shown.rsplit(".", 1)[1],
        "show_root_heading": "true",
        "show_root_toc_entry": "true",
        "heading_level": level,
    }
    lines = "\n".join(f"      {name}: {value}" for name, value in options.items())
    return f"::: {path}\n    options:\n{lines}"


def documented(module: str) -> list[str]:
    """The classes and functions in a module's `__all__`."""
    return [name for name in _public(module) if _made(home(module, name))]


@functools.cache
def home(module: str, name: str) -> str:
    """Where a name is made that a module gives."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module not in (None, module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return home(str(node.module), alias.name)
    return f"{module}.{name}"


def _made(path: str) -> bool:
    module, name = path.rsplit(".", 1)
    kinds = (ast.ClassDef, ast.FunctionDef)
    body = _tree(module).body if _file(module) else []
    return any(isinstance(node, kinds) and node.name == name for node in body)


def _public(module: str) -> list[str]:
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{module} has no __all__")


@functools.cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    return ast.parse(file.read_text(encoding="utf-8") if file else "")


def _file(module: str) -> Path | None:
    path = SOURCE / Path(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)
