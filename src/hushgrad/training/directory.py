"""The run's directory: what identifies the run, its secret, its lock."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from hushgrad._version import __version__
from hushgrad.errors import InputError, ResumeError, StorageError
from hushgrad.training.secret import RunSecret
from hushgrad.training.team import Team

__all__ = ["Identity", "RunDirectory", "begun"]

_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Identity:
    """What must be the same for a run to go on.

    Attributes:
      mechanism: as plain data.
      program: fingerprint of the loss and the optimizer as traced.
      content: fingerprint of the data, of the state before the first step, and of
        arrays that the program closes over, keyed with the run's secret.
      block_size: rows per block; sums in other blocks round differently.
      seeded: the secret came from a seed given by the user.
      budget: name of the privacy budget that holds the run, if any.
      audit: what the run is audited by, as plain data, if it is.
    """

    mechanism: dict[str, Any]
    program: str
    content: str
    block_size: int
    seeded: bool
    budget: str | None = None
    audit: dict[str, Any] | None = None


class RunDirectory:
    """Files of one run.

    - `run.json`: the identity; written last, so that it stands for a whole directory.
    - `secret.key`: the run's secret, readable by its owner, removed when the run ends.
    - `ledger.sqlite`: the charged steps.
    - `checkpoints/`: parameters and optimizer state.
    - `canaries.json`, `audit.json`: what an audit drew and what it found; for the owner alone.
    - `secret.noise/`: state of noise that later steps depend on, where there is such noise;
      for its owner alone, removed when the run ends.
    """

    def __init__(self, path: str | Path) -> None:
        """Makes the directory if need be.

        Raises:
          InputError: if it cannot be written to.
        """
        if not isinstance(path, str | Path) or not str(path):
            raise InputError(f"directory must be a path, got {path!r}")
        self.path = Path(path).expanduser()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{uuid.uuid4().hex}"
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"directory {str(self.path)!r} cannot be written to ({error.strerror}); "
                "name one that can"
            ) from error

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.path / "ledger.sqlite"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints' folder."""
        return self.path / "checkpoints"

    @property
    def noise(self) -> Path:
        """The folder for the state of noise that later steps depend on."""
        return self.path / "secret.noise"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the directory.

        Raises:
          ResumeError: if another process is training in it.
        """
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                yield
        except filelock.Timeout as error:
            raise ResumeError(
                f"another process is training in {str(self.path)!r}; wait for it, or use "
                "another directory"
            ) from error

    def check_shared(self, team: Team) -> None:
        """Raises InputError unless all processes see one and the same directory."""
        name = team.first(lambda: f".shared-{uuid.uuid4().hex}")
        team.first((self.path / name).touch)
        seen = team.each((self.path / name).exists)
        team.first((self.path / name).unlink)
        if not all(seen):
            raise InputError(
                f"directory {str(self.path)!r} must be on a file system that all processes share, "
                f"and process {seen.index(False)} does not see there what process 0 writes"
            )

    def load(self) -> tuple[str, Identity] | None:
        """The run's name and identity, or None if no run was begun here.

        Raises:
          ResumeError: if `run.json` cannot be read, or is missing where a run was begun.
        """
        return begun(self.path)

    def begin(self, name: str, identity: Identity) -> None:
        """Records a new run."""
        content = {
            "format": _FORMAT,
            "run": name,
            "identity": dataclasses.asdict(identity),
            # For people to read: a run may go on with others.
            "versions": _versions(),
        }
        _write(self.path / "run.json", json.dumps(content, indent=2) + "\n", 0o644)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a file of facts that only its owner may read, whole or not at all."""
        _write(self.path / name, json.dumps(content) + "\n", 0o600)

    def read(self, name: str) -> dict[str, Any] | None:
        """What `write` wrote, or None.

        Raises:
          ResumeError: if it cannot be read.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            return dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ResumeError(f"{file} cannot be read ({error}); use another directory") from error

    def keep_secret(self, secret: RunSecret) -> None:
        """Writes the secret, readable by its owner alone."""
        _write(self.path / "secret.key", secret.content.hex() + "\n", 0o600)

    def secret(self) -> RunSecret | None:
        """The secret, or None if there is none."""
        file = self.path / "secret.key"
        if not file.exists():
            return None
        try:
            content = bytes.fromhex(file.read_text().strip())
        except ValueError as error:
            raise ResumeError(f"{file} cannot be read ({error}); use another directory") from error
        return RunSecret(content)

    def forget_secret(self) -> None:
        """Removes the secret: nobody can repeat the run's noise any more."""
        (self.path / "secret.key").unlink(missing_ok=True)


def begun(path: Path) -> tuple[str, Identity] | None:
    """The name and identity of the run in a directory, or None if no run was begun there.

    Raises:
      ResumeError: if `run.json` cannot be read, or is missing where a run was begun.
    """
    file = path / "run.json"
    if not file.exists():
        if (path / "ledger.sqlite").exists():
            raise ResumeError(
                f"{str(path)!r} has a ledger but no run.json: what was spent there "
                "cannot be told; use another directory"
            )
        return None
    try:
        content = json.loads(file.read_text())
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return content["run"], Identity(**content["identity"])
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{file} cannot be read ({error}); use another directory") from error


def _versions() -> dict[str, str]:
    return {
        "hushgrad": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _write(file: Path, content: str, mode: int) -> None:
    """Writes a file whole or not at all, durably.

    Raises:
      StorageError: if it cannot be written.
    """
    try:
        _write_or_fail(file, content, mode)
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written ({error.strerror}); mend that, then repeat the call"
        ) from error


def _write_or_fail(file: Path, content: str, mode: int) -> None:
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
