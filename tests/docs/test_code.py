"""Code on the pages: each page's blocks are run in order, as a reader would who follows them."""

import ast
import importlib
import importlib.util
import inspect
import itertools
import re
import subprocess
import sys
import warnings
from typing import Any

import pages as documentation
import platformdirs
import pytest

from hushgrad.training.secret import RunSecret

PAGES = documentation.pages()
PYTHON = [
    block for page in PAGES for block in documentation.blocks(page) if block.language == "python"
]
RUN = [page for page in PAGES if any(b.page == page and b.title is None for b in PYTHON)]
_NAME = re.compile(r"\b(?:hg|hushgrad)(?:\.[A-Za-z_]\w*)+")
_CODE = re.compile(r"`([^`\n]+)`")
# Files and hosts that begin as the package does.
_NO_NAME = re.compile(r"hushgrad\.(toml|yml|md)$")


def name(path):
    return str(path.relative_to(documentation.ROOT))


@pytest.fixture
def chance(monkeypatch):
    """Batches and noise from numbers, so that a failure repeats."""
    numbers = itertools.count()
    monkeypatch.setattr(
        RunSecret, "fresh", staticmethod(lambda: RunSecret.from_seed(next(numbers)))
    )


def needs_keras():
    """Not imported here: hushgrad must be first, or Keras takes another backend."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs keras: pip install 'hushgrad[keras]'")


@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_pages_code_runs(page, chance, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in ("data", "cache"):  # where the user's own budgets and ledgers are
        own = tmp_path / kind
        monkeypatch.setattr(platformdirs, f"user_{kind}_path", lambda *_, own=own, **__: own)
    if any("import keras" in block.code for block in PYTHON if block.page == page):
        needs_keras()
    names = {"__name__": "page"}
    for block in PYTHON:
        if block.page != page or block.title is not None:
            continue
        # Compiled where it stands, so that a traceback shows the page's own line.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, names)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_code_that_is_not_run_is_python_and_says_why(block):
    ast.parse(block.code)
    assert block.title is None or documentation.TITLES.fullmatch(block.title), block.title


@pytest.mark.parametrize("page", RUN, ids=name)
def test_code_is_kept_as_the_rest(page, tmp_path):
    """ruff reads no Markdown: it gets the blocks, and all of them as one script."""
    code = [b.code for b in PYTHON if b.page == page and b.title is None]
    for number, block in enumerate(code):
        (tmp_path / f"block{number}.py").write_text(block)
    script = tmp_path / "all.py"
    script.write_text("\n".join(code))
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(documentation.ROOT / "pyproject.toml")]
    # Text says what code is for; imports stand where they are needed, and are grouped for reading.
    rules = ["--ignore", "D,E402,F401,F811,I001,PT,RUF001"]
    for command in (
        [*ruff, "check", *config, *rules, str(script)],
        [*ruff, "format", *config, "--diff", *map(str, sorted(tmp_path.glob("block*.py")))],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def resolved(dotted) -> Any:
    """What a name stands for; raises if there is none."""
    rest = dotted.split(".")[1:]
    found: Any = importlib.import_module("hushgrad")
    path = "hushgrad"
    for part in rest:
        path = f"{path}.{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(path)
    return found


def spoken_names(page):
    """Names of hushgrad in a page's text and code, and where."""
    text = documentation.without_blocks(page)
    code = [b.code for b in documentation.blocks(page) if b.language in ("python", "diff", "")]
    spans = _CODE.findall(text) + code
    spans += re.findall(r"^::: (\S+)", text, re.M)
    return sorted({n for span in spans for n in _NAME.findall(span) if not _NO_NAME.fullmatch(n)})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_name_of_hushgrad_is_there(page):
    missing = []
    for dotted in spoken_names(page):
        if dotted.split(".")[1] == "keras":
            needs_keras()
        try:
            resolved(dotted)
        except (AttributeError, ImportError) as error:
            missing.append(f"{dotted}: {error}")
    assert not missing


def calls(text):
    """Calls of hushgrad's functions, with the keywords that they are given."""
    try:
        tree = ast.parse(text.strip())
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if _NAME.fullmatch(called):
                yield called, [k.arg for k in node.keywords if k.arg is not None]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_keyword_is_there(page):
    spans = _CODE.findall(documentation.without_blocks(page))
    spans += [b.code for b in PYTHON if b.page == page and b.title is not None]
    wrong = []
    for span in spans:
        for called, keywords in calls(span):
            taken = inspect.signature(resolved(called)).parameters
            if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
                continue
            wrong += [f"{called}({word}=)" for word in keywords if word not in taken]
    assert not wrong
