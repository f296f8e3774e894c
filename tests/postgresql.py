"""A PostgreSQL server of the tests' own, on a socket in a folder of theirs."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

BINARIES = [
    folder
    for folder in (
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *([Path(shutil.which("initdb") or "").parent] if shutil.which("initdb") else []),
    )
    if (folder / "initdb").exists()
]


@contextlib.contextmanager
def server() -> Iterator["Server"]:
    """A running server, stopped and removed at the end."""
    # Not in a test's folder: that is root's alone, and the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="hushgrad-", dir="/tmp"))
    try:
        made = Server(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """Can be stopped and started again, as a server that is gone for a while."""

    def __init__(self, folder: Path) -> None:
        self._data, self._socket = folder / "data", folder
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "hushgrad", "-A", "trust", "-N")

    @property
    def url(self) -> str:
        return f"postgresql://hushgrad@/postgres?host={self._socket}"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self._socket}"
        log = str(self._data / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(BINARIES[0] / program), *arguments]
        if os.getuid() == 0:
            user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
            command = ["setpriv", *user, *command]
        # To a file: a server would keep a pipe open as long as it lives.
        with tempfile.TemporaryFile() as out:
            done = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/tmp"
            )
            out.seek(0)
            if done.returncode:
                raise RuntimeError(f"{program} failed: {out.read().decode()}")
