"""Command lines on the pages: they name commands, options, scripts and extras that there are."""

import contextlib
import re
import shlex
import tomllib
from typing import Any

import click
import pages as documentation
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hushgrad.cli.app import app

COMMAND: Any = get_command(app)
# These compute something in a second or two, and are run.
CHEAP = ("epsilon", "plan")


def lines(*first):
    """Command lines that begin with a word, in blocks and in text, where they stand."""
    for page in documentation.pages():
        for block in documentation.blocks(page):
            if block.language in ("sh", "console"):
                for line in block.code.replace("\\\n", " ").splitlines():
                    if line.lstrip("$ ").split(" ")[0] in first:
                        yield page, line.lstrip("$ ")
        for span in re.findall(r"`([^`\n]+)`", documentation.without_blocks(page)):
            if span.split(" ")[0] in first and " " in span and "COMMAND" not in span:
                yield page, span


def named(found):
    return sorted({(str(page.relative_to(documentation.ROOT)), line) for page, line in found})


def words(line):
    return shlex.split(line, comments=True)


class NoSuchFile(Exception):
    """A file that a reader has, and a test has not."""


def parsed(arguments):
    """Raises if there is no such command or option, or an option has no such value."""
    command, name = COMMAND, "hushgrad"
    while hasattr(command, "commands") and arguments:
        name, *arguments = arguments
        found = command.commands.get(name)
        assert found is not None, f"there is no command {name}"
        command = found
    if not arguments:
        return
    if arguments[-1].startswith("--"):
        arguments = [*arguments, "..."]  # an option alone, named in text
    with contextlib.suppress(click.exceptions.MissingParameter, NoSuchFile):
        try:
            command.make_context(name, list(arguments))
        except click.exceptions.UsageError as error:
            if "does not exist" in str(error) or "unexpected extra argument (...)" in str(error):
                raise NoSuchFile from error
            raise


@pytest.mark.parametrize(("page", "line"), named(lines("hushgrad")))
def test_commands_are_there(page, line):
    arguments = words(re.sub(r"[\[\]]", "", line))[1:]
    if "|" in arguments:  # several commands of a group in one breath
        group, *parts = arguments
        for part in parts:
            if part != "|":
                parsed([group, part])
        return
    parsed(arguments)


def cheap():
    """Those of the blocks and of the text that are whole."""
    found = {shlex.join(words(line)) for _, line in lines("hushgrad")}
    return sorted(line for line in found if words(line)[1] in CHEAP and "--examples" in line)


@pytest.mark.parametrize("line", cheap())
def test_cheap_ones_run(line, tmp_path, monkeypatch):
    arguments = words(line)[1:]
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


def scripts():
    for page, line in lines("python"):
        found = words(line)
        if "-c" not in found:
            yield page, " ".join(found)


@pytest.mark.parametrize(("page", "line"), named(scripts()))
def test_scripts_are_there_and_know_their_options(page, line):
    first, *rest = words(line)[1:]
    if first == "-m":
        module, *rest = rest
        path = documentation.ROOT / module.replace(".", "/")
        file = path.with_suffix(".py")
        if path.is_dir():
            file = path / "__main__.py"
        elif not file.exists():
            pytest.skip(f"{module} is not of this repository")
    else:
        file = documentation.ROOT / first
    assert file.is_file(), file
    texts = [other.read_text() for other in file.parent.glob("*.py")]
    for option in rest:
        if option.startswith("--"):
            assert any(f'"{option}"' in text for text in texts), option


@pytest.mark.parametrize(("page", "line"), named(lines("pip")))
def test_extras_are_there(page, line):
    project = tomllib.loads((documentation.ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"(?:hushgrad|\.)\[([\w,-]+)\]", line):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), line


@pytest.mark.parametrize(("page", "line"), named(lines("make")))
def test_make_knows_its_targets(page, line):
    targets = re.findall(r"^([a-z]+):", (documentation.ROOT / "Makefile").read_text(), re.M)
    for word in words(line)[1:]:
        assert "=" in word or word in targets, word
