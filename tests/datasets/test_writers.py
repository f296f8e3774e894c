"""Who wrote each digit of MNIST."""

import gzip

import numpy as np
import pytest

from hushgrad.datasets import load_mnist, load_mnist_writers
from hushgrad.errors import DataError


def test_the_real_writers(real_data):
    train, test = load_mnist_writers(real_data / "qmnist")
    assert (train.shape, test.shape) == ((60_000,), (10_000,))
    assert (len(np.unique(train)), len(np.unique(test))) == (539, 297)
    assert not set(train) & set(test)
    counts = np.unique(train, return_counts=True)[1]
    assert (counts.min(), counts.max()) == (19, 131)
    # The class is in the file too: it lines up with MNIST's own labels.
    labels = load_mnist(real_data / "mnist").train[1]
    with gzip.open(real_data / "qmnist" / "qmnist-train-labels-idx2-int.gz") as file:
        table = np.frombuffer(file.read(), ">i4", offset=12).reshape(-1, 8)
    np.testing.assert_array_equal(table[:, 0], labels)
    np.testing.assert_array_equal(table[:, 2], train)


def written(folder, name, array):
    header = bytes([0, 0, 0x0C, array.ndim]) + b"".join(
        int(n).to_bytes(4, "big") for n in array.shape
    )
    with gzip.open(folder / name, "wb") as file:
        file.write(header + array.astype(">i4").tobytes())


def test_files_that_will_not_do(tmp_path):
    with pytest.raises(DataError, match="qmnist-train-labels"):
        load_mnist_writers(tmp_path)
    written(tmp_path, "qmnist-train-labels-idx2-int.gz", np.zeros((10, 8)))
    with pytest.raises(DataError, match="must have 60000 rows of 8 numbers"):
        load_mnist_writers(tmp_path)
