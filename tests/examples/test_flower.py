"""The example for Flower: a superlink and two supernodes with TLS, one of them killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("flwr", reason="flwr is an extra: pip install 'hushgrad[flower]'")
ROUND = re.compile(r"round (\d) of 4: (\d+) writers")


@pytest.mark.slow
def test_a_killed_node_costs_its_writers_and_nothing_else(tmp_path, real_data):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "src"),
        "PORT": str(port),
    }
    # A copy: Flower packs the app's folder, which may be read-only here.
    app = shutil.copytree(ROOT / "examples" / "flower", tmp_path / "app")
    settings = ["rounds=4", "clients-per-round=16", "noise-multiplier=0.7", "timeout=45.0"]
    command = [app / "local.sh", real_data, tmp_path / "work", *settings]
    running = subprocess.Popen(
        [str(part) for part in command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    told: list[str] = []
    deadline = time.monotonic() + 540
    try:
        assert running.stdout is not None
        for line in running.stdout:
            told.append(line)
            assert time.monotonic() < deadline, "".join(told)
            if "round 1 of 4" in line:
                _refuses_plain_text(port)
                node = int((tmp_path / "work" / "node-1.pid").read_text())
                os.kill(node, signal.SIGKILL)
        assert running.wait(60) == 0, "".join(told)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    counts = [(int(m[1]), int(m[2])) for line in told if (m := ROUND.search(line))]
    assert [number for number, _ in counts] == [1, 2, 3, 4], "".join(told)
    # About 16 come while both nodes live, about 8 when one does: 8 less is four deviations.
    assert counts[0][1] > 0
    assert max(count for _, count in counts[2:]) <= 20
    run = tmp_path / "work" / "run"
    with safe_open(run / "weights.safetensors", "np") as file:
        facts = json.loads(file.metadata()["privacy_facts"])
        assert file.get_tensor("0.w").shape == (784, 200)
    assert facts["steps"] == 4
    assert not list(run.glob("secret*"))
    node = (tmp_path / "work" / "node-0.log").read_text()
    assert "Traceback" not in node, node


def _refuses_plain_text(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = plain.recv(100)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 200"), answer
