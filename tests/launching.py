"""Several processes on this machine that train together, four devices in all."""

import json
import os
import socket
import subprocess
import sys


def launched(script, count, folder, scenes):
    """What each of so many processes says of each scene.

    They are called as `python SCRIPT PORT COUNT INDEX FOLDER SCENE...`, and write
    "INDEX of COUNT.json" in the folder.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, str(script), str(port), str(count)]
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    running = [
        subprocess.Popen(
            [*command, str(index), str(folder), *scenes],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    try:
        told = [process.communicate(timeout=400)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    # The last dies where it is to be killed.
    dies = any(scene.startswith("killed") for scene in scenes)
    expected = [0] * (count - 1) + [7 if dies else 0]
    codes = [process.returncode for process in running]
    assert codes == expected, "\n".join(told)
    return [json.loads((folder / f"{i} of {count}.json").read_text()) for i in range(count)]
