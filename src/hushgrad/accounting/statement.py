"""The privacy statement: what is promised, to whom, against what, and what is not."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dp_accounting

from hushgrad._check import whole
from hushgrad._version import __version__
from hushgrad.accounting.accountants import epsilon, epsilon_interval
from hushgrad.accounting.events import poisson_gaussian
from hushgrad.accounting.profile import advantage, posterior
from hushgrad.errors import InputError

if TYPE_CHECKING:
    from hushgrad.mechanism import Mechanism, Plan

__all__ = ["statement", "statement_facts"]

_WIDTH = 78
_FALSE_POSITIVE = 0.01
_NEARLY = 0.999
# Phases of a schedule that are told one by one.
_TOLD = 5


def statement(
    mechanism: Plan,
    *,
    steps: int | None = None,
    seeded: bool = False,
    max_examples_per_user: int | None = None,
    microbatching: bool = False,
    validation: str | None = None,
) -> str:
    """A plain-language statement of a mechanism's guarantee.

    Args:
      mechanism: what ran or would run, a schedule of several included.
      steps: releases made so far; all of the mechanism's by default.
      seeded: the run's secrets came from a seed that somebody knows.
      max_examples_per_user: also what is promised to a user with so many examples.
      microbatching: other systems than this may clip the mean gradient of a microbatch
        of several examples. Then an example that is replaced moves a sum by two clips,
        so that the noise counts half, and with sampling by coins nothing is promised to users.
      validation: "public" or "private", if such a set chose parameters or when to stop.

    Raises:
      InputError: if `max_examples_per_user` is no positive whole number.
    """
    facts = statement_facts(
        mechanism,
        steps=steps,
        seeded=seeded,
        max_examples_per_user=max_examples_per_user,
        microbatching=microbatching,
        validation=validation,
    )
    paragraphs = [
        _wrap(_ran(mechanism, facts)),
        *([_wrap(_MICROBATCHES)] if microbatching else []),
        _wrap(_protected(facts)),
        _table(facts["delta"], facts["readings"], _ordered(mechanism)),
        _wrap(_meaning(facts)),
        _wrap(_delta(mechanism.phases[0])),
        *([_user(facts, _ordered(mechanism))] if "user" in facts else []),
        _wrap(_not_covered(facts)),
        *([_wrap(_VALIDATION[validation])] if validation else []),
        *([_wrap(_SEEDED)] if seeded else []),
    ]
    return "\n\n".join(paragraphs)


def statement_facts(
    mechanism: Plan,
    *,
    steps: int | None = None,
    seeded: bool = False,
    max_examples_per_user: int | None = None,
    microbatching: bool = False,
    validation: str | None = None,
) -> dict[str, Any]:
    """The statement as plain data, for machines; docs/statement.schema.json describes it.

    Takes and raises what `statement` does. An epsilon that no accountant can bound is
    None.
    """
    m, phases = mechanism, mechanism.after(steps).phases
    if microbatching:
        phases = tuple(
            dataclasses.replace(p, noise_multiplier=p.noise_multiplier / 2) for p in phases
        )
    event, relation = _event(phases), m.neighbouring_relation
    facts: dict[str, Any] = {
        "hushgrad": __version__,
        "mechanism": m.to_dict(),
        "steps": sum(p.steps for p in phases),
        "delta": m.delta,
        "unit": phases[0].unit,
        "neighbouring_relation": relation,
        "microbatching": microbatching,
        "readings": _readings(phases, event, m.delta),
        "attack": {
            "false_positive": _FALSE_POSITIVE,
            "true_positive_at_most": _FALSE_POSITIVE + _advantage(event, relation),
            "posterior_from_even_odds": posterior(event, m.delta, relation=relation),
        },
        "covered": ["parameters", "checkpoints"],
        "not_covered": ["losses", "metrics", "norms", "other runs"],
        "validation": validation,
        "seeded": seeded,
    }
    if max_examples_per_user is not None:
        most = whole("max_examples_per_user", max_examples_per_user)
        # A row that stays empty leaves all others in their microbatches; coins do not.
        known = not microbatching or most == 1 or all(p.sampling.kind == "shuffle" for p in phases)
        reading = _user_reading(phases, most, known)
        facts["user"] = {"max_examples": most, "readings": [reading]}
    return facts


def _event(phases: Sequence[Mechanism]) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent([p.event for p in phases])


def _readings(
    phases: Sequence[Mechanism], event: dp_accounting.DpEvent, delta: float
) -> list[dict[str, Any]]:
    relation, sampling = phases[0].neighbouring_relation, _sampling_words(phases)
    below, above = epsilon_interval(event, delta, relation=relation)
    tight = _reading("pld", "proved", sampling, above)
    tight["lower_bound"] = below
    readings = [tight]
    with contextlib.suppress(InputError):  # not every event has a Renyi bound
        renyi = epsilon(event, delta, "rdp", relation=relation)
        readings.append(_reading("rdp", "proved", sampling, renyi))
    shuffled = any(p.sampling.kind == "shuffle" for p in phases)
    if shuffled and phases[0].group == 1 and not any(p.strategy.correlated for p in phases):
        assumed = dp_accounting.ComposedDpEvent(
            [poisson_gaussian(p.sampling_rate, p.noise_multiplier, p.steps) for p in phases]
        )
        for accountant in ("pld", "rdp"):
            worth = epsilon(assumed, delta, accountant)
            readings.append(_reading(accountant, "assumed", "Poisson sampling", worth))
    return readings


def _user_reading(phases: Sequence[Mechanism], most: int, known: bool) -> dict[str, Any]:
    sampling = _sampling_words(phases)
    try:
        if not known:
            raise InputError("a user's examples move others to other microbatches")
        unit = "example" if most == 1 else f"group of {most}"
        event = _event([dataclasses.replace(p, unit=unit) for p in phases])
    except InputError:
        return _reading("pld", "none", sampling, math.inf)
    relation = phases[0].neighbouring_relation
    worth = epsilon(event, phases[0].delta, relation=relation)
    return _reading("pld", "proved", sampling, worth)


def _reading(accountant: str, status: str, sampling: str, worth: float) -> dict[str, Any]:
    known = worth if math.isfinite(worth) else None
    return {"accountant": accountant, "status": status, "sampling": sampling, "epsilon": known}


def _sampling_words(phases: Sequence[Mechanism]) -> str:
    return " and ".join(dict.fromkeys(p.sampling.words for p in phases))


def _advantage(event: dp_accounting.DpEvent, relation: str) -> float:
    try:
        return advantage(event, _FALSE_POSITIVE, relation=relation)
    except InputError:
        return 1 - _FALSE_POSITIVE


def _ran(mechanism: Plan, facts: dict[str, Any]) -> str:
    phases = mechanism.phases
    whose = "users" if facts["unit"] == "user" else "examples"
    method = "DP-FTRL" if any(p.strategy.correlated for p in phases) else "DP-SGD"
    if any(p.strategy.counts for p in phases):
        method = "DP-AdaFEST"
    head = f"{method} over {phases[0].examples:,} {whose}: "
    if phases[0].sampling.kind == "stream":
        head = f"{method} over a stream of {whose}: "
    if len(phases) == 1:
        return head + _phase(phases[0], facts["steps"]) + "."
    told = [f"({n}) {_phase(p, p.steps)}" for n, p in enumerate(phases[:_TOLD], start=1)]
    if len(phases) > _TOLD:
        told.append(f"and {len(phases) - _TOLD:,} more")
    planned = sum(p.steps for p in phases)
    made = "" if facts["steps"] == planned else f", of which {facts['steps']:,} steps were made"
    return head + f"{len(phases):,} phases{made}: " + "; ".join(told) + "."


def _phase(m: Mechanism, steps: int) -> str:
    return (
        f"{steps:,} steps, {m.sampling.describe(m.batch_size)}, gradients {m.clip.describe()}, "
        f"{m.strategy.describe(m.noise_multiplier)}"
    )


def _ordered(mechanism: Plan) -> bool:
    """Whether chance puts examples in an order, and the worst one is accounted for."""
    return any(m.sampling.kind in ("shuffle", "balls-in-bins") for m in mechanism.phases)


def _table(delta: float, readings: list[dict[str, Any]], ordered: bool) -> str:
    lines = [f"At delta = {delta:g}:"]
    for reading in readings:
        worth = reading["epsilon"]
        if reading["status"] == "none":
            lines.append(f"    no guarantee is known; {reading['sampling']}")
            continue
        shown = "infinite" if worth is None else f"{worth:.4f}"
        poisson = reading["sampling"] == "Poisson sampling"
        name = {"pld": "PLD accounting", "rdp": "RDP accounting"}[reading["accountant"]]
        if reading["status"] == "assumed":
            name += "\n        IF BATCHES WERE POISSON SAMPLES, WHICH THEY ARE NOT"
        elif not poisson:
            name += f"; {reading['sampling']}"
        elif reading["accountant"] == "pld":
            name += ", the tight bound"
        lines.append(f"    epsilon = {shown}   {name}")
    below = readings[0].get("lower_bound")
    if below:
        for_what = "the worst order of the batches" if ordered else "a mechanism like this one"
        lines.append(f"    No epsilon below {below:.4f} holds for {for_what}.")
    return "\n".join(lines)


def _meaning(facts: dict[str, Any]) -> str:
    attack = facts["attack"]
    sure = attack["posterior_from_even_odds"]
    sure = f"{sure:.1%} sure at most" if sure < _NEARLY else "all but certain"
    return (
        "What that means: whoever takes 1 in 100 outsiders for members finds at most "
        f"{attack['true_positive_at_most']:.1%} of the members; whoever held it for as likely as "
        "not that somebody was in the data can become "
        f"{sure}, except with a probability of about delta."
    )


def _user(facts: dict[str, Any], ordered: bool) -> str:
    user = facts["user"]
    head = f"For a user with up to {user['max_examples']:,} examples, present or absent together:"
    return _wrap(head) + "\n" + _table(facts["delta"], user["readings"], ordered).split("\n", 1)[1]


_MICROBATCHES = (
    "Gradients are averaged over microbatches of several examples before they are clipped, as "
    "hushgrad never does: an example that is replaced moves a sum by two clips, so the noise "
    "counts half here. That holds only where who is there does not change who shares a "
    "microbatch with whom."
)
_INSTEAD = {
    "replace-one": " or any other in its place",
    "add-or-remove-one": "",
    "replace-special": " or an empty one in its place",
}


def _protected(facts: dict[str, Any]) -> str:
    relation, unit = facts["neighbouring_relation"], facts["unit"]
    who = {"example": "any one example", "user": "any one user, with all their data,"}.get(unit)
    if who is None:
        who = f"any {unit.removeprefix('group of ')} examples together"
    was = "were" if unit.startswith("group") else "was"
    instead = _INSTEAD[relation]
    if was == "were" and instead:
        instead = instead.replace("any other in its", "others in their")
        instead = instead.replace("an empty one in its", "empty ones in their")
    return (
        f"Protected: whether {who} {was} in the training data{instead} ({relation} adjacency), "
        "against anyone who sees the model and every checkpoint of this run, whatever else they "
        "know."
    )


def _not_covered(facts: dict[str, Any]) -> str:
    if facts["unit"] == "example" and "user" not in facts:
        return _NOT_COVERED + _SEVERAL
    return _NOT_COVERED


_NOT_COVERED = (
    "Not covered: training losses and metrics, gradient norms and the share of clipped "
    "gradients, which carry no noise; the run's directory while the run lasts, since it holds "
    "the secret that batches and noise are made from; other runs on the same data, those made "
    "to choose settings among them."
)
_SEVERAL = (
    " Whoever has several examples in the data is protected less: epsilon grows with their number."
)
_VALIDATION = {
    "public": (
        "Validation: which parameters were kept, or when to stop, was chosen by scores on a public "
        "set that is no part of the training data; that costs nothing."
    ),
    "private": (
        "Validation: which parameters were kept, or when to stop, was chosen by scores without "
        "noise on a private set that is no part of the training data. What is promised here "
        "holds for the training data alone; for the people in that set nothing is."
    ),
}
_SEEDED = (
    "SEEDED: not private against whoever knows the seed, who can repeat every batch and every "
    "noise. Seeds are for tests."
)


def _delta(m: Mechanism) -> str:
    whose = "users" if m.unit == "user" else "examples"
    if m.sampling.kind == "stream":
        return (
            "Delta bounds the probability that the promise fails; it should be well below one over "
            f"the number of {whose} in the stream."
        )
    share = f"1/{m.examples:,}, one over the number of {whose}"
    if m.delta < 1 / m.examples:
        return f"Delta bounds the probability that the promise fails; it is below {share}."
    return f"Delta bounds the probability that the promise fails; IT IS NOT BELOW {share}."


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)
