"""Fixtures that every folder of tests shares."""

import os
from pathlib import Path

# Compiled programs are kept between runs of the tests; before JAX is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data: `HUSHGRAD_TEST_DATA`, else `../shared/data`; skips without."""
    chosen = os.environ.get("HUSHGRAD_TEST_DATA")
    folder = Path(chosen) if chosen else _ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; name one in HUSHGRAD_TEST_DATA")
    return folder
