"""The strategies found here are as good as those that JAX-Privacy finds."""

import jax
import numpy as np
import pytest

from hushgrad.noise import BLT, Banded, Dense, Periodic, Spaced, Toeplitz

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


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [ONCE, Spaced(4, 50)], ids=str)
def test_blt(pattern):
    steps = 200
    facts = {"min_sep": pattern.apart, "max_participations": pattern.turns}
    found = peer.buffered_toeplitz.optimize(n=steps, error="mean", **facts)
    theirs = BLT(tuple(found.buf_decay), tuple(found.output_scale)).error(steps, pattern)
    assert BLT.of(steps, 4, pattern).error(steps, pattern) <= 1.01 * theirs


@pytest.mark.parametrize("epochs", [1, 4])
def test_dense(epochs):
    steps = 200
    pattern = ONCE if epochs == 1 else Periodic(steps // epochs)
    found = np.array(peer.dense.optimize(steps, epochs=epochs))
    theirs = peer.dense.per_query_error(strategy_matrix=found).mean() ** 0.5
    # Columns of one period are orthogonal, so their squares add up.
    turns = np.sum(found**2, axis=0).reshape(epochs, -1)
    theirs *= np.sqrt(turns.sum(axis=0).max())
    assert Dense.of(steps, pattern).error(steps, pattern) <= 1.01 * theirs
