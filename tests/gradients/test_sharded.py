"""Batches and parameters spread over eight devices give the same sums."""

import os
import subprocess
import sys

import pytest

SESSION = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as S
import hushgrad as hg

assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))


def rand(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def loss(p, ids, y):
    h = p["e"][ids]
    h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w + p["b"]), None), h, p["layers"])
    h = jax.lax.conv_general_dilated(h[None], p["k"], (1,), "SAME",
                                     dimension_numbers=("NWC", "WIO", "NWC"))[0]
    return jnp.sum((h @ p["e"].T - y) ** 2) / 50


p = {"e": rand(0, 40, 16), "layers": rand(1, 3, 16, 16) / 4, "b": rand(2, 16),
     "k": rand(3, 3, 16, 16) / 7}
ids = jnp.asarray(np.random.default_rng(4).integers(0, 40, (32, 6)))
y = rand(5, 32, 6, 40)
mask = jnp.arange(32) < 29
specs = {"e": S("model", None), "layers": S(None, None, "model"), "b": S("model"), "k": S()}
placed = {n: jax.device_put(x, NamedSharding(mesh, specs[n])) for n, x in p.items()}
rows = NamedSharding(mesh, S("data"))
batch = jax.device_put((ids, y), rows)
for options in ({}, {"group": 2}, {"memory": 300_000}):
    clipped = jax.jit(hg.clipped_grad(loss, 0.5, **options))
    want = clipped(p, ids, y, mask=mask)
    got = clipped(placed, *batch, mask=jax.device_put(mask, rows))
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
text = jax.jit(hg.clipped_grad(loss, 0.5)).lower(placed, *batch).compile().as_text()
assert "all-reduce" in text
print("same")
"""


@pytest.mark.slow
def test_sharded_over_eight_devices():
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("same\n")
