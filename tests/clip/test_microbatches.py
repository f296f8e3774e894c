"""Microbatches: one bound for a mean, and a sensitivity of two of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hushgrad as hg
from hushgrad import clip
from hushgrad.errors import InputError


def test_an_empty_place_moves_the_sum_by_at_most_the_sensitivity():
    """And by nearly that where one example turns its microbatch around."""
    rule = clip.Microbatches(0.5, 4)
    of_mean = hg.clipped_grad(jnp.vdot, rule)
    assert of_mean.sensitivity == rule.sensitivity == 1.0
    clipped = jax.jit(of_mean)
    rng = np.random.default_rng(0)
    most = 0.0
    for scale in (0.1, 1.0, 100.0):
        rows = rng.normal(size=(8, 3)).astype(np.float32)
        rows[0] = -scale * rows[1:4].sum(0)
        p = np.zeros(3, np.float32)
        there = clipped(p, rows).grads
        gone = clipped(p, rows, mask=np.arange(8) > 0).grads
        most = max(most, float(jnp.linalg.norm(there - gone)))
    assert 0.99 < most <= 1.0


@pytest.mark.parametrize("sampling", ["Poisson", "FixedSize", "BallsInBins", "CyclicPoisson"])
def test_samplers_that_move_others_are_refused(sampling):
    facts = {"examples": 100, "batch_size": 20, "steps": 3, "delta": 1e-3, "noise_multiplier": 1.0}
    rule = clip.Microbatches(1.0, 4)
    with pytest.raises(InputError, match="needs batches in which everybody has a place"):
        hg.dp_sgd(**facts, clip=rule, sampling=getattr(hg.sampling, sampling))
    m = hg.dp_sgd(**facts, clip=rule, sampling=hg.sampling.Shuffle)
    assert m.noise_stddev == 2.0
    assert "averaged over microbatches of 4 and clipped to norm 1" in " ".join(
        m.statement().split()
    )


def test_the_loop_clips_each_example(tmp_path):
    m = hg.dp_sgd(
        examples=8,
        batch_size=4,
        steps=1,
        delta=1e-2,
        noise_multiplier=1.0,
        clip=clip.Microbatches(1.0, 2),
        sampling=hg.sampling.Shuffle,
    )
    with pytest.raises(InputError, match="mechanism must clip each example"):
        hg.train(
            jnp.vdot,
            jnp.ones(3),
            np.ones((8, 3)),
            m,
            optimizer=optax.sgd(1.0),
            directory=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("norm", "group", "told"), [(0.0, 2, "clip must"), (1.0, 1, "group must"), (1.0, 2.5, "group")]
)
def test_wrong_numbers(norm, group, told):
    with pytest.raises(InputError, match=told):
        clip.Microbatches(norm, group)
    with pytest.raises(InputError, match="group=3 is not that of clip"):
        hg.clipped_grad(jnp.vdot, clip.Microbatches(1.0, 2), group=3)
