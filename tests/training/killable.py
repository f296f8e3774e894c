"""A small seeded run that can kill itself: `killable.py DIRECTORY [WHERE STEP]`.

WHERE is "charged" (between the charge and the release of STEP), "released" (after
it) or "saving" (in the middle of the first checkpoint from STEP on).
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import hushgrad as hg
from hushgrad.training import checkpoint, ledger


def loss(params, x, y):
    return (x @ params["w"] + params["b"] - y) ** 2


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(where: str, step: int) -> None:
    charge, save = ledger.Ledger.charge, checkpoint.Checkpoints.save
    released = 0

    def charge_then_die(self, number, mark):
        nonlocal released
        if where == "released" and number >= step:
            die()
        charge(self, number, mark)
        released += 1
        if where == "charged" and number >= step - 1:
            die()

    def die_while_saving(self, number, state):
        if number >= step:
            # Orbax writes to a temporary folder and renames it: die before the rename.
            os.rename = os.replace = lambda *a, **k: die()
        save(self, number, state)

    ledger.Ledger.charge = charge_then_die
    if where == "saving":
        checkpoint.Checkpoints.save = die_while_saving


def main() -> None:
    directory = Path(sys.argv[1])
    if len(sys.argv) > 2:
        arm(sys.argv[2], int(sys.argv[3]))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    run = hg.train(
        loss,
        {"w": jnp.zeros(3), "b": jnp.zeros(())},
        (x, x.sum(1)),
        hg.dp_sgd(examples=50, batch_size=10, steps=20, clip=1.0, delta=1e-3, noise_multiplier=1.0),
        optimizer=optax.adam(0.1),
        directory=directory,
        seed=7,
        options=hg.Options(checkpoint_every=4),
    )
    np.savez(directory / "result.npz", **{k: np.asarray(v) for k, v in run.params.items()})
    result = {"epsilon": run.epsilon, "steps": run.steps}
    (directory / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
