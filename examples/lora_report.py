"""The tables that `lora.py` writes."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import jax
import keras
import keras_hub  # pyright: ignore[reportMissingImports]
import numpy as np

import hushgrad as hg

_NAMES = {"full": "all of it", "lora": "LoRA", "bias": "biases alone"}


def report(
    task: Any,
    epsilons: Sequence[float],
    found: dict[str, Any],
    written: dict[str, Any],
    command: str,
) -> str:
    """The tables as Markdown."""
    modules = {"hushgrad": hg, "JAX": jax, "Keras": keras, "KerasHub": keras_hub, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    plan, before = task.plan, found["untouched"]
    roles = [len(np.unique(part.who)) for part in (task.train, task.choose, task.test)]
    lines = [
        "# Fine-tuning with LoRA",
        f"`{command}`",
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}.",
        f"A decoder of {before['all']:,} parameters, fitted on what {roles[0]} roles of "
        f"Shakespeare's comedies say ({len(task.train.y):,} windows of {plan.length} tokens), "
        f"which its pre-training did not see; the learning rate by what {roles[1]} others say; "
        f"tested on {roles[2]} roles of the same plays that no training saw "
        f"({len(task.test.y):,} windows, {task.test.letters:,} characters). "
        f"{plan.steps} steps of Adam on {plan.batch_size} "
        f"windows, or on {plan.users} roles with at most {plan.most} windows each; rank "
        f"{plan.rank}; clip {plan.clip:g}. One run each: training starts where pre-training ended, "
        "batches and noise come from the operating system's entropy. *Change* is in bits a "
        "character against the checkpoint untouched, with its standard error over the roles "
        "tested; it does not cover the chance of the training itself.",
        "What the epsilon of a row promises is in the column *hides*: one window of text, at delta "
        f"{plan.delta:g}, or one role with all that it says, at delta {plan.user_delta:g}. A "
        "window's promise says little to somebody whose text fills a hundred of them. Not covered: "
        "the choice of learning rates (of two, at the middle epsilon, for all of a kind), and "
        "the scores themselves.",
        _table(task, epsilons, found),
        _read(epsilons, found),
        "*s a step* is measured from the second step on, with whatever else the machine did, and "
        "seconds in all include loading the checkpoint and compiling, in part from JAX's cache: "
        "they show the order, not the third digit. Steps without privacy have exactly as many "
        "windows, private ones as many as are drawn.",
    ]
    return "\n\n".join(lines + _writing(written)) + "\n"


def _writing(written: dict[str, Any]) -> list[str]:
    """The part about synthetic text; nothing where none was written."""
    if not written:
        return []
    return [
        "## What the decoder writes",
        f"{_count(written):,} windows drawn from each decoder at temperature 1. *Learned "
        "from*: a decoder of one block, 64 wide, is trained from nothing on these windows alone, "
        "and foresees the test. *Copied* is the longest stretch of characters that also stands in "
        "the private text of the training; that of other roles, which no training saw, says how "
        "long such a stretch is without copying. One sample and one such training each: the order "
        "of the perplexities is chance as much as anything.",
        _written(written),
        *_samples(written),
    ]


def _count(written: dict[str, Any]) -> int:
    return min(one["count"] for one in written.values())


def _table(task: Any, epsilons: Sequence[float], found: dict[str, Any]) -> str:
    before = found["untouched"]
    heads = "trained", "parameters", "hides", "epsilon (PLD)", "RDP", "noise multiplier", "rate"
    heads += "perplexity", "bits a character", "change", "s a step", "seconds in all"
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    start = f"{before['perplexity']:.2f} | {before['bits']:.3f}"
    rows.append(f"| nothing | 0 | all | 0 | 0 | - | - | {start} | - | - | - |")
    for unit in ("window", "role"):
        for way in _NAMES:
            for epsilon in (*epsilons, None):
                name = "none" if epsilon is None else f"{epsilon:g}"
                one = found.get(f"{way} {unit} {name}")
                if one is None:
                    continue
                promised = (
                    "nothing | none | none | 0"
                    if epsilon is None
                    else f"a {unit} | {one['epsilon']:.2f} | {one['rdp']:.2f} | {one['noise']:.3f}"
                )
                change, error = _change(one, before, task.test.letters)
                rows.append(
                    f"| {_NAMES[way]} | {one['trained']:,} | {promised} | {one['rate']:g} | "
                    f"{one['perplexity']:.2f} | {one['bits']:.3f} | {change:+.3f} ± {error:.3f} | "
                    f"{one['step']:.2f} | {one['seconds']:.0f} |"
                )
    return "\n".join(rows)


def _read(epsilons: Sequence[float], found: dict[str, Any]) -> str:
    """What the table says."""
    start = found["untouched"]["perplexity"]

    def reached(name: str) -> dict[str, float]:
        return {way: found[f"{way} window {name}"]["perplexity"] for way in _NAMES}

    most = reached("none")
    told = ", ".join(f"{score:.2f} by {_NAMES[way]}" for way, score in most.items())
    lines = [
        f"What can be had in so many steps is small: without privacy perplexity falls from "
        f"{start:.2f} to {told}."
    ]
    for epsilon in epsilons:
        some = reached(f"{epsilon:g}")
        best = min(some, key=lambda way: some[way])
        kept = (start - some[best]) / (start - min(most.values()))
        lines.append(
            f"At epsilon {epsilon:g} the most was had by {_NAMES[best]}, {some[best]:.2f}: "
            f"{kept:.0%} of the best fall without privacy."
        )
    lines.append(
        "A run is one draw of noise: differences between rows of the size of their standard "
        "errors say nothing."
    )
    return " ".join(lines)


def _change(one: dict[str, Any], before: dict[str, Any], letters: int) -> tuple[float, float]:
    """Bits a character against another decoder, and its standard error over roles."""
    pairs = [(one["roles"][role][0], before["roles"][role][0]) for role in before["roles"]]
    each = np.array([a - b for a, b in pairs]) / np.log(2) / letters
    return float(each.sum()), float(each.std(ddof=1) * len(each) ** 0.5)


def _written(written: dict[str, Any]) -> str:
    heads = "text", "windows", "learned from: perplexity", "bits a character", "copied"
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, one in written.items():
        learned = "- | -"
        if "bits" in one:
            learned = f"{one['perplexity']:.1f} | {one['bits']:.3f}"
        copy = f"{len(one['copy'])}: `{' / '.join(one['copy'].split(chr(10)))}`"
        rows.append(f"| {name} | {one['count']:,} | {learned} | {copy if one['copy'] else 'all'} |")
    return "\n".join(rows)


def _samples(written: dict[str, Any]) -> list[str]:
    lines = []
    for name, one in written.items():
        if name.startswith("written"):
            lines.append(f"The first two, {name}:")
            lines += ["```text\n" + text.strip("\n") + "\n```" for text in one["samples"][:2]]
    return lines
