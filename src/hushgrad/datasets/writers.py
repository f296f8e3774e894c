"""Who wrote each digit of MNIST: the writers that QMNIST found out.

Yadav and Bottou, "Cold Case: The Lost MNIST Digits", 2019 (arXiv 1905.10498).
"""

import os
from pathlib import Path

import numpy as np

from hushgrad.datasets.idx import read_idx
from hushgrad.errors import DataError

__all__ = ["load_mnist_writers"]

_TRAIN = "qmnist-train-labels-idx2-int.gz"
_TEST = "qmnist-test-labels-idx2-int.gz"
_WRITER = 2
_SIZES = {_TRAIN: 60_000, _TEST: 10_000}


def load_mnist_writers(data_dir: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """The number of the writer of each image of MNIST.

    ```python
    writers, _ = load_mnist_writers("data/qmnist")
    users = hg.sampling.Users(writers, mnist.train)   # 539 of them, 19 to 131 images each
    ```

    Args:
        data_dir: the folder with `qmnist-train-labels-idx2-int.gz` and
            `qmnist-test-labels-idx2-int.gz`, of github.com/facebookresearch/qmnist.

    Returns:
        int32[60000] and int32[10000], in the order of MNIST's training and test images;
        nobody wrote images of both.

    Raises:
        DataError: a file is missing, damaged or not QMNIST's.
    """
    train, test = (_writers(Path(data_dir) / name) for name in (_TRAIN, _TEST))
    return train, test


def _writers(file: Path) -> np.ndarray:
    table = read_idx(file)
    # QMNIST's test set has MNIST's as its first part.
    size = _SIZES[file.name]
    if table.ndim != 2 or table.shape[1] <= _WRITER or len(table) < size:
        raise DataError(
            f"{file} must have {size} rows of 8 numbers, got an array of shape {table.shape}; "
            "fetch it again from github.com/facebookresearch/qmnist"
        )
    return table[:size, _WRITER].astype(np.int32)
