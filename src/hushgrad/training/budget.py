"""The privacy budget of a data set, held across runs, people and machines."""

from __future__ import annotations

import bisect
import dataclasses
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import dp_accounting
import platformdirs
import sqlalchemy as sa

from hushgrad import accounting
from hushgrad._check import fraction, positive
from hushgrad.accounting import ACCOUNTANTS, RELATIONS, from_plain, to_plain
from hushgrad.errors import BudgetError, InputError, LedgerError
from hushgrad.mechanism import Guarantee, group_of
from hushgrad.training.journal import PATIENCE, Entry, Journal, Row
from hushgrad.training.reservation import Reservation

__all__ = ["Budget", "BudgetRun", "default_url"]

# Under a budget's relation, mechanisms made for these are composed, each counted under the
# budget's own: adding a record tells what replacing an empty one would, and under replace-one
# the accountant counts any of them for a replacement.
_COVERED = {
    "add-or-remove-one": ("add-or-remove-one",),
    "replace-special": ("add-or-remove-one", "replace-special"),
    "replace-one": RELATIONS,
}
# Costs that are remembered.
_KEPT = 256


def default_url() -> str:
    """The address of the user's own budgets: a SQLite file where applications keep data."""
    folder = platformdirs.user_data_path("hushgrad", appauthor=False)
    folder.mkdir(parents=True, exist_ok=True)
    return sa.URL.create("sqlite", database=str(folder / "budgets.sqlite")).render_as_string()


@dataclasses.dataclass(frozen=True)
class BudgetRun:
    """What one run holds of a budget.

    Attributes:
      name: of the run.
      status: "open": its reservation is held; "finished" or "closed": only what was
        charged is.
      mechanism: what was reserved, as plain data.
      steps: reserved.
      charged: steps that were released, or may have been.
      reserved: what all its steps cost, as an event.
      spent: what the steps charged cost.
      opened_at: when it was reserved, in UTC.
      directory: where it runs, as it said itself.
      holder: who may charge to it: the last that reserved it.
    """

    name: str
    status: str
    mechanism: dict[str, Any]
    steps: int
    charged: int
    reserved: dp_accounting.DpEvent
    spent: dp_accounting.DpEvent
    opened_at: str
    directory: str
    holder: str

    @property
    def event(self) -> dp_accounting.DpEvent:
        """What it takes of the budget: all that it reserved while it is open."""
        return self.reserved if self.status == "open" else self.spent


