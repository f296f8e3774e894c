"""Runs with every kind of clip: what they do step by step, and that they go on exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import EXAMPLES, Stop, loss, mechanism

from hushgrad.clip import Adaptive, Automatic, Flat, PerLayer
from hushgrad.errors import ResumeError
from hushgrad.noise import COUNT_STREAM, standard_normal
from hushgrad.training.secret import RunSecret

ADAPTIVE = Adaptive(0.3, initial_norm=2.0, count_stddev=3.0)
KINDS = {
    "flat": Flat(2.0),
    "automatic": Automatic(0.1),
    "adaptive": ADAPTIVE,
    "one part": PerLayer(2.0),
    "per layer": PerLayer({"w": 4.0, "b": 0.5}),
    "total": PerLayer(total=3.0),
}


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def gradients(params, x, y) -> np.ndarray:
    """One row per example, the bias first, as `jax.tree.leaves` has it."""
    error = 2 * (x @ np.asarray(params["w"]) + float(params["b"]) - y)
    return error[:, None] * np.concatenate([np.ones((len(x), 1)), x], axis=1)


def drawn(m, step: int) -> np.ndarray:
    return m.sampling.draw(EXAMPLES, RunSecret.from_seed(3).sampling_generator(step))


def factors(kind: str, rows: np.ndarray) -> np.ndarray:
    """Of each number of the examples' gradients, or one for each example."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if kind == "automatic":
        return 1 / (norms + 0.1)
    bounds = {"per layer": (0.5, 4), "total": (3 / np.sqrt(2), 3 / np.sqrt(2))}.get(kind)
    if bounds is None:
        return np.minimum(1, 2 / norms)
    bias, weights = np.abs(rows[:, :1]), np.linalg.norm(rows[:, 1:], axis=1, keepdims=True)
    b, w = np.minimum(1, bounds[0] / bias), np.minimum(1, bounds[1] / weights)
    return np.concatenate([b, np.repeat(w, rows.shape[1] - 1, axis=1)], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_noise_is_the_mean_of_what_the_rule_makes(train, data, params, kind):
    m = mechanism(steps=1, noise_multiplier=1e-9, clip=KINDS[kind])
    seen = []
    run = train(mechanism=m, optimizer=optax.sgd(1.0), seed=3, callback=seen.append)
    rows = gradients(params, *(a[drawn(m, 0)] for a in data))
    scale = factors(kind, rows)
    moved = flat(params) - flat(run.params)
    np.testing.assert_allclose(moved, (scale * rows).sum(0) / 12, atol=1e-5)
    assert 0 < seen[0].unprotected_clipped == (scale < 1).any(axis=1).sum() <= len(rows)
    assert (seen[0].norm is None) == (kind != "adaptive")


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_trains_and_says_what_it_is(train, kind):
    m = mechanism(clip=KINDS[kind])
    run = train(mechanism=m)
    assert run.steps == 12
    assert np.isfinite(flat(run.params)).all()
    assert run.epsilon == mechanism().epsilon()
    assert m.clip.describe() in " ".join(run.statement().split())


def test_the_norm_follows_the_noised_counts_step_by_step(train, data, params):
    """Against NumPy, from the run's own batches and streams; parameters as they were released."""
    m = mechanism(clip=ADAPTIVE)
    seen = []
    train(mechanism=m, seed=3, callback=lambda p: seen.append((p.params, float(p.norm))))
    before, norm = params, 2.0
    for step, (after, got) in enumerate(seen):
        rows = gradients(before, *(a[drawn(m, step)] for a in data))
        bits = np.where(np.linalg.norm(rows, axis=1) <= norm, 0.5, -0.5).sum()
        key = RunSecret.from_seed(3).noise_key(step)
        normal = float(standard_normal(jnp.asarray(key), COUNT_STREAM, (), jnp.dtype("float32")))
        share = (bits + 3.0 * normal) / 12 + 0.5
        norm *= np.exp(-0.2 * (share - 0.3))
        assert got == pytest.approx(norm, rel=1e-4), step
        before, norm = after, got
    norms = [2.0, *(norm for _, norm in seen)]
    assert len(set(norms)) == 13


def test_blocks_of_any_size_count_the_same(train, tmp_path):
    m, norms = mechanism(clip=ADAPTIVE), []
    for size in (1, 7, 64):
        train(
            mechanism=m,
            seed=5,
            block_size=size,
            directory=tmp_path / str(size),
            callback=lambda p: norms.append(float(p.norm)),
        )
    np.testing.assert_allclose(norms[:12], norms[12:24], rtol=1e-6)
    np.testing.assert_allclose(norms[:12], norms[24:], rtol=1e-6)


def test_a_bad_record_is_counted_as_clipped_and_changes_the_count_by_a_half(train, data, tmp_path):
    """The worst that a record can do to the count, and to the next norm."""
    x, y = data
    m = mechanism(steps=1, clip=ADAPTIVE)
    row = drawn(m, 0)[0]
    bad = x.copy()
    bad[row] = np.nan
    seen = []
    for name, rows in (("good", x), ("bad", bad)):
        train(mechanism=m, data=(rows, y), seed=3, callback=seen.append, directory=tmp_path / name)
    good, hurt = (p.unprotected_sums for p in seen)
    assert int(hurt.nonfinite) == 1
    error = 2 * (x[row] @ np.ones(4) - y[row])
    was = 0.5 if abs(error) * np.sqrt(1 + x[row] @ x[row]) <= 2 else -0.5
    assert float(hurt.centred_bits - good.centred_bits) == -0.5 - was
    assert int(hurt.clipped) == int(good.clipped) - (was < 0)


def test_an_interrupted_run_goes_on_with_the_norm_it_had(train, tmp_path):
    m, norms = mechanism(clip=ADAPTIVE), []

    def watched(progress):
        norms.append(np.float32(progress.norm).tobytes())
        if progress.step == 8 and len(norms) < 20:
            raise Stop

    with pytest.raises(Stop):
        train(mechanism=m, seed=4, directory=tmp_path / "part", callback=watched)
    assert len(norms) == 8
    # From the checkpoint after step 5 on; its norm was no longer the initial one.
    part = train(
        mechanism=m,
        seed=4,
        directory=tmp_path / "part",
        callback=lambda p: norms.append(np.float32(p.norm).tobytes()),
    )
    whole_norms = []
    whole = train(
        mechanism=m,
        seed=4,
        directory=tmp_path / "whole",
        callback=lambda p: whole_norms.append(np.float32(p.norm).tobytes()),
    )
    assert norms[:8] == whole_norms[:8]
    assert norms[8:] == whole_norms[5:]
    np.testing.assert_array_equal(flat(part.params), flat(whole.params))


@pytest.mark.parametrize(
    "other",
    [
        Adaptive(0.4, initial_norm=2.0, count_stddev=3.0),
        Adaptive(0.3, initial_norm=2.0, count_stddev=3.0, learning_rate=0.1),
        Flat(2.0),
        Automatic(),
    ],
    ids=str,
)
def test_another_clip_is_another_run(train, other):
    with pytest.raises(Stop):
        train(mechanism=mechanism(clip=ADAPTIVE), stop_after=6)
    with pytest.raises(ResumeError, match=r"another mechanism \(clip: .*there"):
        train(mechanism=mechanism(clip=other))
    assert train(mechanism=mechanism(clip=ADAPTIVE)).steps == 12


def test_a_sum_over_the_loss_of_the_job_is_what_gradients_say(params, data):
    """The reference of this file against JAX itself."""
    want = jax.vmap(jax.grad(loss), (None, 0, 0))(params, *data)
    got = gradients(params, *data)
    np.testing.assert_allclose(got[:, 0], want["b"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[:, 1:], want["w"], rtol=1e-4, atol=1e-4)
