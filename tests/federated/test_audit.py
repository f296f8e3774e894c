"""Measured from below: with one planted client nobody can tell more than is promised."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clients import SIZES
from scipy import stats

import hushgrad as hg
from hushgrad.training.step import release

RUNS = 8000
DELTA = 1e-2
_TAKEN = optax.sgd(1.0)  # the server takes the mean itself
CLIPS = {"fixed": 0.5, "adaptive": hg.clip.Adaptive(initial_norm=0.5, count_stddev=0.8)}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("broken", [False, True])
def test_a_planted_client_cannot_beat_epsilon(process, params, users, clip, broken):
    """What a round releases, count included, with and without a client whose update is huge.

    With half the noise the same attack must beat it, or it would show nothing.
    """
    everybody = {"sampling": hg.sampling.Poisson(1.0), "batch_size": len(SIZES), "steps": 1}
    made = process(everybody | {"clip": CLIPS[clip], "delta": DELTA})
    made._optimizer = _TAKEN
    state = made.initialize(params, seed=0)
    cohort = dict(made.cohort(state, users))
    # With many examples alike its update is far beyond the clip, and counts as clipped.
    planted = {3: (np.ones((600, 5), np.float32), np.full(600, 2, np.int32))}
    others = {n: e for n, e in cohort.items() if n != 3}
    without, with_it = made._sums(state, others), made._sums(state, others | planted)
    gap = jax.tree.map(jnp.subtract, with_it.grads, without.grads)
    assert optax.tree.norm(gap) == pytest.approx(0.5, rel=1e-3)
    one = made.mechanism
    z = one.noise_multiplier / (2 if broken else 1)
    noisy = hg.dp_sgd(
        examples=12, batch_size=12, steps=1, delta=DELTA, noise_multiplier=z, clip=one.clip
    )

    def released(sums, words):
        after = release(noisy, _TAKEN, state.server, sums.grads, sums.centred_bits, words)
        # All that is released, in standard deviations of what is claimed.
        moved = jax.tree.map(lambda a, b: (b - a) * 12, after.params, state.params)
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])
        seen = [flat / one.noise_stddev]
        if after.norm is not None:
            share = -jnp.log(after.norm / state.norm) / one.clip.learning_rate
            seen.append(share[None] * 12 / one.clip.count_stddev)
        return jnp.concatenate(seen)

    keys = np.random.default_rng(1).integers(0, 2**32, (2, RUNS, 8), dtype=np.uint32)
    absent = np.asarray(jax.vmap(lambda k: released(without, k))(keys[0]))
    present = np.asarray(jax.vmap(lambda k: released(with_it, k))(keys[1]))
    # The best attack on Gaussians: along the difference of their means, which it knows.
    direction = present.mean(axis=0) - absent.mean(axis=0)
    found = _lower_bound(absent @ direction, present @ direction)
    assert (found > one.epsilon()) == broken, (found, one.epsilon())


def _lower_bound(absent, present):
    """Epsilon that some threshold proves with 99.9% confidence, corrected for those tried."""
    thresholds = np.quantile(present, np.linspace(0.02, 0.98, 25))
    level = 1e-3 / (2 * len(thresholds))
    bounds = []
    for t in thresholds:
        hits, alarms = int(np.sum(present > t)), int(np.sum(absent > t))
        tpr = stats.beta.ppf(level, hits, RUNS - hits + 1)
        fpr = stats.beta.ppf(1 - level, alarms + 1, RUNS - alarms)
        if tpr > DELTA:
            bounds.append(np.log((tpr - DELTA) / fpr))
    return max(bounds)
