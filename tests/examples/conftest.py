"""Scripts of `examples/` as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def example(monkeypatch):
    """A function that loads an example by its name, as if it were run in its folder."""
    monkeypatch.setattr(sys, "path", [str(_ROOT / "examples"), *sys.path])

    def load(name):
        spec = importlib.util.spec_from_file_location(name, _ROOT / "examples" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Where classes look for the annotations of their fields.
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
