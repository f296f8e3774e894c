"""All that a report says, as plain data."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np

from hushgrad import accounting
from hushgrad._version import __version__
from hushgrad.audit import CanariesFound
from hushgrad.errors import InputError
from hushgrad.report.kept import Kept
from hushgrad.report.metrics import logged, scores
from hushgrad.report.notices import notices
from hushgrad.report.public import published
from hushgrad.summaries import Releases

__all__ = ["accuracy", "facts"]

_FORMAT = 1
# Epsilon over the steps is told at so many; of noise that depends on other steps', at fewer.
_POINTS, _FEW = 25, 9
_SHOWN = 200
# Of longer logs and ledgers some lines are left out.
_LINES, _GROUPS = 500, 200
_SHARES = sorted({*np.linspace(0, 1, 101).round(2).tolist(), 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3})
_LEAST = 1e-4


def facts(
    run: Any,
    *,
    public: bool = False,
    metrics: str | Path | None = None,
    title: str | None = None,
    training: str | None = None,
) -> dict[str, Any]:
    """All that a report says of a run, as plain data.

    ```python
    told = hg.report.facts("runs/mine")
    told["privacy"]["epsilon"], told["trusted"], told["run"]["state"]
    ```

    Everything that is promised is computed from the run's ledger, which is followed row by row;
    where it cannot be trusted, nothing is promised, and `problems` says why.

    Args:
      run: a `hg.Run`, its directory, that of `hg.tune`, or the ledger of a private Keras model.
      public: leaves out what is not private, and what tells of people and machines.
      metrics: lines of `hg.callbacks.JsonLines`; by default `metrics.jsonl` in the directory.
      title: of the report; by default the directory's name, and none where it is public.
      training: of a ledger with several trainings, the beginning of the name of one.

    Raises:
      InputError, DataError, ResumeError: if there is no run, or what it left cannot be read.
    """
    kept = Kept.of(run, training)
    problems = kept.problems
    lines = logged(kept, metrics)
    told: dict[str, Any] = {
        "format": _FORMAT,
        "public": False,
        "made_by": {"hushgrad": __version__},
        "made_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "title": kept.label if title is None else title,
        "trusted": not problems,
        "problems": problems,
        "run": _run(kept),
        "mechanism": kept.plan.to_dict(),
        **(_promised(kept) if not problems else _NOTHING),
        "accuracy": accuracy(kept, lines),
        "unprotected": _unprotected(kept, lines),
        "audit": _audit(kept),
        "ledger": _ledger(kept),
        "versions": None if kept.versions is None else dict(kept.versions),
    }
    told["notices"] = notices(kept, told)
    return published(told, title) if public else told


_NOTHING: dict[str, Any] = {"statement": None, "privacy": None, "curves": None, "bounds": []}


def _run(kept: Kept) -> dict[str, Any]:
    entries, identity = kept.chain.entries, kept.identity
    times = [entries[0].written_at, entries[-1].written_at] if entries else [None, None]
    return {
        "id": kept.name,
        "directory": str(kept.path),
        "state": kept.state,
        "steps_planned": kept.plan.steps,
        "steps_charged": kept.charged,
        "begun_at": times[0],
        "last_at": times[1],
        "begun_on": times[0] and times[0][:10],
        "last_on": times[1] and times[1][:10],
        "seeded": kept.seeded,
        "in_budget": None if identity is None else identity.budget is not None,
        "budget": None if identity is None else identity.budget,
        "secret_is_there": kept.has_secret,
    }


def _promised(kept: Kept) -> dict[str, Any]:
    """What follows from the mechanism and the steps that were charged."""
    steps, relation = kept.charged, kept.relation
    event = kept.event(steps)
    told = accounting.statement_facts(
        kept.plan, steps=steps, seeded=bool(kept.seeded), validation=kept.chain.validation
    )
    told["attack"] |= {
        "true_positive_at_most": _most(event, told["attack"]["false_positive"], relation),
        "posterior_from_even_odds": _sure(kept.epsilon(steps)),
    }
    told |= {
        "epsilon": _finite(kept.epsilon(steps)),
        "epsilon_planned": _finite(kept.epsilon(kept.plan.steps)),
        "accountant": kept.accountant,
        "counted_with": _beside(kept),
        "examples": kept.plan.phases[0].examples,
    }
    return {
        "statement": _statement(kept),
        "privacy": told,
        "curves": _curves(kept) if steps else None,
        "bounds": _bounds(kept) if steps else [],
    }


def _statement(kept: Kept) -> str:
    if not kept.charged and kept.before is None:
        return "No step was charged yet: nothing is spent, and nothing promised."
    seeded, made = bool(kept.seeded), kept.plan.after(kept.charged)
    (first, *_), several = made.phases, len(made.phases) > 1
    head = ""
    if kept.selection is not None:
        head = (
            f"The best of a random, secret number of runs ({kept.selection.mean:g} on average) was "
            "released, and nothing of the others. For all of them together, composed:\n"
            f"    epsilon = {kept.epsilon(kept.charged):.4f} at delta = {kept.delta:g}\n\n"
            "What follows is about one run alone.\n\n"
        )
    if kept.before is not None and not several:
        public = ["the number of records", "what was declared of the columns and not estimated"]
        return head + Releases(first, kept.before).statement(public, seeded=seeded)
    return head + accounting.statement(
        kept.plan, steps=kept.charged, seeded=seeded, validation=kept.chain.validation
    )


def _beside(kept: Kept) -> str | None:
    """What is counted with the training."""
    if kept.selection is not None:
        return "the choice of the best of several runs"
    return None if kept.before is None else "the estimate of bounds that came before it"


def _most(event: Any, false_positive: float, relation: str) -> float:
    try:
        return false_positive + accounting.advantage(event, false_positive, relation=relation)
    except InputError:
        return 1.0


def _sure(epsilon: float) -> float:
    return 1 / (1 + math.exp(-epsilon))


def _curves(kept: Kept) -> dict[str, Any]:
    event, relation = kept.event(kept.charged), kept.relation
    found: dict[str, Any] = {"spent": _spent(kept), "profile": None, "trade_off": None}
    try:
        profile = accounting.profile(event, relation=relation)
        trade_off = accounting.trade_off(event, _SHARES, relation=relation)
    except InputError:  # nothing tight is known, as of a choice among runs
        return found
    found["profile"] = {name: values.tolist() for name, values in profile._asdict().items()}
    found["trade_off"] = {name: values.tolist() for name, values in trade_off._asdict().items()}
    return found


def _spent(kept: Kept) -> dict[str, Any] | None:
    """Epsilon over the steps, to the end of the plan."""
    if kept.selection is not None:
        return None
    total = kept.plan.steps
    correlated = any(m.strategy.correlated for m in kept.plan.phases)
    # Closer in the beginning, where it grows fastest.
    marks = np.linspace(0, 1, _FEW if correlated else _POINTS) ** 2 * total
    steps = sorted({*np.ceil(marks).astype(int).tolist(), kept.charged, total})
    return {"steps": steps, "epsilon": [_finite(kept.epsilon(step)) for step in steps]}


def _bounds(kept: Kept) -> list[dict[str, Any]]:
    try:
        found = accounting.bounds(kept.event(kept.charged), kept.delta, relation=kept.relation)
    except InputError:
        return []
    return [{**vars(bound), "epsilon": _finite(bound.epsilon)} for bound in found]


def accuracy(kept: Kept, lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Scores over the steps and in the end, each with whether its data are public; or None."""
    over_steps, result, final = scores(kept, lines), kept.result, None
    for name in ("test_accuracy", "test_rmse"):
        if name in result:
            of = "public" if result.get("test_set") == "public" else "private"
            final = {"name": name, "score": result[name], "set": of}
    if not over_steps and final is None:
        return None
    return {"scores": over_steps, "final": final}


