"""What a run left: its identity, its ledger, what it promised, what was measured of it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dp_accounting

from hushgrad import accounting
from hushgrad.errors import DataError, HushgradError, InputError
from hushgrad.mechanism import Mechanism, Plan
from hushgrad.report.chain import Chain, runs_of
from hushgrad.schedules import Schedule
from hushgrad.summaries import Histograms
from hushgrad.training.directory import Identity, begun
from hushgrad.training.run import Run
from hushgrad.training.tune import Selection

__all__ = ["Kept", "plan_of"]

_TUNING = "tuning.json"


@dataclasses.dataclass(frozen=True)
class Kept:
    """A run as its directory shows it, or, of Keras, its ledger alone.

    Attributes:
      path: of the directory or the ledger.
      name: the run's.
      chain: its ledger.
      plan: what was to run.
      identity: what the directory says of the run; None where there is a ledger alone.
      saved: after how many steps there are checkpoints.
      versions: with which it was begun, if it was written down.
      before: a release that was made of the same records before the training, or None.
      seeded_before: whether that one's secrets came from a seed.
      selection: what the run was chosen from, if it is the best of a tuning.
    """

    path: Path
    name: str
    chain: Chain
    plan: Plan
    identity: Identity | None = None
    saved: tuple[int, ...] = ()
    versions: Mapping[str, str] | None = None
    before: Histograms | None = None
    seeded_before: bool = False
    selection: Selection | None = None

    @classmethod
    def of(cls, run: Any, training: str | None = None) -> Kept:
        """What a run left.

        Args:
          run: a `hg.Run`, its directory, that of a tuning, or a ledger of Keras's.
          training: of a ledger that holds several, the beginning of one's name.

        Raises:
          InputError: if there is no run.
          ResumeError: if what identifies it cannot be read.
        """
        path = _path(run)
        if path.is_file():
            return cls._of_ledger(path, training)
        if training is not None:
            raise InputError(
                f"training={training!r} is for a ledger that holds several, and {str(path)!r} is "
                "a directory; leave it out"
            )
        path, selection = _chosen(path)
        found = begun(path) if path.is_dir() else None
        if found is None:
            raise InputError(
                f"run must be the directory of a run, which has a run.json, got {str(path)!r}; "
                "name what was given to hg.train or hushgrad train as directory"
            )
        # Before the ledger is read, since the run may be going on: no later checkpoint is amiss.
        places = [place.name for place in (path / "checkpoints").glob("*")]
        return cls(
            path=path,
            name=found[0],
            chain=Chain.of(path / "ledger.sqlite", found[0]),
            plan=plan_of(found[1].mechanism),
            identity=found[1],
            saved=tuple(int(name) for name in places if name.isdecimal()),
            versions=_json(path / "run.json").get("versions"),
            before=_before(path),
            seeded_before=bool(_spent(path).get("seeded")),
            selection=selection,
        )

    @classmethod
    def _of_ledger(cls, file: Path, training: str | None) -> Kept:
        names = runs_of(file)
        chosen = [name for name in names if name.startswith(training or "")]
        if len(chosen) != 1:
            listed = ", ".join(names) or "none"
            raise InputError(
                f"training must name one of those in {str(file)!r} ({listed}), got {training!r}"
            )
        chain = Chain.of(file, chosen[0])
        opening = [entry for entry in chain.entries if entry.kind == "open"]
        if not opening:
            raise InputError(
                f"{str(file)!r} does not say what ran as {chosen[0]!r}: {chain.problem}"
            )
        return cls(file, chosen[0], chain, plan_of(opening[0].content["mechanism"]))

    @property
    def label(self) -> str:
        """What people call it: the directory's name, that of the tuning if it is its best."""
        place = self.path if self.selection is None else self.path.parent
        return place.resolve().name

    @property
    def problems(self) -> list[str]:
        """Why what it says it spent cannot be trusted; nothing, where it can."""
        chain, identity = self.chain, self.identity
        if chain.problem is not None:
            return [chain.problem]
        charged, found = chain.charged, []
        if charged != list(range(len(charged))):
            found.append("the ledger's steps are not charged one after the other, each once")
        if len(charged) > self.plan.steps:
            found.append(
                f"the ledger has {len(charged):,} steps of a mechanism of {self.plan.steps:,}"
            )
        opening = [e.content.get("mechanism") for e in chain.entries if e.kind == "open"]
        if identity is not None and opening != [identity.mechanism]:
            found.append("run.json names another mechanism than the ledger")
        if self.result.get("steps", len(charged)) != len(charged):
            found.append(
                f"result.json was written after {self.result['steps']:,} steps, and the ledger "
                f"shows {len(charged):,}"
            )
        beyond = max([*chain.checkpoints, chain.finished or 0, *self.saved], default=0)
        if beyond > len(charged):
            found.append(
                f"something was released after step {beyond:,}, of which the ledger shows "
                f"{len(charged):,}: rows were cut off"
            )
        return found

    @property
    def state(self) -> str:
        """Of "finished", "unfinished" (it goes on, or was broken off) and "unknown"."""
        if self.problems:
            return "unknown"
        return "unfinished" if self.chain.finished is None else "finished"

    @property
    def charged(self) -> int:
        """How many steps were charged."""
        return len(self.chain.charged)

    @property
    def seeded(self) -> bool | None:
        """Whether its secrets came from a seed; None where nobody wrote it down."""
        return None if self.identity is None else self.identity.seeded or self.seeded_before

    @property
    def delta(self) -> float:
        """At which epsilon is stated."""
        return self.plan.delta

    @property
    def accountant(self) -> str:
        """By which all that was released is counted."""
        return "pld" if self.selection is None else "rdp"

    @property
    def relation(self) -> str:
        """What may differ between two data sets that nobody can tell apart."""
        return self.plan.neighbouring_relation

    def event(self, steps: int) -> dp_accounting.DpEvent:
        """All that was released of the records, when so many steps were made."""
        training = self.plan.after(steps).event
        if self.selection is not None and steps:
            training = self.selection.event
        if self.before is None:
            return training
        return dp_accounting.ComposedDpEvent([self.before.event, training])

    def epsilon(self, steps: int, delta: float | None = None) -> float:
        """What that costs."""
        delta = self.delta if delta is None else delta
        return accounting.epsilon(self.event(steps), delta, self.accountant, relation=self.relation)

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        """What the command that trained it wrote at its end."""
        return _json(self._folder / "result.json")

    @functools.cached_property
    def validation(self) -> list[tuple[int, float]]:
        """Steps and scores of `hg.callbacks.Validation`."""
        file = self._folder / "validation.json"
        return [(int(step), float(score)) for step, score in _json(file, list)]

    @property
    def audited(self) -> bool:
        """Whether what an audit found is there."""
        return (self._folder / "audit.json").exists()

    @property
    def has_secret(self) -> bool:
        """Whether the directory still holds what batches and noise are made from."""
        return any((self._folder / name).exists() for name in ("secret.key", "secret.noise"))

    @property
    def _folder(self) -> Path:
        """Of a ledger alone there is none."""
        return self.path if self.path.is_dir() else self.path / "none"


