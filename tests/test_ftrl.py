"""DP-FTRL: the tree's noise in a mechanism and a run, and what it costs."""

import math
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hushgrad as hg
from hushgrad import accounting, noise
from hushgrad.errors import InputError, ResumeError
from hushgrad.sampling import BallsInBins, CyclicPoisson, FixedSize, Poisson, Shuffle, Stream

PLAIN = {"examples": 40, "batch_size": 10, "clip": 1.0, "delta": 1e-3}


def make(**changes) -> hg.Mechanism:
    given = {"noise_multiplier": 1.0, "steps": 12, **changes}
    return hg.dp_ftrl(**PLAIN, **given)


def exact(sensitivity: float, noise_multiplier: float = 1.0) -> float:
    """Epsilon of one Gaussian mechanism."""
    event = accounting.poisson_gaussian(1.0, noise_multiplier / sensitivity, 1)
    return accounting.epsilon(event, PLAIN["delta"], relation="replace-special")


@pytest.mark.parametrize(
    ("sampling", "pattern"),
    [
        (Shuffle, noise.OncePerPass(4)),
        (BallsInBins, noise.OncePerPass(4)),
        (CyclicPoisson(1.0, 4), noise.Periodic(4)),
        (Stream, noise.Spaced(12, 1)),
    ],
)
@pytest.mark.parametrize("restart_every", [None, 4, 5])
def test_it_costs_the_worst_way_to_take_part(sampling, pattern, restart_every):
    m = make(sampling=sampling, strategy=noise.Tree(restart_every))
    squares = noise.largest_sum(noise.Tree(restart_every).trees(12), pattern)
    assert m.epsilon() == pytest.approx(exact(math.sqrt(squares)), rel=1e-6)
    assert m.epsilon(steps=0) == 0
    spent = [m.epsilon(steps=steps) for steps in range(13)]
    assert spent == sorted(spent)


def test_a_tree_for_each_epoch_costs_its_height_each_time():
    # One leaf of three in every epoch, below three nodes of a tree of four leaves.
    assert make(strategy=noise.Tree(4)).epsilon() == pytest.approx(
        exact(math.sqrt(3 * 3)), rel=1e-6
    )


def test_noise_is_found_for_an_epsilon():
    m = make(noise_multiplier=None, epsilon=2.0)
    assert 1.99 < m.epsilon() <= 2.0
    assert make(noise_multiplier=0.99 * m.noise_multiplier).epsilon() > 2.0


def test_a_group_moves_as_much_as_its_members_together():
    m = make()
    group = hg.Mechanism(**{**vars(m), "unit": "group of 3"})
    squares = noise.largest_sum((12,), noise.OncePerPass(4))
    assert group.epsilon() == pytest.approx(exact(3 * math.sqrt(squares)), rel=1e-6)


@pytest.mark.parametrize("sampling", [Poisson, FixedSize, hg.sampling.TruncatedPoisson(0.25, 20)])
def test_chance_alone_is_refused(sampling):
    with pytest.raises(InputError, match="needs to know when an example takes part"):
        make(sampling=sampling)


def test_a_clip_that_moves_is_refused():
    with pytest.raises(InputError, match="take a clip that stays"):
        hg.dp_ftrl(**PLAIN | {"clip": hg.clip.Adaptive()}, steps=3, noise_multiplier=0.1)


def test_it_is_plain_data_and_says_what_it_is():
    m = make(strategy=noise.Tree(5))
    assert hg.Mechanism.from_dict(m.to_dict()) == m
    assert m.to_dict()["noise"]["kind"] == "tree"
    text = " ".join(m.statement().split())
    assert text.startswith("DP-FTRL over 40 examples: 12 steps, shuffled batches of 10")
    assert "on the nodes of a binary tree over the steps, a new one every 5" in text
    assert "POISSON" not in text
    assert "holds for the worst order of the batches" in text


def loss(params, x):
    return jnp.sum(params * x)


def train(mechanism, directory, **changes):
    data = (np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),)
    options = hg.Options(checkpoint_every=3)
    return hg.train(
        loss,
        jnp.zeros(3),
        data,
        mechanism,
        optimizer=optax.sgd(1.0),
        directory=directory,
        options=options,
        **changes,
    )


@pytest.fixture
def ones(monkeypatch):
    def made(key, wanted, draw=0):
        return [jnp.ones(shape, dtype) for _, shape, dtype in wanted]

    jax.clear_caches()
    monkeypatch.setattr(sys.modules["hushgrad.noise.gaussian"], "standard_normals", made)
    yield
    jax.clear_caches()


def test_a_run_adds_the_trees_noise(tmp_path, ones):
    """With nodes of 1 the parameters are the sums less the tree's sum over the batch size."""
    m, seen = make(steps=8, noise_multiplier=4.0), []
    train(m, tmp_path / "run", seed=1, callback=lambda p: seen.append(np.array(p.params)))
    sums = -np.array(seen) * 10 / 4.0  # of noise, and of clipped gradients over 4
    expected = np.array([1, 4 / 3, 7 / 3, 12 / 7, 19 / 7, 64 / 21, 85 / 21, 32 / 15])
    clipped = sums - expected[:, None]
    steps = np.linalg.norm(np.diff(clipped, axis=0, prepend=0), axis=1) * 4.0
    assert (steps < 10).all()  # ten gradients of norm 1 at most
    # Two passes over the same data: their sums are the same.
    np.testing.assert_allclose(clipped[7], 2 * clipped[3], atol=1e-4)


@pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(make(), id="one tree", marks=pytest.mark.slow),
        pytest.param(
            hg.schedule(make(steps=5), make(steps=7, strategy=noise.Tree(3))), id="two phases"
        ),
        pytest.param(
            hg.schedule(
                hg.dp_sgd(**PLAIN, steps=5, noise_multiplier=1.0, sampling=Shuffle), make(steps=7)
            ),
            id="noise of its own, then a tree",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(mechanism, tmp_path):
    whole = train(mechanism, tmp_path / "whole", seed=1)
    for stop in (5, 7, 10):

        def callback(progress, stop=stop):
            if progress.step == stop:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(mechanism, tmp_path / "run", seed=1, callback=callback)
    run = train(mechanism, tmp_path / "run", seed=1)
    np.testing.assert_array_equal(run.params, whole.params)
    again = train(mechanism, tmp_path / "run", seed=1)
    np.testing.assert_array_equal(again.params, whole.params)


def stopped(mechanism, directory):
    def callback(progress):
        if progress.step == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(mechanism, directory, callback=callback)


def test_the_noise_is_kept_for_its_owner_alone_and_not_for_long(tmp_path):
    stopped(make(), tmp_path / "run")
    secret = tmp_path / "run" / "secret.noise"
    assert secret.stat().st_mode & 0o077 == 0
    published = [p.name for p in (tmp_path / "run" / "checkpoints").rglob("*")]
    assert not any("levels" in name for name in published)
    train(make(), tmp_path / "run")
    assert not secret.exists()
    assert not (tmp_path / "run" / "secret.key").exists()


def test_a_run_does_not_go_on_with_other_noise(tmp_path):
    stopped(make(), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "secret.noise")
    with pytest.raises(ResumeError, match="cannot be restored"):
        train(make(), tmp_path / "run")
    stopped(make(), tmp_path / "other")
    shutil.copytree(
        tmp_path / "other" / "secret.noise", tmp_path / "run" / "secret.noise", dirs_exist_ok=True
    )
    with pytest.raises(ResumeError, match="not those that the ledger knows"):
        train(make(), tmp_path / "run")
