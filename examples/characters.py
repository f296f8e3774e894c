"""What the recipes of Shakespeare's text share: letters, windows, who says what, and measures.

Not a script: `federated_shakespeare.py`, `language_model.py` and others import it. The letters are
public, printable ASCII, and not read off the text.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

ALPHABET = " \n" + "".join(chr(code) for code in range(33, 127))
Predict = Callable[[Any, Int[Array, " T"]], Float[Array, "T letters"]]

_CODES = {letter: code for code, letter in enumerate(ALPHABET)}
_TURN = re.compile(r"^([A-Z][A-Z .'&-]*)\t(.*)$")
_SPEAKER = re.compile(r"^([^\n:]+):\n")


def encode(text: str) -> Int[np.ndarray, " letters"]:
    """The number of each letter; what is not in the alphabet is a space."""
    return np.array([_CODES.get(letter, _CODES[" "]) for letter in text], np.int32)


def decode(codes: Any) -> str:
    """The text of some numbers."""
    return "".join(ALPHABET[code] for code in np.asarray(codes))


def windows(codes: Int[np.ndarray, " letters"], length: int) -> Int[np.ndarray, "rows length+1"]:
    """Rows of a window's letters and the one after, which is the first of the next row."""
    count = max(0, (len(codes) - 1) // length)
    starts = np.arange(count)[:, None] * length
    return np.asarray(codes, np.int32)[starts + np.arange(length + 1)]


def plays(file: Path) -> dict[str, dict[str, str]]:
    """What each role says, by play, of an archive in the form of `shakespeare_plays`."""
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


def tiny(file: Path) -> str:
    """The text of `tinyshakespeare`, a gzipped file."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return stream.read()


def speakers(file: Path) -> dict[str, str]:
    """What each speaker of `tinyshakespeare` says, speeches apart by an empty line.

    A block of lines begins with `SPEAKER:`, and blocks are separated by an empty line; a name
    with nothing after it is not a speech. Who is called alike in two plays is one speaker.
    """
    found: dict[str, list[str]] = {}
    for block in tiny(file).split("\n\n"):
        said = block.strip("\n")
        name = _SPEAKER.match(said)
        if name:
            found.setdefault(name[1], []).append(said[name.end() :])
    return {name: "\n\n".join(said) + "\n" for name, said in found.items()}


def cross_entropy(logits: Float[Array, "T letters"], row: Int[Array, " T+1"]) -> Float[Array, ""]:
    """Mean over the letters of a row, in nats, of what was predicted from `row[:-1]`."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, row[1:]))


def perplexity(
    predict: Predict, params: PyTree[Array], rows: Int[Any, "rows T+1"], *, block: int = 256
) -> float:
    """exp of the mean cross entropy of a letter, so 96 for who knows nothing of the alphabet.

    Args:
      predict: `predict(params, tokens) -> logits` of the letter after each, of ONE window.
      params: its first argument.
      rows: windows with the letter after.
      block: how many are taken at once.
    """

    @jax.jit
    def losses(params: Any, rows: Any) -> Array:
        return jax.lax.map(
            lambda row: cross_entropy(predict(params, row[:-1]), row),
            rows,
            batch_size=min(block, len(rows)),
        )

    return float(np.exp(np.mean(np.asarray(losses(params, jnp.asarray(rows)), np.float64))))


def sample(
    predict: Predict,
    params: PyTree[Array],
    prompt: str,
    length: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
    context: int = 64,
) -> str:
    """Text that a model writes after a prompt, letter by letter.

    Args:
      predict: as `perplexity`'s, of a model that looks only back: the window is filled up.
      params: its first argument.
      prompt: one letter or more; not part of what is returned.
      length: how many letters to write.
      temperature: logits are divided by it.
      seed: of the draws.
      context: how many letters the model is shown at most.
    """
    start = encode(prompt)[-context:]
    buffer = jnp.zeros(context, jnp.int32).at[: len(start)].set(start)

    @jax.jit
    def write(params: Any, buffer: Array, used: Array, key: Array) -> Array:
        def one(carry: Any, key: Array) -> Any:
            buffer, used = carry
            logits = predict(params, buffer)[used - 1]
            letter = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
            full = used == context
            buffer = jnp.where(full, jnp.roll(buffer, -1), buffer)
            used = jnp.where(full, used, used + 1)
            return (buffer.at[used - 1].set(letter), used), letter

        return jax.lax.scan(one, (buffer, used), jax.random.split(key, length))[1]

    return decode(write(params, buffer, jnp.asarray(len(start)), jax.random.key(seed)))
