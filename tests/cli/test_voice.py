"""What all commands have in common: help that fits, examples that run, errors that name options."""

import importlib
import json
import os
import shlex
import subprocess
import sys
from typing import Any

import jax
import pytest
import typer
from typer.testing import CliRunner

from hushgrad.cli import app as command_line
from hushgrad.cli import doctor
from hushgrad.cli.app import app, main
from hushgrad.errors import InputError

ROOT = typer.main.get_command(app)


def commands(group: Any = ROOT, *names: str) -> dict[tuple[str, ...], Any]:
    """Every command by its path."""
    found = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, *names, name) if inner else {(*names, name): command}
    return found


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0, done.output
    return done.output


def example_lines(path: tuple[str, ...]) -> list[str]:
    """The command lines that the help of a command shows."""
    shows = shown(*path, "--help").partition("Examples:\n")[2]
    assert all(len(line) <= 80 for line in shows.splitlines())
    lines = shows.replace("\\\n", "").splitlines()
    return [line.strip() for line in lines if line.strip()]


def test_the_help_fits_a_screen():
    lines = shown("--help").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_shows_examples_that_it_takes(path):
    lines = example_lines(path)
    assert lines
    for line in lines:
        name, *words = shlex.split(line)
        assert name == "hushgrad"
        assert tuple(words[: len(path)]) == path
        # Parsed, not run.
        commands()[path].make_context(name, words[len(path) :]).close()


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_speaks_to_machines(path):
    assert "--json" in {option for param in commands()[path].params for option in param.opts}


def test_summaries_are_whole_sentences():
    for group in (["--help"], ["train", "--help"], ["budget", "--help"]):
        listed = shown(*group).partition("Commands:\n")[2].partition("\n\n")[0]
        assert all(line.endswith(".") and "..." not in line for line in listed.splitlines())


@pytest.mark.parametrize("option", ["--batch-size", "--batch_size"])
def test_errors_name_the_option(option):
    given = ["--examples", "10", "--noise-multiplier", "1", "--epochs", "1"]
    done = CliRunner().invoke(app, ["epsilon", *given, option, "0"])
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith("--batch-size must be a whole number")


def ended(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that runs `code` with the command line `arguments`."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


RUN = "from hushgrad.cli import main; main()"


def test_status_says_whose_mistake_it_was():
    wrong = ended(RUN, "plan", "--examples", "0", "--epsilon", "1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: --examples must be")
    assert "Traceback" not in wrong.stderr
    unknown = ended(RUN, "plan", "--exmples", "5")
    assert unknown.returncode == 2
    assert "--examples" in unknown.stderr


def test_a_fault_of_our_own_is_not_taken_for_a_failed_check(monkeypatch, capsys):
    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(command_line, "app", broken)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in said
    assert said.endswith("please report what stands above\n")


def test_colours_are_off_in_a_pipe():
    given = ["plan", "--examples", "1000", "--epsilon", "1", "--epochs", "5"]
    assert "\x1b" not in ended(RUN, *given, TERM="xterm-256color").stdout
    assert "\x1b" not in ended(RUN, "--help", TERM="xterm-256color").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell):
    # What each shell's script asks for, as typer defines it.
    words = {"COMP_WORDS": "hushgrad ep", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "hushgrad ep"}
    asked = {"_HUSHGRAD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; sys.argv = ['hushgrad']; " + RUN
    assert "epsilon" in ended(code, **words, **asked).stdout


def test_a_budget_speaks_json(tmp_path):
    url = f"sqlite:///{tmp_path / 'budgets.sqlite'}"
    made = shown(
        "budget", "create", "b", "--epsilon", "2", "--delta", "1e-5", "--url", url, "--json"
    )
    assert json.loads(made)["epsilon"] == 2
    head = json.loads(shown("budget", "verify", "b", "--url", url, "--json"))["head"]
    assert head == json.loads(shown("budget", "show", "b", "--url", url, "--json"))["head"]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> dict[str, Any]:
    """What the doctor says of this machine."""
    folder = tmp_path_factory.mktemp("doctor")
    done = ended(f"import os; os.chdir({str(folder)!r}); {RUN}", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "nothing is left behind"
    return json.loads(done.stdout)


def test_the_doctor_finds_nothing_wrong_here(healthy):
    assert healthy["passed"]
    assert [check["name"] for check in healthy["checks"]] == [*doctor._CHECKS]
    assert healthy["installed"]["jax"]
    assert healthy["devices"]
    assert min(healthy["speed"].values()) > 0


@pytest.mark.parametrize(
    ("name", "planted", "said"),
    [
        ("gradients", ("hushgrad.gradients.check.clipped_grad", "_doubled"), "at most 0.0001"),
        ("noise", ("hushgrad.noise.chacha.key_stream", "_constant"), "RFC 8439"),
        ("noise", ("hushgrad.noise.normal.standard_normal", "_halved"), "variance 0.2"),
        ("accounting", ("hushgrad.accounting.epsilon", "_optimistic"), "dp_accounting"),
        ("ledger", ("hushgrad.training.train", "_refuses"), "InputError: no"),
    ],
)
def test_the_doctor_finds_what_is_wrong(monkeypatch, tmp_path, name, planted, said):
    monkeypatch.chdir(tmp_path)
    where, what = planted
    module = importlib.import_module(where.rpartition(".")[0])
    attribute = where.rpartition(".")[2]
    monkeypatch.setattr(module, attribute, globals()[what](getattr(module, attribute)))
    found = doctor._tried(name, doctor._CHECKS[name])
    assert not found.passed
    assert said in found.told


def _doubled(right: Any) -> Any:
    """Sums of twice the clip."""

    def broken(loss: Any, clip: float) -> Any:
        def run(*given: Any) -> Any:
            out = right(loss, clip)(*given)
            return out._replace(grads=jax.tree.map(lambda g: 2 * g, out.grads))

        return run

    return broken


def _constant(right: Any) -> Any:
    return lambda key, nonce, counter: [0 * word for word in right(key, nonce, counter)]


def _halved(right: Any) -> Any:
    return lambda *given: right(*given) / 2


def _optimistic(right: Any) -> Any:
    return lambda *given: right(*given) - 0.1


def _refuses(right: Any) -> Any:
    def broken(*given: Any, **named: Any) -> Any:
        raise InputError("no")

    return broken
