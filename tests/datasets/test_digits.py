"""The bundled digits: complete, scaled, and split the same way every time."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from hushgrad.datasets import load_digits
from hushgrad.errors import InputError


def test_shapes_types_and_range():
    data = load_digits()
    assert (data.name, data.classes) == ("digits", 10)
    assert data.train[0].shape == (1437, 8, 8)
    assert data.test[0].shape == (360, 8, 8)
    for images, labels in (data.train, data.test):
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert labels.shape == images.shape[:1]
        assert (images.min(), images.max()) == (0.0, 1.0)
        assert set(labels) == set(range(10))


def test_the_parts_are_the_whole():
    data = load_digits()
    whole = datasets.load_digits()
    expected = np.column_stack([whole.data / 16, whole.target])
    found = np.concatenate(
        [np.column_stack([x.reshape(len(x), -1), y]) for x, y in (data.train, data.test)]
    )
    np.testing.assert_array_equal(
        expected[np.lexsort(expected.T)], found[np.lexsort(found.T)].astype(np.float64)
    )


def test_the_split_is_fixed_and_ignores_the_global_seed():
    np.random.seed(1)
    first = load_digits()
    np.random.seed(2)
    second = load_digits()
    for a, b in zip(first.train + first.test, second.train + second.test, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.test[1][:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_the_split_is_stratified(fraction):
    data = load_digits(fraction)
    train, test = (np.bincount(labels, minlength=10) for _, labels in (data.train, data.test))
    assert train.min() >= 1
    assert np.abs(test - fraction * (train + test)).max() <= 1.0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 2, float("nan")])
def test_a_share_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match="test_fraction="):
        load_digits(fraction)


def test_scikit_learn_is_imported_lazily():
    code = "import sys, hushgrad.datasets.digits; sys.exit('sklearn.datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
