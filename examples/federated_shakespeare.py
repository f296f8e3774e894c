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
import re
import tarfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg

WINDOW, MOST = 64, 64  # characters; windows of one role in a round
CLIENTS, DELTA = 60, 3e-4
EMBEDDED, HIDDEN = 16, 128
HELD_OUT = ("hamlet", "macbeth", "tempest")
_TURN = re.compile(r"^([A-Z][A-Z .'&-]*)\t(.*)$")


def plays(file: Path) -> dict[str, dict[str, str]]:
    """What each role says, by play."""
    found: dict[str, dict[str, list[str]]] = {}
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            _, started, text = stream.read().decode("utf-8", "replace").partition("ACT I")
            roles = found.setdefault(Path(member.name).stem, {}) if started else {}
            role = ""
            for line in text.splitlines():
                turn = _TURN.match(line)
                if turn:
                    role, said = turn[1].strip(), turn[2]
                elif line.startswith("\t") and role:
                    said = line[1:]
                else:
                    role = ""
                    continue
                if not said.startswith("["):
                    roles.setdefault(role, []).append(said)
    return {
        play: {role: "\n".join(said) for role, said in roles.items()}
        for play, roles in found.items()
        if roles
    }


def windows(text: str, alphabet: str) -> np.ndarray:
    """Rows of a window's characters and the one after; what is not in the alphabet is a space."""
    known = {letter: number for number, letter in enumerate(alphabet)}
    codes = np.array([known.get(letter, known[" "]) for letter in text], np.int32)
    count = (len(codes) - 1) // WINDOW
    starts = np.arange(count)[:, None] * WINDOW
    return codes[starts + np.arange(WINDOW + 1)] if count else np.zeros((0, WINDOW + 1), np.int32)


def start(letters: int, seed: int) -> dict[str, jax.Array]:
    """An embedding, a cell and a readout."""
    rng = np.random.default_rng(seed)

    def matrix(a: int, b: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(a, b)) / a**0.5, jnp.float32)

    return {
        "letters": matrix(letters, EMBEDDED) * letters**0.5,
        "cell": matrix(EMBEDDED + HIDDEN, 4 * HIDDEN),
        "bias": jnp.zeros(4 * HIDDEN).at[HIDDEN : 2 * HIDDEN].set(1.0),
        "out": matrix(HIDDEN, letters),
    }


def predicted(params: Any, row: Any) -> Any:
    """Logits of each next character of a window."""

    def one(carry: Any, x: Any) -> Any:
        h, c = carry
        gates = jnp.concatenate([x, h]) @ params["cell"] + params["bias"]
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros(HIDDEN)
    _, hidden = jax.lax.scan(one, (zero, zero), params["letters"][row[:-1]])
    return hidden @ params["out"]


def loss(params: Any, row: Any) -> Any:
    """Mean over the characters of a window."""
    losses = optax.softmax_cross_entropy_with_integer_labels(predicted(params, row), row[1:])
    return jnp.mean(losses)


def right(params: Any, row: Any) -> Any:
    """Share of the characters that are foreseen."""
    return jnp.mean(jnp.argmax(predicted(params, row), axis=-1) == row[1:])


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
    # What is public: the letters, and that speeches are in English.
    alphabet = " \n" + "".join(chr(c) for c in range(33, 127))
    rows, ids = [], []
    for play in sorted(set(found) - held):
        for role, said in found[play].items():
            made = windows(said, alphabet)
            rows.append(made)
            ids += [f"{play}/{role}"] * len(made)
    users = hg.sampling.Users(ids, (np.concatenate(rows),), max_examples=MOST)
    test = np.concatenate([windows(t, alphabet) for p in sorted(held) for t in found[p].values()])
    print(f"{len(users)} roles with {users.examples} windows; {len(test)} to test", flush=True)

    lines = [
        "# Federated: Shakespeare by role",
        "",
        f"`python examples/federated_shakespeare.py --data-dir DATA --rounds {chosen.rounds} "
        f"--clients {chosen.clients} --output docs/results`",
        "",
        f"hushgrad {hg.__version__}, JAX {jax.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {jax.default_backend()}. An LSTM of {HIDDEN} cells for the next "
        f"of {len(alphabet)} characters; {len(users)} roles as clients, at most {MOST} windows of "
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
        state = process.initialize(start(len(alphabet), 0))
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
