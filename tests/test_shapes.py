"""The shapes and types in the signatures, checked while a small run is made.

In a process of its own: with the checks on, wrong arguments raise the checker's
errors in place of hushgrad's, which other tests are about.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = """
from jaxtyping import install_import_hook

with install_import_hook("hushgrad", "beartype.beartype"):
    import hushgrad as hg
    import hushgrad.cli.app
    import hushgrad.compat.tensorflow_privacy as tfp
    from hushgrad import recipes

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax


def loss(p, x, y):
    h = lax.conv_general_dilated(x[None, :, None], p["k"], (1,), "SAME",
                                 dimension_numbers=("NWC", "WIO", "NWC"))
    h = jnp.tanh(h[0] @ p["w"] + p["b"]) * p["s"]
    return jnp.sum((h @ p["wide"]) ** 2) - y


p = {"k": jnp.ones((3, 1, 4)), "w": jnp.ones((4, 4)), "b": jnp.ones(4), "s": jnp.ones(4),
     "wide": jnp.ones((4, 300))}
x, y = np.ones((20, 5), np.float32), np.ones(20, np.float32)
adaptive = hg.clip.Adaptive(count_stddev=1.0)
for clip in (1.0, hg.clip.Flat(1.0), hg.clip.Automatic(), hg.clip.PerLayer(1.0), adaptive):
    jax.jit(hg.clipped_grad(loss, clip))(p, x, y, mask=jnp.arange(20) < 7)
for norm in (2.0, jnp.float32(2)):
    hg.clipped_grad(loss, adaptive)(p, x, y, norm=norm)
m = hg.dp_sgd(examples=20, batch_size=5, steps=3, clip=1.0, delta=1e-3, noise_multiplier=1.0)
seen = []
run = hg.train(loss, p, (x, y), m, optimizer=optax.adam(0.1), directory="run", seed=1,
               callback=lambda q: seen.append((q.unprotected_loss, q.epsilon())))
assert len(seen) == 3 and run.statement() and run.epsilon == m.epsilon()
m = hg.dp_sgd(examples=20, batch_size=5, steps=3, clip=adaptive, delta=1e-3, noise_multiplier=1.0)
hg.train(loss, p, (x, y), m, optimizer=optax.adam(0.1), directory="adaptive", seed=1)
rows = hg.dp_adafest(examples=20, batch_size=5, steps=2, delta=1e-3, noise_multiplier=1.0,
                     strategy=hg.noise.Sparse("t"))
hg.train(lambda q, i: jnp.sum(q["t"][i] ** 2), {"t": jnp.ones((9, 2))},
         (np.zeros((20, 3), np.int32),), rows, optimizer=optax.sgd(0.1), directory="rows", seed=1)
for sampling in hg.sampling.SAMPLERS:
    other = hg.dp_sgd(examples=20, batch_size=5, epochs=1.0, clip=1.0, delta=1e-3, epsilon=2.0,
                      sampling=sampling)
    assert other.statement(max_examples_per_user=2) and other.profile([0.0, 1.0])
    hg.accounting.epsilon_interval(other, 1e-4)
    hg.accounting.delta_interval(other, 0.5)
    hg.accounting.bounds(other, 1e-4)
    hg.accounting.statement_facts(other)
hg.accounting.running(m, 1e-3)(2)
hg.accounting.trade_off(m)
hg.accounting.calibrate(examples=100, batch_size=10, epochs=1.0, noise_multiplier=1.0, delta=1e-3)
digits = hg.datasets.load_digits()
recipes.accuracy(recipes.digits, recipes.digits.init(0), *digits.test)
recipes.mnist.logits(recipes.mnist.init(0), jnp.ones((28, 28)))
rows = hg.sampling.Poisson(0.3).draw(50, np.random.default_rng(0))
assert sum(block.mask.sum() for block in hg.sampling.blocks(rows, 4)) == len(rows)
from hushgrad import federated
users = hg.sampling.Users(np.repeat(np.arange(5), 4), (x, y))
aggregator = federated.dp_aggregator(1.0, 4, clip=adaptive)
m = aggregator.mechanism(clients=5, rounds=2, delta=1e-2)
aggregator.release(aggregator.empty(p), aggregator.init(p), key=np.arange(8, dtype=np.uint32))
process = federated.fed_avg(loss, optax.sgd(0.1), optax.sgd(1.0), m, batch_size=2)
state = process.initialize(p, seed=0)
process.evaluate(state, (x, y))
state, metrics = process.next(state, process.cohort(state, users))
opened = process.begin(state)
assert all(opened.receive(n, jax.tree.map(jnp.zeros_like, p)) for n in opened.clients)
opened.finish()
federated.fed_sgd(loss, optax.sgd(1.0), m).run(users, p, seed=1)
metric = federated.Metric(loss, 0.0, 5.0, bins=3)
federated.private_evaluation({"loss": metric}, m)(p, users)["loss"].quantile(0.5)
query = tfp.GaussianSumQuery(1.0, 1.0)
like = jax.ShapeDtypeStruct((2,), jnp.float32)
tfp.TreeCumulativeSumQuery.build_l2_gaussian_query(1.0, 1.0, like)
assert tfp.compute_dp_sgd_privacy_statement(1000, 10, 1.0, 1.0, 1e-5)
print("checked")
"""


FACES = """
from jaxtyping import install_import_hook

with install_import_hook("hushgrad", "beartype.beartype"):
    import hushgrad as hg
    import hushgrad.keras
    import hushgrad.sklearn

import numpy as np

x, y = np.ones((20, 5), np.float32), np.ones(20, np.float32)
adaptive = hg.clip.Adaptive(count_stddev=1.0)
import keras
few = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
private = hg.keras.privatize(
    few, clip=adaptive, noise_multiplier=1.0, delta=1e-3, ledger="k.sqlite")
crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
private.compile("sgd", crossentropy, metrics=["accuracy"])
private.fit(x, (y > 0).astype(int), batch_size=5, verbose=0)
private.train_on_batch(x, (y > 0).astype(int))
assert private.privacy_statement() and private.epsilon()
linear = hg.sklearn.DPLinearRegression(
    epsilon=5.0, delta=1e-3, bounds=(-1.0, 1.0), bounds_fraction=0.3, steps=2)
assert linear.fit(np.eye(40, 3), np.arange(40.0)).privacy_statement()
print("checked")
"""


@pytest.mark.parametrize(
    "session",
    [
        pytest.param(SESSION, id="hushgrad"),
        pytest.param(FACES, id="faces", marks=pytest.mark.slow),
    ],
)
def test_signatures_hold_in_a_small_run(session: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", session],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("checked\n")
