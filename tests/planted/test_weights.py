"""Weights by the number of examples, planted into federated averaging, are found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clients import CLIENT, FEATURES, SIZES, loss

import hushgrad as hg
from hushgrad.federated.process import LearningProcess
from hushgrad.training.step import release

RUNS = 1500
_TAKEN = optax.sgd(1.0)


def by_count(patch: pytest.MonkeyPatch) -> None:
    """Each client's clipped update counts as often as it has examples, over their mean."""
    plain, mean = LearningProcess._sums, np.mean(SIZES)

    def weighted(self, state, cohort):
        total = None
        for client, examples in cohort.items():
            sums = plain(self, state, {client: examples})
            share = len(examples[0]) / mean
            sums = sums._replace(grads=jax.tree.map(lambda g, s=share: g * s, sums.grads))
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return total

    patch.setattr(LearningProcess, "_sums", weighted)


@pytest.mark.parametrize("planted", [False, True])
def test_a_client_with_many_examples_moves_the_mean_as_much_as_any(planted, monkeypatch):
    rng = np.random.default_rng(1)
    params = {
        "w": jnp.asarray(rng.normal(size=(FEATURES, 4)), jnp.float32),
        "b": jnp.zeros(4),
        "out": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
    }
    m = hg.dp_sgd(
        examples=len(SIZES),
        batch_size=len(SIZES),
        steps=1,
        clip=0.5,
        delta=1e-2,
        noise_multiplier=1.0,
        sampling=hg.sampling.Poisson(1.0),
        unit="user",
    )
    made = hg.federated.fed_avg(loss, CLIENT, _TAKEN, m, batch_size=4, block_size=4)
    state = made.initialize(params, seed=0)
    cohort = {
        n: (np.ones((size, FEATURES), np.float32), np.full(size, 2, np.int32))
        for n, size in enumerate(SIZES)
    }
    if planted:
        by_count(monkeypatch)
    largest = int(np.argmax(SIZES))
    there = made._sums(state, cohort)
    gone = made._sums(state, {n: e for n, e in cohort.items() if n != largest})
    along = jax.tree.map(jnp.subtract, there.grads, gone.grads)

    def seen(sums, key):
        """Along what the client adds, in units of what one client may add."""
        after = release(m, _TAKEN, state.server, sums.grads, sums.centred_bits, key)
        moved = jax.tree.map(lambda a, b: (b - a) * m.batch_size, after.params, state.params)
        return optax.tree.vdot(moved, along) / optax.tree.norm(along) / 0.5

    keys = rng.integers(0, 2**32, (2, RUNS, 8), dtype=np.uint32)
    scores = [
        np.asarray(jax.vmap(lambda k, s=s: seen(s, k))(k))
        for s, k in zip((there, gone), keys, strict=True)
    ]
    found = hg.audit.verdict({"along the client's update": tuple(scores)}, m)
    assert found.refuted == planted, found
