"""The results of a membership audit as text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hushgrad.audit.membership import Attack, Membership

__all__ = ["as_table"]

_WIDTH = 80
_HEAD = (
    f"{'attack':<10} {'slice':<17} {'members':>7} {'others':>7} {'AUC':>5} {'interval':>11} "
    f"{'TPR .1%':>7} {'epsilon':>8}"
)


def as_table(found: Membership) -> str:
    """Lines of at most 80 columns."""
    lines = [_HEAD, "-" * len(_HEAD), *map(_line, found.attacks), ""]
    percent = f"{100 * found.confidence:g} %"
    if any(attack.bound for attack in found.attacks):
        worst = found.worst("epsilon")
        tried = max(attack.bound.tried for attack in found.attacks if attack.bound)
        proved = (
            f"Epsilon is at least {found.epsilon:.3g} at delta {found.delta:g} ({percent} "
            f"confidence, {tried:,} thresholds tried"
        )
        proved += f"; by {worst.attack} on {worst.slice})." if found.epsilon else ")."
        lines += textwrap.wrap(
            f"{proved} These examples could show {found.most:.3g} at most.", _WIDTH
        )
    lines += textwrap.wrap(
        f"Intervals hold with {percent} each. TPR .1%: members found while 0.1 % of the others are "
        f"accused. Un-noised: computed from private data, and private itself.",
        _WIDTH,
    )
    if found.left_out:
        lines += textwrap.wrap(f"Too small, left out: {', '.join(found.left_out)}.", _WIDTH)
    return "\n".join(lines)


def _line(attack: Attack) -> str:
    low, high = attack.roc.auc_interval(attack.confidence)
    epsilon = "-" if attack.bound is None else f">= {attack.epsilon:.2f}"
    name = attack.slice if len(attack.slice) <= 17 else attack.slice[:16] + "…"
    return (
        f"{attack.attack:<10} {name:<17} {_count(attack.members):>7} "
        f"{_count(attack.non_members):>7} {attack.auc:>5.3f} {f'{low:.3f}-{high:.3f}':>11} "
        f"{attack.roc.true_positives_at(0.001):>7.4f} {epsilon:>8}"
    )


def _count(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:.2f}M"
