"""What a run does to the parameters, and what it leaves behind."""

import itertools
import stat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import EXAMPLES, loss, mechanism

import hushgrad as hg
from hushgrad.sampling import Poisson
from hushgrad.training import job
from hushgrad.training.secret import RunSecret


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_a_run_returns_what_it_promises(train, tmp_path):
    run = train()
    assert run.steps == 12
    assert run.epsilon == mechanism().epsilon()
    assert run.directory == tmp_path / "run"
    assert not run.seeded
    assert f"{run.epsilon:.4f}" in run.statement()
    assert "SEEDED" not in run.statement()
    assert np.isfinite(flat(run.params)).all()


def test_noise_has_the_stated_deviation_on_every_coordinate(train, tmp_path):
    """One step without gradients, learning rate 1: what moves is -noise / batch size."""
    n = 20_000
    run = train(
        loss=lambda w, x, y: 0.0 * jnp.sum(w) * x[0],
        params=jnp.zeros(n),
        mechanism=mechanism(steps=1, clip=3.0, noise_multiplier=2.0),
        optimizer=optax.sgd(1.0),
        seed=1,
    )
    noise = np.asarray(run.params) * 12
    # The sample variance of n normals has relative deviation sqrt(2/n) = 1%: 5 of them.
    assert abs(noise.var() / 36 - 1) < 0.05
    assert abs(noise.mean()) < 5 * 6 / np.sqrt(n)


