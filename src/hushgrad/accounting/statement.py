"""The privacy statement: what is promised, to whom, against what, and what is not."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hushgrad.mechanism import Mechanism

__all__ = ["statement"]

_WIDTH = 78


def statement(mechanism: Mechanism, *, steps: int | None = None, seeded: bool = False) -> str:
    """A plain-language statement of a mechanism's guarantee.

    Args:
      mechanism: what ran or would run.
      steps: releases made so far; all of the mechanism's by default.
      seeded: the run's secrets came from a seed that somebody knows.
    """
    m, made = mechanism, mechanism.steps if steps is None else steps
    ran = (
        f"DP-SGD over {m.examples:,} examples: {made:,} steps, Poisson sampling with "
        f"probability {m.sampling_rate:.6g} (expected batch size {m.batch_size:,}), gradients "
        f"{m.clip.describe()}, Gaussian noise with multiplier {m.noise_multiplier:.6g}."
    )
    protected = (
        f"Protected: whether any one {m.unit} was in the training data "
        f"({m.neighbouring_relation} adjacency), against anyone who sees the model and every "
        "checkpoint of this run, whatever else they know."
    )
    epsilons = (
        f"At delta = {m.delta:g}:\n"
        f"    epsilon = {m.epsilon(steps=made):.4f}   PLD accounting, the tight bound\n"
        f"    epsilon = {m.epsilon(accountant='rdp', steps=made):.4f}   RDP accounting"
    )
    return "\n\n".join(
        [
            _wrap(ran),
            _wrap(protected),
            epsilons,
            _wrap(_delta(m)),
            _wrap(_NOT_COVERED),
            *([_wrap(_SEEDED)] if seeded else []),
        ]
    )


_NOT_COVERED = (
    "Not covered: training losses and metrics, gradient norms and the share of clipped "
    "gradients, which carry no noise; the run's directory while the run lasts, since it holds "
    "the secret that batches and noise are made from; other runs on the same data, those made "
    "to choose settings among them. Whoever has several examples in the data is protected "
    "less: epsilon grows with their number."
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
