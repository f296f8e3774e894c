"""Choosing settings at a price that is told, and choosing them without spending anything.

    python examples/tuning.py --data-dir DATA [--seeds 3] [--output docs/results/tuning.md]

First `hg.tune` on MNIST: the best of a random, secret number of runs, at an epsilon that holds all
of them and the choice (Papernot and Steinke 2022, arXiv 2110.03620), beside one run with settings
that nobody tuned, and beside the best by hand, whose search nobody paid for. Then the rule of
noise to batch: how much noise in a mean gradient a model stands is found on public rows at a small
batch, and the accountant says how large the batch must be for that noise to keep an epsilon.

DATA/mnist has MNIST's four files. A tenth of its training images plays the public data: it scores
and explores, and nobody in it is protected. Cells are kept in --runs, from where the same command
goes on. It takes about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from tuning_model import HIDDEN, MODEL, Data, accuracy, trained

import hushgrad as hg
from hushgrad import recipes
from hushgrad.errors import InputError

Setting = tuple[float, float]  # learning rate and clip
Cells = dict[str, dict[str, Any]]

BATCH, STEPS, DELTA = 1024, 210, 1e-5
# What `hushgrad train mnist` takes if nothing is said.
UNTUNED: Setting = (0.25, 1.5)
CANDIDATES: tuple[Setting, ...] = tuple(
    itertools.product((0.25, 0.5, 1.0, 2.0, 4.0), (0.5, 1.0, 2.0))
)
TOTALS = (1.0, 3.0)
MEAN = 10.0  # expected number of runs of a tuning
# The rule of noise to batch: standard deviation of the noise in a mean gradient, in clips.
SMALL = 64
RATIOS = (1e-6, 3e-4, 5e-4, 8e-4, 1.1e-3, 1.5e-3, 2e-3)
RATES = (1.0, 2.0, 4.0)
BATCHES = (64, 128, 256, 512, 1024, 2048)
SHOWN = 8e-4
EPSILONS = (1.0, 3.0, 8.0)
LARGEST = 4_096


def one_run(examples: int, clip: float, **cost: Any) -> hg.Mechanism:
    """A run's mechanism, by its epsilon or by its noise multiplier."""
    plan: dict[str, Any] = {"examples": examples, "batch_size": BATCH, "steps": STEPS}
    return hg.dp_sgd(**plan, clip=clip, delta=DELTA, **cost)


def within(total: float, examples: int) -> hg.Selection:
    """A selection whose runs have just so much noise that all of them and the choice keep `total`.

    The noise is found from what the selection costs, not from what one of its runs does.
    """
    first = one_run(examples, 1.0, noise_multiplier=1.0)
    noise = hg.accounting.smallest_noise(
        lambda z: hg.Selection(dataclasses.replace(first, noise_multiplier=z), MEAN).event,
        total,
        DELTA,
        "rdp",
        relation=first.neighbouring_relation,
    )
    return hg.Selection(dataclasses.replace(first, noise_multiplier=noise), MEAN)


def tuned(data: Data, total: float) -> dict[str, Any]:
    """One `hg.tune`, scored on public rows."""
    selection = within(total, len(data.private[0]))
    m = selection.mechanism
    assert isinstance(m, hg.Mechanism)

    def trial(candidate: Setting, directory: Path, seed: int | None) -> hg.Run:
        rate, clip = candidate
        clipped = dataclasses.replace(m, clip=hg.clip.Flat(clip))
        return trained(data.private, clipped, rate, 0, directory, seed)

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        best = hg.tune(
            trial,
            CANDIDATES,
            lambda run: accuracy(run, data.public),
            m,
            directory=Path(folder) / "tuning",
            mean=MEAN,
        )
        seconds = time.perf_counter() - begun
    return {
        "candidate": best.candidate,
        "accuracy": recipes.accuracy(MODEL, best.params, data.test[0], data.test[1]),
        "epsilon": best.epsilon,
        "seconds": seconds,
    }


