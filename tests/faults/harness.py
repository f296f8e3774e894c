"""One trial: a run meets faults until it ends, then all accounts are compared."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import hushgrad as hg

sys.path.insert(0, str(Path(__file__).parent))
import victim

__all__ = ["FAULTS", "Trial", "unbroken"]

_VICTIM = Path(__file__).with_name("victim.py")
_PATIENCE = 300.0
_REFUSED = 3


@dataclasses.dataclass
class Trial:
    """A run in a folder of its own, with a budget and chance of its own.

    Attributes:
      folder: for the run, its budget and what it released.
      rng: where and when faults strike.
      want: the parameters of a run that nothing happened to.
      told: messages of those calls that were refused.
    """

    folder: Path
    rng: random.Random
    want: dict[str, np.ndarray]
    told: list[str] = dataclasses.field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'budget.sqlite'}"

    def start(self, *more: str) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, str(_VICTIM), str(self.run), self.url, *more]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    def released(self) -> int:
        """The last step that anybody can have seen."""
        log = self.folder / "released.log"
        steps = [int(line) for line in log.read_text().split()] if log.exists() else []
        return max(steps, default=0)

    def wait_for(self, process: subprocess.Popen[str], step: int) -> None:
        """Until a step was released, or the process is over."""
        while process.poll() is None and self.released() < step:
            time.sleep(0.002)

    def ended(self, process: subprocess.Popen[str]) -> int:
        out, _ = process.communicate(timeout=_PATIENCE)
        if process.returncode == _REFUSED:
            self.told.append(out.strip())
        return process.returncode

    def accounts(self) -> None:
        """What was spent is never below what was released, in both ledgers."""
        released = self.released()
        ledger = self.run / "ledger.sqlite"
        if ledger.exists():
            with sqlite3.connect(ledger) as database:
                query = "select count(*) from entries where kind = 'charge'"
                assert database.execute(query).fetchone()[0] >= released
        elif released:
            raise AssertionError(f"{released} steps were released without a ledger")
        budget = hg.Budget("victims", victim.TOTAL, 1e-4, url=self.url)
        charged = max((run.charged for run in budget.runs), default=0)
        held = budget.epsilon_held
        budget.verify()
        budget.disconnect()
        assert charged >= released
        assert held >= victim.mechanism().epsilon(steps=released)

    def finish(self) -> None:
        """The same call ends as if nothing had happened, and nothing more is spent."""
        assert self.ended(self.start()) == 0, self.told
        with np.load(self.folder / "result.npz") as found:
            for name, want in self.want.items():
                assert found[name].tobytes() == want.tobytes(), name
        self.accounts()
        budget = hg.Budget("victims", url=self.url)
        runs = [run for run in budget.runs if run.status == "finished"]
        assert [run.charged for run in runs] == [victim.STEPS]
        # A process that died before its run was written down may have left a reservation.
        assert all(run.charged == 0 for run in budget.runs if run.status == "open")
        budget.disconnect()


def unbroken(folder: Path) -> dict[str, np.ndarray]:
    """The parameters of a run that nothing happens to."""
    trial = Trial(folder, random.Random(0), {})
    assert trial.ended(trial.start()) == 0, trial.told
    with np.load(folder / "result.npz") as found:
        return {name: found[name] for name in found.files}


def killed(trial: Trial) -> None:
    """SIGKILL at a random moment: while starting, at a step, a little later, again and again."""
    for _ in range(trial.rng.randint(1, 3)):
        process = trial.start()
        if trial.rng.random() < 0.2:
            time.sleep(trial.rng.uniform(0, 4))
        else:
            trial.wait_for(process, trial.released() + trial.rng.randint(1, 25))
            time.sleep(trial.rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        trial.accounts()


def full_disk(trial: Trial) -> None:
    """No file may grow beyond a random size."""
    limit = int(2 ** trial.rng.uniform(8, 18))
    assert trial.ended(trial.start(str(limit))) in (0, _REFUSED)
    trial.accounts()
    assert all("\n" not in told for told in trial.told)


def damaged_checkpoint(trial: Trial) -> None:
    """Killed, then a random file of the last checkpoint is cut, emptied, changed or removed."""
    process = trial.start()
    trial.wait_for(process, trial.rng.randint(15, 50))
    process.kill()
    process.communicate()
    checkpoints = trial.run / "checkpoints"
    steps = sorted((int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()), reverse=True)
    files = [p for p in (checkpoints / str(steps[0])).rglob("*") if p.is_file()]
    file = trial.rng.choice(sorted(files))
    content = bytearray(file.read_bytes())
    how = trial.rng.choice(["cut", "empty", "change", "remove"])
    if how == "remove":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif content:
        content[trial.rng.randrange(len(content))] ^= 0xFF
        file.write_bytes(content)


def locked_ledgers(trial: Trial) -> None:
    """Somebody holds both databases for a while, in the middle of the run."""
    process = trial.start()
    trial.wait_for(process, trial.rng.randint(1, 40))
    for file in (trial.run / "ledger.sqlite", trial.folder / "budget.sqlite"):
        if file.exists() and process.poll() is None:
            holder = sqlite3.connect(file, isolation_level=None, timeout=30)
            holder.execute("BEGIN IMMEDIATE")
            time.sleep(trial.rng.uniform(0.1, 7))
            holder.execute("ROLLBACK")
            holder.close()
    assert trial.ended(process) == 0, trial.told


def two_at_once(trial: Trial) -> None:
    """A second process in the same directory is refused, and harms nothing."""
    first = trial.start()
    trial.wait_for(first, trial.rng.randint(1, 10))
    second = trial.start()
    codes = {trial.ended(second), trial.ended(first)}
    assert codes <= {0, _REFUSED}
    assert 0 in codes
    assert all("another process is training" in told for told in trial.told)


def interrupted(trial: Trial) -> None:
    """Ctrl-C, then SIGTERM in the next."""
    for number in (signal.SIGINT, signal.SIGTERM):
        process = trial.start()
        trial.wait_for(process, trial.released() + trial.rng.randint(1, 20))
        process.send_signal(number)
        process.communicate(timeout=_PATIENCE)
        trial.accounts()


FAULTS: Sequence[Callable[[Trial], None]] = (
    killed,
    killed,
    full_disk,
    damaged_checkpoint,
    locked_ledgers,
    two_at_once,
    interrupted,
)
