"""Rounds on one and on eight devices, in a process of its own: prints how far apart they are."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax
from clients import CLASSES, CLIENT, FEATURES, SIZES, loss

import hushgrad as hg

rng = np.random.default_rng(0)
ids = np.repeat(np.arange(len(SIZES)), SIZES)
x = rng.normal(size=(len(ids), FEATURES)).astype(np.float32)
users = hg.sampling.Users(ids, (x, rng.integers(0, CLASSES, len(ids)).astype(np.int32)))
start = {
    "w": rng.normal(size=(FEATURES, 4)).astype(np.float32),
    "b": np.zeros(4, np.float32),
    "out": rng.normal(size=(4, CLASSES)).astype(np.float32),
}
m = hg.dp_sgd(
    examples=len(SIZES),
    batch_size=9,
    steps=3,
    unit="user",
    clip=hg.clip.Adaptive(count_stddev=2.0),
    noise_multiplier=1.0,
    delta=1e-2,
)


def run(mesh, lanes):
    process = hg.federated.fed_avg(
        loss, CLIENT, optax.adam(0.1), m, batch_size=4, mesh=mesh, lanes=lanes
    )
    seen = []
    made = process.run(users, start, seed=5, callback=lambda metrics: seen.append(metrics.norm))
    return made.params, seen


wanted = run(None, 2)
for mesh, lanes in ((jax.make_mesh((8,), ("data",)), 1), (jax.make_mesh((2, 4), ("data", "x")), 2)):
    found = run(mesh, lanes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
print("alike")
