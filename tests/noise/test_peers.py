"""The strategies found here are as good as those that JAX-Privacy finds."""

import jax
import numpy as np
import pytest

from hushgrad.noise import Banded, Dense, Spaced, Toeplitz

peer = pytest.importorskip(
    "jax_privacy.matrix_factorization", reason="needs JAX-Privacy: pip install 'hushgrad[bench]'"
)
ONCE = Spaced(1, 1)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HUSHGRAD_CACHE_DIR", str(tmp_path))
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("bands", [2, 8, 32])
def test_banded(bands):
    steps = 300
    theirs = peer.banded.per_query_error(peer.banded.optimize(steps, bands=bands)).mean() ** 0.5
    assert Banded.of(steps, bands).error(steps, ONCE) <= 1.01 * theirs


@pytest.mark.parametrize("bands", [2, 32, 1000])
def test_toeplitz(bands):
    steps = 1000
    found = peer.toeplitz.optimize_banded_toeplitz(steps, bands)
    theirs = peer.toeplitz.per_query_error(strategy_coef=found, n=steps).mean() ** 0.5
    theirs *= np.linalg.norm(found)
    assert Toeplitz.of(steps, bands).error(steps, ONCE) <= 1.01 * theirs


def test_dense():
    steps = 200
    found = peer.dense.optimize(steps)
    theirs = peer.dense.per_query_error(strategy_matrix=found).mean() ** 0.5
    theirs *= np.linalg.norm(found, axis=0).max()
    assert Dense.of(steps).error(steps, ONCE) <= 1.01 * theirs
