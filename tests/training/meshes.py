"""Runs on meshes of eight devices, in a process of its own: prints what came out as JSON.

Called as `python meshes.py FOLDER RUN...`, where a run is "LAYOUT MECHANISM", or "LAYOUT LAYOUT
MECHANISM" to be killed on the first.
"""

import functools
import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import hushgrad as hg

folder, wanted = Path(sys.argv[1]), [run.split() for run in sys.argv[2:]]
rng = np.random.default_rng(0)
WORDS, WIDTH, STEPS = 64, 32, 9
# 203 is no multiple of eight, and neither are the batches.
data = rng.integers(0, WORDS, (203, 5)), rng.integers(0, WORDS, 203)
start = {
    "embedding": rng.normal(size=(WORDS, WIDTH), scale=0.3).astype(np.float32),
    "kernel": rng.normal(size=(WIDTH, WIDTH), scale=0.3).astype(np.float32),
    "bias": np.zeros(WIDTH, np.float32),
}


def loss(params, words, label):
    """Of a tiny model of language, whose embedding is its output too."""
    hidden = jnp.tanh(jnp.mean(params["embedding"][words], 0) @ params["kernel"] + params["bias"])
    logits = hidden @ params["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def put(mesh, **specs):
    specs = {name: PartitionSpec(*specs.get(name, ())) for name in start}
    return {name: jax.device_put(start[name], NamedSharding(mesh, specs[name])) for name in start}


PLAIN = {"examples": 203, "batch_size": 42, "steps": STEPS, "delta": 1e-4, "noise_multiplier": 1.0}
MECHANISMS = {
    "poisson": hg.dp_sgd(**PLAIN),
    "adaptive": hg.dp_sgd(**PLAIN, clip=hg.clip.Adaptive()),
    "tree": hg.dp_ftrl(**PLAIN, restart_every=5),
}
flat, square = jax.make_mesh((8,), ("data",)), jax.make_mesh((2, 4), ("batch", "model"))
pair = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
LAYOUTS = {
    "alone": (None, start),
    "two": (pair, start),
    "data": (flat, start),
    "fsdp": (flat, hg.fsdp(start, flat)),
    # The words of the vocabulary, and the columns of a product, on four devices each.
    "tensor": (
        square,
        put(square, embedding=("model", None), kernel=(None, "model"), bias=("model",)),
    ),
}


class Killed(Exception):
    pass


def train(layout, mechanism, name, kill=None):
    mesh, params = LAYOUTS[layout]

    def callback(progress):
        if progress.step == kill:
            raise Killed

    return hg.train(
        loss,
        params,
        data,
        MECHANISMS[mechanism],
        optimizer=optax.adam(0.05),
        directory=folder / name,
        seed=1,
        mesh=mesh,
        callback=callback,
        options=hg.Options(average=0.9, checkpoint_every=4),
    )


def told(run):
    arrays = jax.tree.leaves((run.params, run.average))
    specs = [str(getattr(x.sharding, "spec", "")) for x in arrays]
    kept = [x.addressable_shards[0].data.size / x.size for x in arrays]
    values = np.concatenate([np.ravel(jax.device_get(x)) for x in arrays]).tolist()
    return {
        "epsilon": run.epsilon,
        "steps": run.steps,
        "specs": specs,
        "share": kept,
        "values": values,
    }


results, keys = {}, []
noise_key = hg.training.secret.RunSecret.noise_key
hg.training.secret.RunSecret.noise_key = functools.wraps(noise_key)(
    lambda self, step: (keys.append(step), noise_key(self, step))[1]
)
for *layouts, mechanism in wanted:
    name = " ".join([*layouts, mechanism])
    keys.clear()
    if len(layouts) == 2:
        try:
            train(layouts[0], mechanism, name, kill=6)
        except Killed:
            made = list(keys)
        keys.clear()
        results[name] = told(train(layouts[1], mechanism, name))
        results[name] |= {"before": made, "after": list(keys)}
    else:
        results[name] = told(train(layouts[0], mechanism, name))
print(json.dumps(results))
