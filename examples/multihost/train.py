"""One run on many machines: a small GPT on a text, its parameters shared out over all devices.

    python examples/multihost/train.py --text FILE --directory RUN

On one machine that is all. On several, each starts the same command (README.md shows how under
SLURM, Kubernetes and ssh): they find each other, read only their own part of each batch, and one
of them keeps the ledger. Each window of 64 characters counts as one example here; where people
wrote the text, take a person's windows as one unit with hg.sampling.Users.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg

LENGTH, WIDTH, HEADS, LAYERS = 64, 128, 4, 2


def windows(text: Path) -> np.ndarray:
    """Bytes of a text, in windows of one more than the model reads."""
    content = np.frombuffer(text.read_bytes(), np.uint8)
    count = len(content) // (LENGTH + 1)
    return content[: count * (LENGTH + 1)].reshape(count, LENGTH + 1)


def initial() -> dict[str, Any]:
    """Random weights, the same in every process."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5 / WIDTH**0.5, shape).astype(np.float32)

    layer = {
        "scale": np.ones((LAYERS, 2, WIDTH), np.float32),
        "qkv": normal(LAYERS, WIDTH, 3 * WIDTH),
        "out": normal(LAYERS, WIDTH, WIDTH),
        "up": normal(LAYERS, WIDTH, 4 * WIDTH),
        "down": normal(LAYERS, 4 * WIDTH, WIDTH),
    }
    return {"words": normal(256, WIDTH), "places": normal(LENGTH, WIDTH), "layers": layer}


def loss(params: Any, window: jax.Array) -> jax.Array:
    """Of one window: how badly each character is foretold from those before it."""
    window = window.astype(jnp.int32)
    x = params["words"][window[:-1]] + params["places"]
    x, _ = jax.lax.scan(lambda x, layer: (_block(x, layer), None), x, params["layers"])
    logits = _normed(x) @ params["words"].T
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, window[1:]))


def _block(x: jax.Array, layer: Any) -> jax.Array:
    heads = (_normed(x) * layer["scale"][0] @ layer["qkv"]).reshape(LENGTH, 3, HEADS, -1)
    query, key, value = heads[:, 0], heads[:, 1], heads[:, 2]
    scores = jnp.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), value)
    x = x + mixed.reshape(LENGTH, WIDTH) @ layer["out"]
    return x + jax.nn.gelu(_normed(x) * layer["scale"][1] @ layer["up"]) @ layer["down"]


def _normed(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def show(progress: hg.training.Progress) -> None:
    """The loss, now and then."""
    if progress.step % 10 == 0:
        spent = progress.epsilon()
        print(
            f"step {progress.step} of {progress.steps}: epsilon {spent:.2f}, "
            f"loss {progress.unprotected_loss:.3f} (not private)",
            flush=True,
        )


def main() -> None:
    """Trains, and writes the weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="one that all machines share")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--coordinator", help="host:port of the first process")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--index", type=int, help="of this one, from 0")
    parser.add_argument("--alone", action="store_true", help="on one machine, without SLURM")
    arguments = parser.parse_args()
    if not arguments.alone:
        # Before anything else of JAX. Under SLURM the three are found by themselves. A process
        # that is silent for half a minute is taken for lost, and the others stop.
        jax.distributed.initialize(
            arguments.coordinator,
            arguments.processes,
            arguments.index,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
        )
    data = windows(arguments.text)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    m = hg.dp_sgd(
        examples=len(data),
        batch_size=arguments.batch,
        steps=arguments.steps,
        clip=1.0,
        delta=1e-6,
        epsilon=arguments.epsilon,
    )
    run = hg.train(
        loss,
        hg.fsdp(initial(), mesh),
        data,
        m,
        optimizer=optax.adam(2e-3),
        directory=arguments.directory,
        callback=show if jax.process_index() == 0 else None,
        options=hg.Options(checkpoint_every=25),
        mesh=mesh,
    )
    file = run.export(arguments.directory / "weights.safetensors")  # by all: each has a part
    if jax.process_index() == 0:
        print(run.statement())
        print(f"weights: {file}")


if __name__ == "__main__":
    main()
