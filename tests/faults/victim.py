"""A small seeded run under a budget: `victim.py DIRECTORY URL [FILE_SIZE_LIMIT]`.

It writes each step that was released to `released.log`, durably, before it goes on, and
the result to `result.npz`. Exits with 3 and a message where hushgrad refuses.
"""

import os
import resource
import signal
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg

EXAMPLES, STEPS, TOTAL = 400, 60, 100.0


def mechanism() -> hg.Mechanism:
    return hg.dp_sgd(
        examples=EXAMPLES, batch_size=20, steps=STEPS, clip=1.0, delta=1e-4, noise_multiplier=1.0
    )


def loss(params, x, y):
    return jnp.sum((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)


def main() -> None:
    directory, url = Path(sys.argv[1]), sys.argv[2]
    if len(sys.argv) > 3:
        # A disk that is full: no file may grow any more, and writing says so.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = int(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 16)).astype(np.float32)
    start = {"a": jnp.asarray(rng.normal(size=(16, 32)), jnp.float32), "b": jnp.ones(32)}
    log = os.open(directory.parent / "released.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def released(progress: hg.Progress) -> None:
        np.asarray(progress.params["b"])  # somebody saw it
        os.write(log, f"{progress.step}\n".encode())
        os.fsync(log)

    try:
        run = hg.train(
            loss,
            start,
            (x, x.sum(1)),
            mechanism(),
            optimizer=optax.adam(0.05),
            directory=directory,
            budget=hg.Budget("victims", TOTAL, 1e-4, url=url),
            seed=11,
            callback=released,
            options=hg.Options(checkpoint_every=7),
        )
    except hg.errors.HushgradError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)
    np.savez(directory.parent / "result.npz", **{k: np.asarray(v) for k, v in run.params.items()})


if __name__ == "__main__":
    main()
