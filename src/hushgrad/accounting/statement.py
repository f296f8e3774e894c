"""The privacy statement: what is promised, to whom, against what, and what is not."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import dp_accounting
from dp_accounting import dp_event
from scipy import stats

from hushgrad._check import whole
from hushgrad._version import __version__
from hushgrad.accounting.accountants import epsilon, epsilon_interval
from hushgrad.accounting.events import flattened, poisson_gaussian
from hushgrad.accounting.profile import advantage, posterior
from hushgrad.errors import InputError

if TYPE_CHECKING:
    from hushgrad.mechanism import Mechanism

__all__ = ["statement", "statement_facts"]

_WIDTH = 78
# A user's examples that are sampled together are told apart up to this probability.
_NEVER = 1e-25
_FALSE_POSITIVE = 0.01
_NEARLY = 0.999


def statement(
    mechanism: Mechanism,
    *,
    steps: int | None = None,
    seeded: bool = False,
    max_examples_per_user: int | None = None,
) -> str:
    """A plain-language statement of a mechanism's guarantee.

    Args:
      mechanism: what ran or would run.
      steps: releases made so far; all of the mechanism's by default.
      seeded: the run's secrets came from a seed that somebody knows.
      max_examples_per_user: also what is promised to a user with so many examples.

    Raises:
      InputError: if `max_examples_per_user` is no positive whole number.
    """
    facts = statement_facts(
        mechanism, steps=steps, seeded=seeded, max_examples_per_user=max_examples_per_user
    )
    paragraphs = [
        _wrap(_ran(mechanism, facts)),
        _wrap(_PROTECTED[facts["neighbouring_relation"]]),
        _table(facts["delta"], facts["readings"]),
        _wrap(_meaning(facts)),
        _wrap(_delta(mechanism)),
        *([_user(facts)] if "user" in facts else []),
        _wrap(_NOT_COVERED if "user" not in facts else _NOT_COVERED_BUT_USERS),
        *([_wrap(_SEEDED)] if seeded else []),
    ]
    return "\n\n".join(paragraphs)


def statement_facts(
    mechanism: Mechanism,
    *,
    steps: int | None = None,
    seeded: bool = False,
    max_examples_per_user: int | None = None,
) -> dict[str, Any]:
    """The statement as plain data, for machines; docs/statement.schema.json describes it.

    Takes and raises what `statement` does. An epsilon that no accountant can bound is
    None.
    """
    m, made = mechanism, mechanism.steps if steps is None else whole("steps", steps, at_least=0)
    event = m.after(made).event
    facts: dict[str, Any] = {
        "hushgrad": __version__,
        "mechanism": m.to_dict(),
        "steps": made,
        "delta": m.delta,
        "unit": m.unit,
        "neighbouring_relation": m.neighbouring_relation,
        "readings": _readings(m, event, made),
        "attack": {
            "false_positive": _FALSE_POSITIVE,
            "true_positive_at_most": _FALSE_POSITIVE + _advantage(m, event),
            "posterior_from_even_odds": posterior(event, m.delta, relation=m.neighbouring_relation),
        },
        "covered": ["parameters", "checkpoints"],
        "not_covered": ["losses", "metrics", "norms", "other runs"],
        "seeded": seeded,
    }
    if max_examples_per_user is not None:
        most = whole("max_examples_per_user", max_examples_per_user)
        facts["user"] = {"max_examples": most, "readings": [_user_reading(m, made, most)]}
    return facts


def _readings(m: Mechanism, event: dp_accounting.DpEvent, made: int) -> list[dict[str, Any]]:
    relation = m.neighbouring_relation
    below, above = epsilon_interval(event, m.delta, relation=relation)
    tight = _reading("pld", "proved", _sampling_words(m), above)
    tight["lower_bound"] = below
    readings = [tight]
    renyi = epsilon(event, m.delta, "rdp", relation=relation)
    readings.append(_reading("rdp", "proved", _sampling_words(m), renyi))
    if m.sampling.kind == "shuffle":
        assumed = poisson_gaussian(m.sampling_rate, m.noise_multiplier, made)
        for accountant in ("pld", "rdp"):
            worth = epsilon(assumed, m.delta, accountant)
            readings.append(_reading(accountant, "assumed", "Poisson sampling", worth))
    return readings


def _user_reading(m: Mechanism, made: int, most: int) -> dict[str, Any]:
    if m.sampling.kind == "fixed-size" and most > 1:
        # No dominating pair is known for several who are drawn without replacement.
        return _reading("pld", "none", _sampling_words(m), math.inf)
    event, relation = _user_event(m, made, most), m.neighbouring_relation
    worth = epsilon(event, m.delta, relation=relation)
    return _reading("pld", "proved", _sampling_words(m), worth)


def _reading(accountant: str, status: str, sampling: str, worth: float) -> dict[str, Any]:
    known = worth if math.isfinite(worth) else None
    return {"accountant": accountant, "status": status, "sampling": sampling, "epsilon": known}


def _sampling_words(m: Mechanism) -> str:
    return {
        "poisson": "Poisson sampling",
        "fixed-size": "samples of one size",
        "shuffle": "each example once per epoch",
        "balls-in-bins": "each example once per epoch",
    }[m.sampling.kind]


def _advantage(m: Mechanism, event: dp_accounting.DpEvent) -> float:
    try:
        return advantage(event, _FALSE_POSITIVE, relation=m.neighbouring_relation)
    except InputError:
        return 1 - _FALSE_POSITIVE


def _user_event(m: Mechanism, made: int, most: int) -> dp_accounting.DpEvent:
    """What a user adds who has `most` examples, each clipped by itself.

    In a pass over shuffled data they may all fall into one batch; sampled by coins of
    their own, a binomial number of them does.
    """
    if most == 1:
        return m.after(made).event
    if m.sampling.kind in ("shuffle", "balls-in-bins"):
        passes = sum(count for _, count in flattened(m.after(made).event))
        return poisson_gaussian(1.0, m.noise_multiplier / most, passes)
    counts = range(most + 1)
    chances = stats.binom.pmf(counts, most, m.sampling_rate)
    # What is too unlikely to be listed is charged as if all examples were in the batch.
    kept = [(float(n), float(p)) for n, p in zip(counts, chances, strict=True) if p > _NEVER]
    listed = [n for n, _ in kept if n < most]
    weights = [p for n, p in kept if n < most]
    rest = max(_NEVER, 1 - math.fsum(weights))
    one = dp_event.MixtureOfGaussiansDpEvent(
        m.noise_multiplier, [*listed, float(most)], [*weights, rest]
    )
    return dp_accounting.SelfComposedDpEvent(one, made)


def _ran(m: Mechanism, facts: dict[str, Any]) -> str:
    drawn = {
        "poisson": f"Poisson sampling with probability {m.sampling_rate:.6g} (expected batch "
        f"size {m.batch_size:,})",
        "fixed-size": f"{m.batch_size:,} examples drawn for each without replacement",
        "shuffle": f"shuffled batches of {m.batch_size:,}",
        "balls-in-bins": "in every epoch each example in one batch of its own choice (expected "
        f"batch size {m.batch_size:,})",
    }[m.sampling.kind]
    return (
        f"DP-SGD over {m.examples:,} examples: {facts['steps']:,} steps, {drawn}, gradients "
        f"{m.clip.describe()}, Gaussian noise with multiplier {m.noise_multiplier:.6g}."
    )


def _table(delta: float, readings: list[dict[str, Any]]) -> str:
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
        lines.append(f"    No epsilon below {below:.4f} holds for a mechanism like this one.")
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


def _user(facts: dict[str, Any]) -> str:
    user = facts["user"]
    head = f"For a user with up to {user['max_examples']:,} examples, present or absent together:"
    return _wrap(head) + "\n" + _table(facts["delta"], user["readings"]).split("\n", 1)[1]


_PROTECTED = {
    "replace-one": (
        "Protected: whether any one example was in the training data or any other in its "
        "place (replace-one adjacency), against anyone who sees the model and every checkpoint "
        "of this run, whatever else they know."
    ),
    "add-or-remove-one": (
        "Protected: whether any one example was in the training data (add-or-remove-one "
        "adjacency), against anyone who sees the model and every checkpoint of this run, "
        "whatever else they know."
    ),
    "replace-special": (
        "Protected: whether any one example was in the training data or an empty one in its "
        "place (replace-special adjacency), against anyone who sees the model and every "
        "checkpoint of this run, whatever else they know."
    ),
}
_NOT_COVERED_BUT_USERS = (
    "Not covered: training losses and metrics, gradient norms and the share of clipped "
    "gradients, which carry no noise; the run's directory while the run lasts, since it holds "
    "the secret that batches and noise are made from; other runs on the same data, those made "
    "to choose settings among them."
)
_NOT_COVERED = _NOT_COVERED_BUT_USERS + (
    " Whoever has several examples in the data is protected less: epsilon grows with their number."
)
_SEEDED = (
    "SEEDED: not private against whoever knows the seed, who can repeat every batch and every "
    "noise. Seeds are for tests."
)


def _delta(m: Mechanism) -> str:
    share = f"1/{m.examples:,}, one over the number of examples"
    if m.delta < 1 / m.examples:
        return f"Delta bounds the probability that the promise fails; it is below {share}."
    return f"Delta bounds the probability that the promise fails; IT IS NOT BELOW {share}."


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)
