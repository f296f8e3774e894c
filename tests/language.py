"""What the runs on meshes and in several processes train: a tiny model of language."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

import hushgrad as hg

rng = np.random.default_rng(0)
WORDS, WIDTH, STEPS = 64, 32, 9
# 203 is no multiple of eight, and neither are the batches.
data = rng.integers(0, WORDS, (203, 5)), rng.integers(0, WORDS, 203)
start = {
    "embedding": rng.normal(size=(WORDS, WIDTH), scale=0.3).astype(np.float32),
    "kernel": rng.normal(size=(WIDTH, WIDTH), scale=0.3).astype(np.float32),
    "bias": np.zeros(WIDTH, np.float32),
}
PLAIN = {"examples": 203, "batch_size": 42, "steps": STEPS, "delta": 1e-4, "noise_multiplier": 1.0}
MECHANISMS = {
    "poisson": hg.dp_sgd(**PLAIN),
    "adaptive": hg.dp_sgd(**PLAIN, clip=hg.clip.Adaptive()),
    "banded": hg.dp_banded(**PLAIN, bands=3),
    "blt": hg.dp_ftrl(**PLAIN, strategy=hg.noise.BLT),
    "tree": hg.dp_ftrl(**PLAIN, strategy=hg.noise.Tree(5)),
}


def loss(params, words, label):
    """Its embedding is its output too."""
    hidden = jnp.tanh(jnp.mean(params["embedding"][words], 0) @ params["kernel"] + params["bias"])
    logits = hidden @ params["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def put(mesh, **specs):
    specs = {name: PartitionSpec(*specs.get(name, ())) for name in start}
    return {name: jax.device_put(start[name], NamedSharding(mesh, specs[name])) for name in start}


def tensor(mesh):
    """The words of the vocabulary, and the columns of a product, along the axis "model"."""
    return put(mesh, embedding=("model", None), kernel=(None, "model"), bias=("model",))


def told(run):
    """What came out of a run, as plain data."""
    arrays = jax.tree.leaves((run.params, run.average))
    whole = [multihost_utils.process_allgather(x, tiled=True) for x in arrays]
    return {
        "epsilon": run.epsilon,
        "steps": run.steps,
        "share": [x.addressable_shards[0].data.size / x.size for x in arrays],
        "values": np.concatenate([np.ravel(x) for x in whole]).tolist(),
    }
