"""A round's clients shared out over devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hushgrad.errors import InputError


def test_eight_devices_give_the_model_of_one():
    script = Path(__file__).with_name("devices.py")
    there = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=there, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["alike"]


def test_what_is_no_mesh(process):
    with pytest.raises(InputError, match="mesh must be a jax"):
        process(mesh=8)
