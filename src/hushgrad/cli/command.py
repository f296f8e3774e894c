"""The one voice of all commands: plain help with examples, and errors that name options."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from hushgrad.errors import HushgradError

__all__ = ["PLAIN", "Command", "Group", "examples"]

# For typer.Typer. Plain text reads the same in a pipe, in a log and at any width.
PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "no_args_is_help": True,
}


class Command(TyperCommand):
    """A command whose errors name the option that was typed, not the library's argument."""

    def invoke(self, ctx: Any) -> Any:
        """Runs it; the library's `batch_size must be ...` becomes `--batch-size must be ...`."""
        try:
            return super().invoke(ctx)
        except HushgradError as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (_with_options(error.args[0], self), *error.args[1:])
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        super().format_help(ctx, formatter)
        _unescape(formatter)


class Group(TyperGroup):
    """A group of commands, listed in the order in which they are made."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        super().format_help(ctx, formatter)
        _unescape(formatter)


def examples(*lines: str) -> str:
    """What stands at the end of a command's help: command lines to copy, one below the other."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _unescape(formatter: Any) -> None:
    # Some versions of typer escape brackets for rich in plain text too.
    formatter.buffer[:] = [text.replace("\\[", "[") for text in formatter.buffer]


def _with_options(message: str, command: TyperCommand) -> str:
    for parameter in command.params:
        if parameter.param_type_name != "option" or not parameter.name:
            continue
        option = max(parameter.opts, key=lambda text: (text.startswith("--"), "_" not in text))
        name = re.escape(parameter.name)
        # A word of several parts is nothing else; one like `delta` only where it is what is wrong.
        where = rf"(?<![\w-]){name}(?!\w)" if "_" in parameter.name else rf"^{name}(?= must | is )"
        message = re.sub(where, option, message)
    return message