def plain(data: Data, total: float, setting: Setting, start: int) -> dict[str, Any]:
    """One run at the whole epsilon, by the tight accountant."""
    rate, clip = setting
    m = one_run(len(data.private[0]), clip, epsilon=total)
    begun = time.perf_counter()
    run = trained(data.private, m, rate, start)
    seconds = time.perf_counter() - begun
    public, test = (accuracy(run, part) for part in (data.public, data.test))
    return {"public": public, "accuracy": test, "seconds": seconds}


def explored(data: Data, ratio: float, rate: float) -> dict[str, Any]:
    """A run on two thirds of the public rows at a small batch, scored on the last third."""
    cut = 2 * len(data.public[0]) // 3
    train, held = (tuple(part[s] for part in data.public) for s in (slice(cut), slice(cut, None)))
    m = at_ratio(ratio, SMALL, cut)
    return {"accuracy": accuracy(trained(train, m, rate), held)}


def at_ratio(ratio: float, batch: int, examples: int) -> hg.Mechanism:
    """A batch of that size, with noise in proportion."""
    plan: dict[str, Any] = {"examples": examples, "batch_size": batch, "steps": STEPS}
    return hg.dp_sgd(**plan, clip=1.0, delta=DELTA, noise_multiplier=ratio * batch)


def scaled(data: Data, found: Cells, ratio: float, batch: int, start: int) -> dict[str, Any]:
    """A run on the private rows with noise in proportion to the batch."""
    m = at_ratio(ratio, batch, len(data.private[0]))
    begun = time.perf_counter()
    run = trained(data.private, m, best_rate(found, ratio), start)
    return {"accuracy": accuracy(run, data.test), "seconds": time.perf_counter() - begun}


def smallest_batch(ratio: float, epsilon: float, examples: int) -> int | None:
    """At which noise in proportion keeps epsilon; None where not even all rows together do.

    The search is the one for clients in a round: the accountant asks for rates and counts.
    """
    try:
        found = hg.federated.clients_for_budget(
            users=examples,
            noise_multiplier=ratio * SMALL,
            clients_per_round=SMALL,
            rounds=STEPS,
            epsilon=epsilon,
            delta=DELTA,
        )
    except InputError:
        return None
    return found.clients_per_round


def best_rate(found: Cells, ratio: float) -> float:
    """The learning rate that did best on public rows with this noise."""
    return max(RATES, key=lambda rate: found[f"explored {ratio:g} {rate:g}"]["accuracy"])


def taken(epsilon: float, examples: int) -> tuple[float, int]:
    """The least noise whose batch is small enough to be computed, and that batch."""
    for ratio in RATIOS:
        batch = smallest_batch(ratio, epsilon, examples)
        if batch is not None and batch <= LARGEST:
            return ratio, batch
    raise InputError(f"no ratio up to {RATIOS[-1]:g} keeps epsilon={epsilon:g}; try larger ones")