class Budget:
    """The total that may ever be spent on one data set.

    ```python
    budget = hg.Budget("patients-2026", epsilon=3.0, delta=1e-6)
    run = hg.train(loss, params, data, m, optimizer=..., directory=..., budget=budget)
    print(budget.epsilon_held, budget.left(m))
    ```

    A run reserves what its mechanism costs before its first step; the reservations of all
    runs together, composed tightly, never exceed the total, however many processes ask at
    once. A run that ends gives back what it did not spend; one that died keeps its
    reservation until it goes on, or is closed by name.

    Formal guarantee: all releases of all runs that name this budget together are
    (`epsilon`, `delta`)-differentially private if no run's mechanism was chosen by what
    earlier runs released. Where it was, as when a person looks at one run and then plans
    the next, sums of Renyi divergences at one order that was fixed beforehand still hold
    (Feldman and Zrnic 2021, arXiv 2008.11193); the tight "pld", and "rdp" with the order
    that is best in the end, are the usual practice there and not a theorem. What "pld" does
    not cover, such as selection by `hg.tune`, is composed by "rdp" with all the rest.

    Args:
      name: of the data set's budget.
      epsilon: the total; may be left out for a budget that is there.
      delta: at which epsilon is counted; likewise.
      url: of a SQLite or PostgreSQL database, as SQLAlchemy has it; by default a file of
        the user's own.
      neighbouring_relation: what is hidden; likewise.
      unit: whose presence is hidden; likewise.
      accountant: "pld" (tight) or "rdp"; likewise.
      patience: seconds to wait for a database that is locked or gone.

    Raises:
      InputError: if there is no such budget and the total is not given, or an argument is
        out of range.
      BudgetError: if the budget is there with another total, relation or unit.
      LedgerError: if the database cannot be used.
    """

    def __init__(
        self,
        name: str,
        epsilon: float | None = None,
        delta: float | None = None,
        *,
        url: str | None = None,
        neighbouring_relation: str | None = None,
        unit: str | None = None,
        accountant: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise InputError(f"name must be a text of 1 to 200 characters, got {name!r}")
        self.name = name
        self._facts: dict[str, Any] | None = None
        self._runs: dict[str, BudgetRun] = {}
        self._costs: dict[str, float] = {}
        self.url = default_url() if url is None else url
        asked = _asked(epsilon, delta, neighbouring_relation, unit, accountant)
        self._patience = positive("patience", patience)
        self._journal = Journal(self.url, name, self._absorb, self._patience)
        self._journal.refresh()
        if self._facts is None:
            self._journal.write(lambda: self._founding(asked))
        self._agree(asked)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, in this process or another, opens the same database: it is the same budget.
        return _reopened, (self.name, self.url, self._patience)

    @property
    def epsilon(self) -> float:
        """The total."""
        return self._fact("epsilon")

    @property
    def delta(self) -> float:
        """At which epsilon is counted."""
        return self._fact("delta")

    @property
    def neighbouring_relation(self) -> str:
        """What may differ between two data sets that nobody can tell apart."""
        return self._fact("neighbouring_relation")

    @property
    def unit(self) -> str:
        """Whose presence is hidden."""
        return self._fact("unit")

    @property
    def accountant(self) -> str:
        """By which all runs are composed."""
        return self._fact("accountant")

    @property
    def head(self) -> str:
        """The hash of all rows: noted elsewhere, it proves that none was changed since."""
        self._journal.refresh()
        return self._journal.head

    @property
    def runs(self) -> list[BudgetRun]:
        """All runs, in the order of their reservations."""
        self._journal.refresh()
        return list(self._runs.values())

    @property
    def epsilon_held(self) -> float:
        """What all runs cost together, those that are reserved in full."""
        self._journal.refresh()
        return self._cost([run.event for run in self._runs.values()])

    def left(self, mechanism: Guarantee) -> int:
        """How many steps of a mechanism the budget still holds, up to all of its own.

        Raises:
          BudgetError: if the mechanism hides something else than the budget does.
        """
        self._suits(mechanism)
        self._journal.refresh()
        return self._left(mechanism)

    def reserve(
        self, mechanism: Guarantee, run: str | None = None, *, directory: str = ""
    ) -> Reservation:
        """Holds what a mechanism costs, or takes over what a run of that name holds already.

        From then on whoever held it before, such as a copy of the run's directory, can charge
        nothing more to it.

        Args:
          mechanism: what will run.
          run: the run's name; a new one by default.
          directory: where it will run, for people to read.

        Raises:
          BudgetError: if it does not fit, in which case nothing is held; if the mechanism
            hides something else than the budget does; or if the run is over, or holds
            another mechanism.
        """
        self._suits(mechanism)
        name, plain, holder = run or uuid.uuid4().hex, mechanism.to_dict(), uuid.uuid4().hex
        total = 0.0

        def rows() -> list[Row]:
            nonlocal total
            found = self._runs.get(name)
            if found is not None:
                self._continues(found, plain)
                if found.status != "open" or found.holder == holder:
                    return []
                return [("attach", {"run": name, "holder": holder, "directory": directory})]
            total = self._cost([*(r.event for r in self._runs.values()), mechanism.event])
            if not total <= self.epsilon:
                return []
            content = {
                "run": name,
                "mechanism": plain,
                "steps": mechanism.steps,
                "event": to_plain(mechanism.event),
                "directory": directory,
                "holder": holder,
            }
            return [("reserve", content)]

        self._journal.write(rows)
        if name not in self._runs:
            raise BudgetError(self._refusal(mechanism, total))
        found = self._runs.__getitem__
        return Reservation(self.name, name, mechanism, holder, self._journal.write, found)

    def close(self, run: str) -> None:
        """Ends a run that died: what it did not charge is given back.

        A run that is alive after all cannot release anything from then on.

        Raises:
          InputError: if there is no such run, or it is over.
        """

        def rows() -> list[Row]:
            found = self._runs.get(run)
            if found is None or found.status != "open":
                held = [r.name for r in self._runs.values() if r.status == "open"]
                raise InputError(f"run must be one of the open ones, {held}, got {run!r}")
            return [("close", {"run": run})]

        self._journal.write(rows)

    def verify(self, head: str | None = None) -> int:
        """Reads all rows again and checks that each follows from those before it.

        Args:
          head: a hash that was noted earlier: no row up to it may have changed. Without
            one, whoever can write to the database could have made a whole new chain.

        Returns:
          How many rows there are.

        Raises:
          LedgerError: if a row was changed, taken out or cut off.
        """
        digests: list[str] = []
        journal = Journal(self.url, self.name, lambda e: digests.append(e.digest), self._patience)
        try:
            journal.refresh()
        finally:
            journal.close()
        if head is not None and head not in digests:
            raise LedgerError(
                f"no row of {self.name!r} has the hash {head!r} any more: somebody changed the "
                "ledger or cut it off; restore it from a backup"
            )
        return len(digests)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        runs = [
            {
                **{k: v for k, v in vars(run).items() if k not in ("reserved", "spent", "holder")},
                "event": to_plain(run.event),
                "epsilon_alone": self._cost([run.event]),
            }
            for run in self.runs
        ]
        assert self._facts is not None
        held = self._cost([run.event for run in self._runs.values()])
        return {"name": self.name, **self._facts, "epsilon_held": held, "runs": runs} | {
            "head": self._journal.head
        }

    def disconnect(self) -> None:
        """Closes the connections to the database; nothing is given back."""
        self._journal.close()

    def _fact(self, name: str) -> Any:
        assert self._facts is not None
        return self._facts[name]

    def _founding(self, asked: dict[str, Any]) -> list[Row]:
        if self._facts is not None:
            return []
        if asked["epsilon"] is None or asked["delta"] is None:
            raise InputError(
                f"there is no budget {self.name!r} in {_shown(self.url)}: give epsilon and delta "
                "to make it"
            )
        facts = {
            "neighbouring_relation": RELATIONS[0],
            "unit": "example",
            "accountant": next(iter(ACCOUNTANTS)),
        }
        return [("create", {**facts, **{k: v for k, v in asked.items() if v is not None}})]

    def _agree(self, asked: dict[str, Any]) -> None:
        for name, value in asked.items():
            if value is not None and value != self._fact(name):
                raise BudgetError(
                    f"budget {self.name!r} was made with {name}={self._fact(name)!r}, not "
                    f"{value!r}; leave {name} out, or name another budget"
                )

    def _suits(self, mechanism: Guarantee) -> None:
        if not isinstance(mechanism, Guarantee):
            raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
        relation, unit = mechanism.neighbouring_relation, mechanism.unit
        if relation not in _COVERED[self.neighbouring_relation]:
            raise BudgetError(
                f"budget {self.name!r} is for {self.neighbouring_relation} and cannot hold a "
                f"mechanism for {relation}; use another sampling, or another budget"
            )
        if unit != self.unit:
            raise BudgetError(
                f"budget {self.name!r} is for the unit {self.unit!r} and cannot hold a mechanism "
                f"for {unit!r}; use another budget"
            )

    def _continues(self, found: BudgetRun, plain: dict[str, Any]) -> None:
        if found.mechanism != plain:
            raise BudgetError(f"run {found.name!r} holds another mechanism; use another name")
        if found.status == "closed":
            raise BudgetError(
                f"run {found.name!r} was closed after {found.charged} steps; begin another in "
                "another directory"
            )

    def _refusal(self, mechanism: Guarantee, total: float) -> str:
        held = self._cost([run.event for run in self._runs.values()])
        return (
            f"budget {self.name!r} holds epsilon={self.epsilon:g} at delta={self.delta:g}; with "
            f"this run it would be {total:.4g} (without: {held:.4g}). It holds "
            f"{self._left(mechanism):,} of the run's {mechanism.steps:,} steps: take fewer steps "
            "or more noise, or close runs that died"
        )

    def _left(self, mechanism: Guarantee) -> int:
        events = [run.event for run in self._runs.values()]

        def exceeds(steps: int) -> bool:
            return self._cost([*events, mechanism.after(steps).event]) > self.epsilon

        return max(0, bisect.bisect_left(range(mechanism.steps + 1), True, key=exceeds) - 1)

    def _cost(self, events: Sequence[dp_accounting.DpEvent]) -> float:
        """Of all events together, under the budget's relation, by the best that covers them."""
        composed = dp_accounting.ComposedDpEvent(list(events))
        key = repr(composed)
        if key not in self._costs:
            if len(self._costs) > _KEPT:
                self._costs.clear()
            self._costs[key] = self._computed(composed)
        return self._costs[key]

    def _computed(self, composed: dp_accounting.DpEvent) -> float:
        # What the tight accountant does not cover, such as selection over runs, Renyi's may.
        ways, refused = list(dict.fromkeys((self.accountant, "rdp"))), None
        for accountant in ways:
            try:
                return accounting.epsilon(
                    composed, self.delta, accountant, relation=self.neighbouring_relation
                )
            except InputError as error:
                refused = error
        raise BudgetError(
            f"no accountant covers the runs of {self.name!r} together ({refused}); use another "
            "budget for such a mechanism"
        )

    def _absorb(self, entry: Entry) -> None:
        content = entry.content
        if entry.kind == "create":
            self._facts = {**content, "created_at": entry.written_at}
            return
        name = content["run"]
        if entry.kind == "reserve":
            self._runs[name] = BudgetRun(
                name=name,
                status="open",
                mechanism=content["mechanism"],
                steps=content["steps"],
                charged=0,
                reserved=from_plain(content["event"]),
                spent=dp_accounting.NoOpDpEvent(),
                opened_at=entry.written_at,
                directory=content["directory"],
                holder=content["holder"],
            )
            return
        self._runs[name] = dataclasses.replace(self._runs[name], **_changes(entry))


def _reopened(name: str, url: str, patience: float) -> Budget:
    return Budget(name, url=url, patience=patience)


def _changes(entry: Entry) -> dict[str, Any]:
    """What a row changes of the run that it names."""
    content = entry.content
    if entry.kind == "attach":
        return {"holder": content["holder"], "directory": content["directory"]}
    if entry.kind == "charge":
        return {"charged": content["steps"], "spent": from_plain(content["event"])}
    return {"status": "finished" if entry.kind == "finish" else "closed"}


def _asked(
    epsilon: float | None,
    delta: float | None,
    relation: str | None,
    unit: str | None,
    accountant: str | None,
) -> dict[str, Any]:
    if accountant is not None and accountant not in ACCOUNTANTS:
        known = ", ".join(repr(name) for name in ACCOUNTANTS)
        raise InputError(f"accountant must be one of {known}, got {accountant!r}")
    if relation is not None and relation not in RELATIONS:
        known = ", ".join(repr(name) for name in RELATIONS)
        raise InputError(f"neighbouring_relation must be one of {known}, got {relation!r}")
    checks: dict[str, Callable[[str, Any], float]] = {"epsilon": positive, "delta": fraction}
    given = {"epsilon": epsilon, "delta": delta}
    return {
        **{k: None if v is None else checks[k](k, v) for k, v in given.items()},
        "neighbouring_relation": relation,
        "unit": None if unit is None else _unit(unit),
        "accountant": accountant,
    }


def _unit(unit: Any) -> str:
    group_of(unit)  # or an error
    return unit


def _shown(url: str) -> str:
    return sa.make_url(url).render_as_string()