def test_noise_is_fresh_in_every_step_and_run(train, tmp_path):
    kept = []
    settings = {
        "loss": lambda w, x, y: 0.0 * jnp.sum(w) * x[0],
        "params": jnp.zeros(500),
        "mechanism": mechanism(steps=4),
        "optimizer": optax.sgd(1.0),
        "callback": lambda p: kept.append(np.asarray(p.params)),
    }
    for name in ("a", "b"):
        kept.append(np.zeros(500))
        train(**settings, directory=tmp_path / name)
    moves = np.diff(np.array(kept), axis=0)
    moves = np.delete(moves, 4, axis=0)  # the return to zero between the runs
    # Correlations of 500 independent pairs have deviation 1/sqrt(500) = 0.045: 6 of them.
    for a, b in itertools.combinations(moves, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.27


def test_every_step_has_its_own_key_and_batch(train, monkeypatch):
    keys, rows = [], []
    release, batch = job.release, Poisson.batch

    def watched(*arguments):
        if isinstance(arguments[5], np.ndarray):  # not where the step is only traced
            keys.append(bytes(arguments[5]))
        return release(*arguments)

    def drawn(*arguments):
        rows.append(tuple(batch(*arguments)))
        return np.array(rows[-1])

    monkeypatch.setattr(job, "release", watched)
    monkeypatch.setattr(Poisson, "batch", drawn)
    train()
    assert len(set(keys)) == len(keys) == 12
    assert len(set(rows)) > 10


def test_the_global_seed_of_numpy_has_no_say(train, tmp_path):
    results = []
    for name in ("a", "b"):
        np.random.seed(0)
        results.append(flat(train(directory=tmp_path / name).params))
    assert not np.allclose(*results)


def test_sums_are_divided_by_the_expected_batch_size(train, data, params):
    """Next to no noise, one step: the update is the clipped sum over 12, whoever was drawn."""
    m = mechanism(steps=1, noise_multiplier=1e-9)
    drawn = m.sampling.draw(EXAMPLES, RunSecret.from_seed(3).sampling_generator(0))
    assert len(drawn) != 12  # else the test could not tell
    run = train(mechanism=m, optimizer=optax.sgd(1.0), seed=3)
    total = hg.clipped_grad(loss, 1.0)(params, *(a[drawn] for a in data)).grads
    want = jax.tree.map(lambda p, g: p - g / 12, params, total)
    np.testing.assert_allclose(flat(run.params), flat(want), atol=1e-6)


def test_blocks_of_any_size_make_the_same_step(train, tmp_path):
    results = [
        flat(train(directory=tmp_path / str(size), seed=5, block_size=size).params)
        for size in (1, 7, 64)
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    np.testing.assert_allclose(results[0], results[2], atol=1e-5)


def test_empty_batches_are_ordinary_steps(train):
    seen = []
    m = mechanism(batch_size=1, steps=30)
    train(
        mechanism=m,
        callback=lambda p: seen.append(
            (int(p.unprotected_sums.finite), p.unprotected_loss, p.params)
        ),
    )
    empty = [i for i, (count, loss, _) in enumerate(seen) if count == 0]
    assert empty  # 30 batches of Binomial(60, 1/60): none empty has probability 1e-6
    assert all(np.isnan(seen[i][1]) for i in empty)
    i = next(i for i in empty if i > 0)
    assert not np.allclose(flat(seen[i][2]), flat(seen[i - 1][2]))


def test_a_bad_record_is_left_out_and_counted(train, data, tmp_path):
    x, y = data
    bad = x.copy()
    bad[7] = np.nan
    seen = []
    run = train(data=(bad, y), seed=2, callback=lambda p: seen.append(p.unprotected_nonfinite))
    assert np.isfinite(flat(run.params)).all()
    assert sum(seen) > 0
    assert max(seen) == 1


def test_the_secret_is_the_owners_alone_and_goes_with_the_end(train, tmp_path):
    modes = []
    train(
        callback=lambda p: modes.append(
            stat.S_IMODE((tmp_path / "run" / "secret.key").stat().st_mode)
        )
    )
    assert set(modes) == {0o600}
    assert not (tmp_path / "run" / "secret.key").exists()


def test_a_seeded_run_says_so(train):
    run = train(seed=1)
    assert run.seeded
    assert "SEEDED: not private against whoever knows" in " ".join(run.statement().split())


def test_checkpoints_hold_no_key(train, tmp_path):
    keys = []
    train(
        stop_after=None,
        callback=lambda p: keys.append((tmp_path / "run" / "secret.key").read_text().strip()),
    )
    secret = bytes.fromhex(keys[0])
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert files
    assert not any(secret in f.read_bytes() or keys[0].encode() in f.read_bytes() for f in files)


def test_dictionaries_and_single_arrays_are_data_too(train, data):
    x, y = data

    def loss(params, example):
        return (example["x"] @ params["w"] - example["y"]) ** 2

    run = train(loss=loss, data={"x": x, "y": y}, mechanism=mechanism(steps=2))
    assert np.isfinite(flat(run.params)).all()


def test_progress_tells_what_was_spent(train):
    seen = []
    train(callback=lambda p: seen.append((p.step, p.steps, p.epsilon(), p.unprotected_clipped)))
    assert [s[0] for s in seen] == list(range(1, 13))
    assert seen[4][2] == mechanism().epsilon(steps=5)
    assert all(a[2] < b[2] for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
def test_narrow_parameters_keep_their_dtype(train, params, narrow):
    run = train(params=jax.tree.map(lambda p: p.astype(narrow), params))
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype(narrow)}


def test_shuffled_epochs_take_every_example_once_in_every_pass(tmp_path):
    """Every example moves a coordinate of its own by one clip; noise is next to nothing."""
    m = hg.dp_sgd(
        examples=20,
        batch_size=6,
        epochs=2,
        clip=1.0,
        noise_multiplier=1e-4,
        delta=1e-3,
        sampling=hg.sampling.Shuffle,
    )
    assert m.steps == 7  # 40 / 6, rounded up: the second pass lacks its last batch
    seen = []
    settings = {"optimizer": optax.sgd(6.0), "directory": tmp_path / "run", "seed": 1}
    run = hg.train(
        lambda w, i: w[i],
        jnp.zeros(20),
        (np.arange(20),),
        m,
        callback=lambda p: seen.append(np.asarray(p.params)),
        **settings,
    )
    np.testing.assert_allclose(seen[3], -1, atol=0.01)
    counts = np.bincount(np.round(-seen[6]).astype(int), minlength=3)
    assert counts.tolist() == [0, 2, 18]
    assert run.mechanism.neighbouring_relation == "replace-special"
    # Each pass is one release that an example is in: two passes, begun or done.
    two = hg.accounting.poisson_gaussian(1.0, 1e-4, 2)
    assert run.epsilon == hg.accounting.epsilon(two, 1e-3)
    again = hg.train(lambda w, i: w[i], jnp.zeros(20), (np.arange(20),), m, **settings)
    np.testing.assert_array_equal(again.params, run.params)
