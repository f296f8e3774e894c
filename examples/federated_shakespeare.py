"""Shakespeare by role: an LSTM for the next character, federated, with user-level privacy.

    python examples/federated_shakespeare.py --data-dir DATA [--output docs/results]

Each role of each play is a client; its speeches are cut into windows of 64 characters. What is
hidden is a role with all that it says. The plays of `--held-out` are for testing: none of their
roles is a client.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lstm
import numpy as np
import optax
from characters import ALPHABET, cross_entropy, encode, plays, windows

import hushgrad as hg

WINDOW, MOST = 64, 64  # characters; windows of one role in a round
CLIENTS, DELTA = 60, 3e-4
EMBEDDED, HIDDEN = 16, 128
HELD_OUT = ("hamlet", "macbeth", "tempest")


def loss(params: Any, row: Any) -> Any:
    """Mean over the characters of a window."""
    return cross_entropy(lstm.logits(params, row[:-1]), row)


def right(params: Any, row: Any) -> Any:
    """Share of the characters that are foreseen."""
    return jnp.mean(jnp.argmax(lstm.logits(params, row[:-1]), axis=-1) == row[1:])


def main() -> None:
    """Trains without and with noise, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--epsilons", type=float, nargs="*", default=[3.0, 8.0, 20.0])
    parser.add_argument("--output", type=Path, help="folder; by default only prints")
    chosen = parser.parse_args()
    found = plays(chosen.data_dir / "shakespeare_plays" / "plays.tar.xz")
    held = {p for p in found if any(name in p.lower().replace(" ", "") for name in HELD_OUT)}
    rows, ids = [], []
    for play in sorted(set(found) - held):
        for role, said in found[play].items():
            made = windows(encode(said), WINDOW)
            rows.append(made)
            ids += [f"{play}/{role}"] * len(made)
    users = hg.sampling.Users(ids, (np.concatenate(rows),), max_examples=MOST)
    test = np.concatenate(
        [windows(encode(t), WINDOW) for p in sorted(held) for t in found[p].values()]
    )
    print(f"{len(users)} roles with {users.examples} windows; {len(test)} to test", flush=True)

    lines = [
        "# Federated: Shakespeare by role",
        "",
        f"`python examples/federated_shakespeare.py --data-dir DATA --rounds {chosen.rounds} "
        f"--clients {chosen.clients} --output docs/results`",
        "",
        f"hushgrad {hg.__version__}, JAX {jax.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {jax.default_backend()}. An LSTM of {HIDDEN} cells for the next "
        f"of {len(ALPHABET)} characters; {len(users)} roles as clients, at most {MOST} windows of "
        f"{WINDOW} characters of each in a round; {chosen.clients} roles a round, {chosen.rounds} "
        "rounds; clients' SGD 1.0, batches of 16; the server's Adam 0.01; adaptive clip. Tested on "
        f"{len(test):,} windows of {len(held)} other plays ({', '.join(sorted(held))}), one seed.",
        "",
        f"| epsilon at {DELTA:g} | noise multiplier | accuracy, % | bits a character |",
        "|---|---|---|---|",
    ]
    for epsilon in [None, *sorted(chosen.epsilons, reverse=True)]:
        settings: dict[str, Any] = {"noise_multiplier": 1e-6}
        if epsilon is not None:
            settings = {"epsilon": epsilon}
        m = hg.dp_sgd(
            examples=len(users),
            batch_size=chosen.clients,
            steps=chosen.rounds,
            clip=hg.clip.Adaptive(),
            delta=DELTA,
            unit="user",
            **settings,
        )
        process = hg.federated.fed_avg(loss, optax.sgd(1.0), optax.adam(0.01), m, batch_size=16)
        state = process.initialize(lstm.init(len(ALPHABET), 0, embedded=EMBEDDED, hidden=HIDDEN))
        while state.round < m.steps:
            state, _ = process.next(state, process.cohort(state, users))
        told = process.evaluate(state, (test,), {"accuracy": right})
        share = 100 * told["unprotected_accuracy"]
        bits = told["unprotected_loss"] / np.log(2)
        noise = "0" if epsilon is None else f"{m.noise_multiplier:.3g}"
        name = "none" if epsilon is None else f"{m.epsilon():.3g}"
        lines.append(f"| {name} | {noise} | {share:.1f} | {bits:.2f} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if chosen.output is not None:
        (chosen.output / "federated_shakespeare.md").write_text(text)


if __name__ == "__main__":
    main()