def _path(run: Any) -> Path:
    if isinstance(run, Run):
        return run.directory
    if not isinstance(run, str | Path) or not str(run):
        raise InputError(f"run must be a hg.Run or its directory, got {run!r}")
    return Path(run).expanduser()


def plan_of(plain: Mapping[str, Any]) -> Plan:
    """What a mechanism's or a schedule's `to_dict` wrote."""
    phases = tuple(Mechanism.from_dict(phase) for phase in plain.get("phases", []))
    return Schedule(phases) if phases else Mechanism.from_dict(plain)


def _before(path: Path) -> Histograms | None:
    """What was released to estimate bounds and categories, if that was done privately."""
    drafted = dict(_spent(path).get("mechanism", {}))
    for facts in (_json(path / "bounds.json"), drafted, _json(path / "result.json")):
        if facts.get("histograms"):
            return Histograms(**facts["histograms"])
    return None


def _spent(path: Path) -> dict[str, Any]:
    """What a table's schema says that it cost to estimate it."""
    from hushgrad.datasets import Schema

    file = path / "schema.toml"
    spent = Schema.read(file).spent if file.exists() else None
    return dict(spent or {})


def _chosen(path: Path) -> tuple[Path, Selection | None]:
    """A run's directory, and what it was chosen from if it is the best of a tuning.

    Raises:
      InputError: if it is another of the tuning's, or the best is not known yet.
    """
    tunings = [
        place for place in (path, path.parent, path.parent.parent) if (place / _TUNING).exists()
    ]
    if not tunings:
        return path, None
    best = tunings[0] / "best"
    if path not in (best, tunings[0]) or not best.exists():
        raise InputError(
            f"run={str(path)!r} is of a tuning that releases its best run alone, and that when it "
            "is over; call hg.tune again to end it, then name its directory"
        )
    plain = _json(tunings[0] / _TUNING)["selection"]
    return best, Selection(plan_of(plain["best_of"]), **plain["runs"])


def _json(file: Path, kind: type = dict) -> Any:
    """What a file holds; nothing, if it is not there.

    Raises:
      DataError: if it cannot be read.
    """
    if not file.exists():
        return kind()
    try:
        return kind(json.loads(file.read_text()))
    except HushgradError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); restore it, or take it away") from error
