"""Heads on scattering features, on a slice: end to end, and what they cost together."""

import dataclasses
import gzip
import lzma
import pickle

import dp_accounting
import jax.numpy as jnp
import numpy as np
import pytest

import hushgrad as hg
from hushgrad import recipes


@pytest.fixture
def data(tmp_path):
    """Folders as the example reads them, of made-up images whose label shows in a corner."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    for name, shape in (("mnist", (28, 28)), ("fashion_mnist", (28, 28)), ("cifar10", (3, 32, 32))):
        (folder / name).mkdir(parents=True)
        for part, other, count in (("train", "train", 120), ("test", "t10k", 40)):
            labels = rng.integers(0, 10, count).astype(np.uint8)
            images = rng.integers(0, 60, (count, *shape)).astype(np.uint8)
            for image, label in zip(images, labels, strict=True):
                image[..., 2 * label : 2 * label + 3, 8:20] = 250
            if name == "cifar10":
                names = (
                    [f"data_batch_{n}" for n in range(1, 6)] if part == "train" else ["test_batch"]
                )
                for file, x, y in zip(
                    names,
                    np.array_split(images, len(names)),
                    np.array_split(labels, len(names)),
                    strict=True,
                ):
                    plain = {b"data": x.reshape(len(x), -1), b"labels": [int(v) for v in y]}
                    (folder / name / file).write_bytes(pickle.dumps(plain))
                continue
            pack, end = (gzip.compress, "gz") if name == "mnist" else (lzma.compress, "xz")
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                head = bytes([0, 0, 8, array.ndim]) + b"".join(
                    n.to_bytes(4, "big") for n in array.shape
                )
                file = folder / name / f"{other}-{kind}-ubyte.{end}"
                file.write_bytes(pack(head + array.tobytes()))
    return folder


@pytest.fixture
def scattering(example):
    return example("scattering")


def small(task, **given):
    # Of 120 images a covariance would be all noise.
    given = {"covariance": 0.0, **given}
    return dataclasses.replace(task, batch_size=60, steps=40, moments=3.0, epsilon=30.0, **given)


@pytest.mark.parametrize(
    "key", ["mnist", "fashion", "cifar10", pytest.param("cifar10-cnn", marks=pytest.mark.slow)]
)
def test_a_slice_is_trained_at_the_epsilon_that_is_told(scattering, data, tmp_path, key):
    task = small(scattering.TASKS[key])
    cell = scattering.one(task, data, tmp_path, seed=0)
    assert 29.9 < cell["epsilon"] <= 30.0
    assert cell["rdp"] > cell["epsilon"]
    # Ten classes, 40 test images: by chance 10 %, and above 30 % once in 5,000.
    assert cell["accuracy"] > 0.3
    table = scattering.report({key: [cell, cell]}, "command")
    assert f"{100 * cell['accuracy']:.2f} ± 0.00" in table
    assert f"{cell['epsilon']:.3f}" in table
    # Kept for the next time.
    assert (tmp_path / f"{task.data}_train.npy").exists()


def test_normalisation_is_part_of_the_price(scattering):
    task = dataclasses.replace(scattering.TASKS["mnist"], moments=3.0, covariance=4.0)
    plan = scattering.planned(task, 60_000, 81)
    training = plan.training
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(3.0))
    accountant.compose(dp_accounting.GaussianDpEvent(4.0))
    step = dp_accounting.PoissonSampledDpEvent(
        task.batch_size / 60_000, dp_accounting.GaussianDpEvent(training.noise_multiplier)
    )
    accountant.compose(step, task.steps)
    assert accountant.get_epsilon(1e-5) == pytest.approx(task.epsilon, rel=5e-3)
    assert training.epsilon() < 0.99 * task.epsilon
    alone = scattering.planned(dataclasses.replace(task, covariance=0.0), 60_000, 81)
    assert alone.covariance is None
    assert alone.training.noise_multiplier < training.noise_multiplier


def test_features_of_mirrored_images_are_the_same_where_that_is_wanted(scattering, data, tmp_path):
    task = scattering.TASKS["cifar10"]
    raw, _ = scattering.transformed("cifar10", data, tmp_path)
    cube = np.asarray(raw, np.float32).reshape(len(raw), 3, 81, 8, 8)
    seen = recipes.mirrored(cube).reshape(raw.shape)
    np.testing.assert_allclose(
        scattering.compressed(raw, task), scattering.compressed(seen, task), rtol=1e-5, atol=1e-5
    )
    plain = dataclasses.replace(task, mirrored=False)
    assert not np.allclose(scattering.compressed(raw, plain), scattering.compressed(seen, plain))


def test_whitening_is_the_same_in_training_and_in_tests(scattering, data, tmp_path):
    task = small(scattering.TASKS["fashion"], covariance=5.0)
    raw, _ = scattering.transformed("fashion_mnist", data, tmp_path)
    x = scattering.compressed(raw, task)
    turn = scattering.normalisation(x, task, scattering.planned(task, len(x), x.shape[1]))
    assert turn.matrix is not None
    np.testing.assert_allclose(x, scattering.compressed(raw, task, turn), rtol=1e-4, atol=1e-4)


def test_heads_take_the_fast_way(scattering):
    task, x = scattering.TASKS["cifar10-cnn"], jnp.zeros((6, 8, 8))
    params = scattering.start(task, x.shape, 0)
    told = str(hg.explain(scattering.loss, params, x, jnp.int32(1)))
    assert "need no fallback" in told


@pytest.mark.parametrize(("name", "wanted"), [("mnist", "train-images"), ("cifar10", "data_batch")])
def test_images_that_are_not_there_are_named(example, tmp_path, name, wanted):
    (tmp_path / name).mkdir()
    with pytest.raises(SystemExit, match=f"error: no {wanted}.* in .*{name}; name its parent"):
        example("images").load(tmp_path / name, "train")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_images_of_the_real_files(example, real_data, name):
    folder = real_data / name
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    images, labels = example("images").load(folder, "test")
    assert images.shape == ((10_000, 3, 32, 32) if name == "cifar10" else (10_000, 28, 28))
    assert images.dtype == np.uint8
    assert np.bincount(labels).sum() == 10_000
    if name != "mnist":
        assert set(np.bincount(labels)) == {1000}
