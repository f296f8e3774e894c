"""What `import hushgrad` gives, and what it costs."""

import subprocess
import sys
import types

import hushgrad as hg


def fresh(code: str) -> str:
    """What a new interpreter prints for `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_importing_hushgrad_waits_for_nothing():
    heavy = ["jax", "numpy", "scipy", "optax", "dp_accounting", "sqlalchemy", "keras", "flwr"]
    code = f"import sys, hushgrad; print([m for m in {heavy} if m in sys.modules])"
    assert fresh(code) == "[]"


def test_all_names_are_there_and_listed():
    assert set(hg.__all__) <= set(dir(hg))
    assert {"audit", "federated", "keras", "sklearn"} <= set(dir(hg))
    assert all(getattr(hg, name) is not None for name in hg.__all__)


def test_a_function_is_not_hidden_by_a_module_that_was_imported_before():
    # Importing a submodule sets a name in its package: none may be that of a function.
    code = (
        "import sys, types, hushgrad as hg, hushgrad.schedules, hushgrad.comparing, "
        "hushgrad.training, hushgrad.gradients\n"
        "print([n for n in hg._HOME if isinstance(getattr(hg, n), types.ModuleType)])"
    )
    assert fresh(code) == "[]"
    assert isinstance(hg.accounting, types.ModuleType)
