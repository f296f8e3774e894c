"""Runs once for all tests of reports, and copies of them to be damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import EXAMPLES, mechanism
from reported import data, trained

import hushgrad as hg


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> hg.Run:
    run = trained(tmp_path_factory.mktemp("runs") / "finished")
    assert run is not None
    return run


@pytest.fixture(scope="session")
def broken_off(tmp_path_factory) -> Path:
    """A run that ended after seven steps of twelve."""
    place = tmp_path_factory.mktemp("runs") / "broken"
    assert trained(place, stop_after=7) is None
    return place


@pytest.fixture(scope="session")
def audited(tmp_path_factory) -> dict[str, Path]:
    """A run for each of two kinds of canaries: made up, and of real records."""
    places = {}
    for kind in ("gradient", "rows"):
        places[kind] = tmp_path_factory.mktemp("runs") / kind
        trained(
            places[kind],
            data=data(2),
            mechanism=mechanism(examples=2 * EXAMPLES, batch_size=24),
            audit=hg.audit.Canaries(40, kind=kind),
        )
    return places


@pytest.fixture
def copied(tmp_path) -> Callable[[Path], Path]:
    """A copy of a run, to be damaged."""

    def copy(place: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(place, tmp_path / name))

    return copy
