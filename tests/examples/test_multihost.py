"""The example of many machines, as two processes on this one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_train_and_write_the_weights(tmp_path):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("To be, or not to be, that is the question.\n" * 400)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PORT": str(port),
        "ARGUMENTS": "--steps 2 --batch 16",
    }
    command = ["examples/multihost/ssh.sh", str(text), str(run), "localhost", "localhost"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "DP-SGD over 264 examples: 2 steps" in done.stdout
    with safe_open(run / "weights.safetensors", "np") as file:
        facts = json.loads(file.metadata()["privacy_facts"])
        assert file.get_tensor("words").shape == (256, 128)
    assert facts["steps"] == 2
