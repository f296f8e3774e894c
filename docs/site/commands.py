"""The command line's reference, written from the commands themselves when the site is built."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

MARKER = "<!-- the commands stand here -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts all commands in the place of the marker; mkdocs calls it for every page."""
    if MARKER not in markdown:
        return markdown
    return markdown.replace(MARKER, "\n".join(reference()))


def reference() -> Iterator[str]:
    """All commands with their arguments and options, as Markdown."""
    from typer.main import get_command

    from hushgrad.cli.app import app

    yield from _described(get_command(app), "hushgrad")


def _described(command: Any, name: str) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is not None:
        for part in inner:
            yield from _described(inner[part], f"{name} {part}")
        return
    yield f"## {name}\n"
    yield _plain(command.help)
    shown = [
        one for one in command.params if one.name != "help" and not getattr(one, "hidden", False)
    ]
    if shown:
        yield "\n| option | default | what it is |\n|---|---|---|"
        yield from map(_row, shown)
    examples = _examples(command.epilog)
    if examples:
        yield f"\n```sh\n{examples}\n```"
    yield ""


def _plain(text: str | None) -> str:
    return textwrap.dedent((text or "").replace("\b", "")).strip() + "\n"


def _examples(epilog: str | None) -> str:
    lines = (epilog or "").replace("\b", "").splitlines()
    return "\n".join(line.strip() for line in lines if line.startswith("  "))


def _row(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
    shown = ", ".join(f"`{name}`" for name in names)
    default = parameter.default
    unsaid = default is None or callable(default) or isinstance(default, bool) or default == ()
    value = "required" if parameter.required else "" if unsaid else f"`{default}`"
    text = " ".join((getattr(parameter, "help", None) or "").split())
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return f"| {shown} | {value} | {text} |"