def _unprotected(kept: Kept, lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    rows = _thinned([_row(kept, line) for line in lines])
    if not rows:
        return None
    return {name: [row[name] for row in rows] for name in rows[0]}


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Few enough to be shown: evenly spaced, and some of those where gradients were not finite."""
    evenly = np.linspace(0, len(rows) - 1, min(len(rows), _LINES)).astype(int).tolist()
    odd = [place for place, row in enumerate(rows) if row["nonfinite"]]
    return [rows[place] for place in sorted({*evenly, *odd[:_LINES]})]


def _row(kept: Kept, line: dict[str, Any]) -> dict[str, Any]:
    own, step = line.get("unprotected", {}), line["step"]
    phase = kept.plan.at(min(step, kept.plan.steps) - 1)[0]
    drawn = _sum(own.get("examples"), own.get("nonfinite"))
    # Canaries that are gradients count as clipped, and not as examples.
    audit = None if kept.identity is None else kept.identity.audit
    clipped = None if audit and audit["kind"] == "gradient" else own.get("clipped")
    return {
        "step": step,
        "loss": own.get("loss"),
        "drawn": drawn,
        "clipped_share": _ratio(clipped, drawn),
        "nonfinite": own.get("nonfinite"),
        "mean_norm": _ratio(own.get("sum_norm"), phase.batch_size),
        "signal_to_noise": _ratio(own.get("sum_norm"), line.get("noise_norm")),
    }


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None else a + (b or 0)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _audit(kept: Kept) -> dict[str, Any] | None:
    planned = None if kept.identity is None else kept.identity.audit
    if not kept.audited:
        return None if planned is None else {"planned": planned, "found": None, "roc": None}
    found = CanariesFound.load(kept.path)
    roc = found.roc
    places = np.unique(np.linspace(0, len(roc.false_positives) - 1, _SHOWN).astype(int))
    return {
        "planned": planned or {"kind": found.kind, "canaries": found.proved.canaries},
        "found": found.to_dict(),
        "roc": {
            "auc": roc.auc,
            "false_positive": roc.false_positives[places].tolist(),
            "true_positive": roc.true_positives[places].tolist(),
            "allowed": _allowed(kept, max(_LEAST, 1 / min(roc.members, roc.non_members))),
        },
    }


def _allowed(kept: Kept, least: float) -> dict[str, Any] | None:
    """The most true positives by false positives, where that is known."""
    if kept.problems:
        return None
    shares = np.geomspace(least, 1, 60)
    try:
        found = accounting.trade_off(
            kept.event(kept.charged), shares.tolist(), relation=kept.relation
        )
    except InputError:
        return None
    most = (1 - found.false_negative).tolist()
    return {"false_positive": shares.tolist(), "true_positive": most}


def _ledger(kept: Kept) -> dict[str, Any]:
    groups: list[dict[str, Any]] = []
    kinds: dict[str, int] = {}
    for entry in kept.chain.entries:
        kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
        step = entry.content.get("step", entry.content.get("steps"))
        last = groups[-1] if groups else None
        if last is None or entry.kind != "charge" or last["kind"] != "charge":
            last = {"kind": entry.kind, "first_row": entry.number, "from": entry.written_at}
            last |= {"first_step": step}
            groups.append(last)
        last |= {"last_row": entry.number, "to": entry.written_at, "last_step": step}
        last |= {"digest": entry.digest}
        if entry.kind == "note":
            last |= {"note": entry.content}
    return {
        "verified": not kept.problems,
        "rows": len(kept.chain.entries),
        "head": kept.chain.head,
        "kinds": kinds,
        "groups": _shortened(groups),
        "other_runs": len(kept.chain.others),
    }


def _shortened(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last rows of a long ledger, and in their middle how many there are more."""
    if len(groups) <= _GROUPS:
        return groups
    first, more, last = groups[: _GROUPS // 2], groups[_GROUPS // 2 :], groups[-_GROUPS // 2 :]
    more = more[: len(groups) - _GROUPS]
    between = {**more[-1], "kind": "more", "first_row": more[0]["first_row"]}
    return [*first, {**between, "from": more[0]["from"], "first_step": None}, *last]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
