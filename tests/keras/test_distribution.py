"""Keras's distributions: the same training, whatever the devices."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("distributed.py")


def run(kind, folder):
    command = [sys.executable, str(SCRIPT), kind, str(folder / f"{kind}.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    place, epsilon, work, *rows = done.stdout.strip().splitlines()[-7:]
    return place, epsilon, float(work), [np.array(row.split(), float) for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run("one", tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(
    ("kind", "replicated"),
    [pytest.param("data", True, marks=pytest.mark.slow), ("model", False)],
)
def test_several_devices_train_the_same(alone, kind, replicated, tmp_path):
    place, epsilon, work, weights = run(kind, tmp_path)
    assert place == f"8 {replicated} 8"
    assert epsilon == alone[1]
    assert alone[0].startswith("1 ")
    # Noise of weights that four devices share out is drawn by each for its part.
    assert replicated or work < 0.5 * alone[2]
    for found, wanted in zip(weights, alone[3], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