def works(
    data: Data, seeds: int, repeats: int, found: Cells
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every cell by its name; those of the last kinds need what was explored."""
    made: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for ratio, rate in itertools.product(RATIOS, RATES):
        made.append((f"explored {ratio:g} {rate:g}", partial(explored, data, ratio, rate)))
    for n, total in itertools.product(range(seeds), TOTALS):
        made.append((f"untuned {total:g} {n}", partial(plain, data, total, UNTUNED, n)))
        made.append((f"tuned {total:g} {n}", partial(tuned, data, total)))
    for total, one in itertools.product(TOTALS, CANDIDATES):
        made.append((_by_hand(total, one), partial(plain, data, total, one, 0)))
    for n, batch in itertools.product(range(repeats), BATCHES):
        made.append((f"scaled {batch} {n}", partial(scaled, data, found, SHOWN, batch, n)))
    for n, epsilon in itertools.product(range(repeats), EPSILONS):
        ratio, batch = taken(epsilon, len(data.private[0]))
        made.append((f"kept {epsilon:g} {n}", partial(scaled, data, found, ratio, batch, n)))
    return made


def _percent(values: Sequence[float]) -> str:
    spread = f" ({min(values):.1%} to {max(values):.1%})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1%}{spread}"


def _settings(found: Sequence[Setting]) -> str:
    return ", ".join(f"{rate:g}/{clip:g}" for rate, clip in found)


def selection_table(found: Cells, seeds: int, examples: int) -> str:
    """What a choice costs, and what it gives."""
    heads = (
        "| | epsilon in all | by | noise multiplier | epsilon of one run, PLD | RDP "
        "| learning rate/clip | test accuracy | seconds |"
    )
    lines = [heads, "|---" * 9 + "|"]
    for total in TOTALS:
        m = one_run(examples, 1.0, epsilon=total)
        one = f"{m.noise_multiplier:.3f} | {m.epsilon():.3f} | {m.epsilon(accountant='rdp'):.3f}"
        runs = [found[f"untuned {total:g} {n}"] for n in range(seeds)]
        lines.append(
            f"| untuned, one run | {m.epsilon():.3f} | PLD | {one} | {_settings([UNTUNED])} "
            f"| {_percent([r['accuracy'] for r in runs])} | {_seconds(runs)} |"
        )
        runs = [found[f"tuned {total:g} {n}"] for n in range(seeds)]
        lines.append(tuned_row(within(total, examples), runs))
        if all(_by_hand(total, c) in found for c in CANDIDATES):
            lines.append(_by_hand_row(found, total, m, one))
    return "\n".join(lines)


def tuned_row(selection: hg.Selection, runs: Sequence[dict[str, Any]]) -> str:
    """What `hg.tune` released, with all that it spent."""
    m = selection.mechanism
    assert isinstance(m, hg.Mechanism)
    return (
        f"| **`hg.tune`**, {selection.mean:g} runs expected | {selection.epsilon():.3f} | RDP "
        f"| {m.noise_multiplier:.3f} | {m.epsilon():.3f} | {m.epsilon(accountant='rdp'):.3f} "
        f"| {_settings([tuple(r['candidate']) for r in runs])} "
        f"| {_percent([r['accuracy'] for r in runs])} | {_seconds(runs)} |"
    )


def _by_hand_row(found: Cells, total: float, m: hg.Mechanism, one: str) -> str:
    cells = {c: found[_by_hand(total, c)] for c in CANDIDATES}
    best = max(cells, key=lambda c: cells[c]["public"])
    every = dataclasses.replace(m, steps=m.steps * len(CANDIDATES)).epsilon()
    return (
        f"| by hand, best of {len(CANDIDATES)}: **not honest** | {every:.3f} (claimed: "
        f"{m.epsilon():.3f}) | PLD | {one} | {_settings([best])} "
        f"| {cells[best]['accuracy']:.1%} | {sum(c['seconds'] for c in cells.values()):.0f} |"
    )


def _listed(place: int) -> str:
    return ", ".join(f"{value:g}" for value in sorted({one[place] for one in CANDIDATES}))


def _by_hand(total: float, candidate: Setting) -> str:
    return f"by hand {total:g} {candidate[0]:g} {candidate[1]:g}"


def _seconds(runs: Sequence[dict[str, Any]]) -> str:
    return f"{statistics.median(r['seconds'] for r in runs):.0f}"


def grid_words(found: Cells) -> str:
    """How far apart the candidates are, at the whole epsilon."""
    told = []
    for total in TOTALS:
        names = [_by_hand(total, candidate) for candidate in CANDIDATES]
        if any(name not in found for name in names):
            continue
        scores = [found[name]["accuracy"] for name in names]
        told.append(
            f"at epsilon {total:g} from {min(scores):.1%} to {max(scores):.1%}, "
            f"{statistics.mean(scores):.1%} on average"
        )
    return f"One run of each candidate with the whole epsilon gave {'; '.join(told)}."


def explored_table(found: Cells, examples: int) -> str:
    """What the public rows say of noise, and what the accountant says of batches."""
    heads = " | ".join(f"batch for epsilon {epsilon:g}" for epsilon in EPSILONS)
    lines = [
        f"| noise in a mean gradient, clips | noise multiplier at batch {SMALL} | accuracy on "
        f"public rows | learning rate | {heads} |",
        "|---" * (4 + len(EPSILONS)) + "|",
    ]
    for ratio in RATIOS:
        rate = best_rate(found, ratio)
        batches = [smallest_batch(ratio, epsilon, examples) for epsilon in EPSILONS]
        said = " | ".join("none" if b is None else f"{b:,}" for b in batches)
        shown = f"{ratio:g}" if ratio > 1e-5 else "0"
        score = found[f"explored {ratio:g} {rate:g}"]["accuracy"]
        noise = f"{ratio * SMALL:.3g}" if ratio > 1e-5 else "0"
        lines.append(f"| {shown} | {noise} | {score:.1%} | {rate:g} | {said} |")
    return "\n".join(lines)


def scaled_table(found: Cells, repeats: int, examples: int) -> str:
    """The same noise in the mean at every batch; what differs is the cost."""
    lines = [
        "| batch | noise multiplier | test accuracy | epsilon, PLD | RDP | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for batch in BATCHES:
        if f"scaled {batch} {repeats - 1}" not in found:
            continue
        lines.append(_scaled_row([found[f"scaled {batch} {n}"] for n in range(repeats)],
                                 at_ratio(SHOWN, batch, examples), ""))  # fmt: skip
    return "\n".join(lines)


def kept_table(found: Cells, repeats: int, examples: int) -> str:
    """The runs that would be released."""
    lines = [
        "| asked | noise in a mean gradient | batch | noise multiplier | test accuracy "
        "| epsilon, PLD | RDP | seconds |",
        "|---" * 8 + "|",
    ]
    for epsilon in EPSILONS:
        if f"kept {epsilon:g} {repeats - 1}" not in found:
            continue
        ratio, batch = taken(epsilon, examples)
        runs = [found[f"kept {epsilon:g} {n}"] for n in range(repeats)]
        head = f"| epsilon {epsilon:g} | {ratio:g} "
        lines.append(_scaled_row(runs, at_ratio(ratio, batch, examples), head))
    return "\n".join(lines)


def _scaled_row(runs: Sequence[dict[str, Any]], m: hg.Mechanism, head: str) -> str:
    return (
        f"{head}| {m.batch_size:,} | {m.noise_multiplier:.3g} "
        f"| {_percent([r['accuracy'] for r in runs])} | {m.epsilon():.4g} "
        f"| {m.epsilon(accountant='rdp'):.4g} | {_seconds(runs)} |"
    )


def least_ratio(epsilon: float, examples: int) -> float:
    """The least noise in a mean gradient that keeps epsilon, at the largest batch: all rows."""
    plan: dict[str, Any] = {"examples": examples, "batch_size": examples, "steps": STEPS}
    return hg.dp_sgd(**plan, delta=DELTA, epsilon=epsilon).noise_multiplier / examples


def _unfinished(missing: Sequence[str]) -> list[str]:
    if not missing:
        return []
    kinds = Counter(name.rstrip("0123456789. ") for name in missing)
    told = ", ".join(f"{count} of the kind {kind!r}" for kind, count in kinds.items())
    return [
        f"**Not finished.** Runs that are missing, and whose rows are left out: {told}. The "
        "command above trains them."
    ]


def _versions() -> str:
    modules = {"hushgrad": hg, "JAX": jax, "optax": optax, "numpy": np}
    return ", ".join(f"{name} {module.__version__}" for name, module in modules.items())


def report(
    found: Cells,
    command: str,
    seeds: int,
    repeats: int,
    sizes: tuple[int, int],
    missing: Sequence[str] = (),
) -> str:
    """The page as Markdown; `sizes` are those of the private and of the public part."""
    examples, public = sizes
    floors = ", ".join(f"{least_ratio(e, examples):.2g} for epsilon {e:g}" for e in EPSILONS)
    parts = [
        "# Choosing settings",
        f"`{command}`",
        f"{_versions()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()}. Seconds are of training, on a machine that had other work too.",
        f"MNIST's training images in two parts: {examples:,} are private, and {public:,} play the "
        "public data that score and explore; nobody in those is protected. A perceptron "
        f"784-{HIDDEN}-10 with tanh, plain SGD, {STEPS} steps, Poisson sampling, delta {DELTA:g}. "
        f"Test accuracy: mean of {seeds} runs in the first table and of {repeats} in the last two, "
        "with the lowest and the highest where there are several; they differ in batches and "
        "noise, from the operating system's entropy, and but for `hg.tune` in their starting "
        "points. "
        "The tables' own settings (model, steps, candidates) were chosen without being charged, as "
        "on public benchmarks.",
        "## `hg.tune`: the choice is in the price",
        f"{len(CANDIDATES)} candidates: learning rates {_listed(0)} and "
        f"clips {_listed(1)}, batch {BATCH:,}. *Epsilon in all* covers "
        "everything that was computed from the private images: for `hg.tune` all runs and the "
        "choice of the best, by Renyi divergences (no tight bound is known), so that its runs must "
        "do with more noise. Whoever tries all candidates by hand and tells the price of one run "
        "claims the number in brackets; what composition charges for their search stands before "
        "it. Scores come from the public images: were those private too, nothing here would "
        "protect them.",
        selection_table(found, seeds, examples),
        f"{grid_words(found)} The batch size is no candidate: all runs of a tuning must cost the "
        "same. For that there is the rule below.",
        "## Noise to batch: explore small, then scale",
        "SGD sees a mean gradient; the noise in it has deviation noise multiplier x clip / batch. "
        "With that ratio kept, a small batch with little noise shows how a large batch with much "
        "noise will do. **Little noise protects nobody**, so one explores on public rows: here at "
        f"batch {SMALL} on two thirds of them, scored on the last third. The batches are the "
        "smallest at which the same ratio keeps an epsilon on the private rows, by the tight "
        "accountant (`hg.federated.clients_for_budget` does this search, for clients or rows). "
        '"None" means: not at any batch. With all rows in every step the least ratio is '
        f"{floors}; below it only more rows, fewer steps or a larger epsilon help.",
        explored_table(found, examples),
        f"Is it true? The ratio {SHOWN:g} at several batches, with learning rate "
        f"{best_rate(found, SHOWN):g}, on the private rows. These runs are for the table: with "
        "data that must be protected those at large epsilon are never made.",
        scaled_table(found, repeats, examples),
        "What would be released: for each epsilon the least noise that was tried and whose batch "
        f"is at most {LARGEST:,}, with the learning rate that the public rows chose for it. The "
        "private images were read by one run alone, and by no search.",
        kept_table(found, repeats, examples),
    ]
    parts[3:3] = _unfinished(missing)
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Trains what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the first table")
    parser.add_argument("--repeats", type=int, default=3, help="of the runs at a ratio")
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--report-only", action="store_true", help="of what is there already")
    parser.add_argument("--output", type=Path, default=Path("docs/results/tuning.md"))
    args = parser.parse_args()
    data = Data.of(hg.datasets.load_mnist(args.data_dir / "mnist"))
    args.runs.mkdir(parents=True, exist_ok=True)
    kept = args.runs / "found.json"
    found: Cells = json.loads(kept.read_text()) if kept.exists() else {}
    planned = works(data, args.seeds, args.repeats, found)
    for name, work in planned:
        if name not in found and not args.report_only:
            found[name] = work()
            kept.write_text(json.dumps(found, indent=1))
            jax.clear_caches()
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    command = "python examples/tuning.py --data-dir DATA"
    command += f" --seeds {args.seeds} --repeats {args.repeats}"
    sizes = len(data.private[0]), len(data.public[0])
    missing = [name for name, _ in planned if name not in found]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(report(found, command, args.seeds, args.repeats, sizes, missing))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
