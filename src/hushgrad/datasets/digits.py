"""Digits: scikit-learn's 1,797 handwritten digits, 8x8, bundled with that library.

Small enough to train in seconds and needing no download: the data of the first example.
"""

import numpy as np

from hushgrad.datasets.dataset import Dataset
from hushgrad.errors import InputError

__all__ = ["load_digits"]

_CLASSES = 10
_SPLIT_SEED = 0  # public: which image is in which part is no secret
_SMALLEST_FRACTION = 0.01  # below, a class could be missing from a part


def load_digits(test_fraction: float = 0.2) -> Dataset:
    """Load the bundled digits, split the same way every time.

    ```python
    digits = load_digits()
    images, labels = digits.train  # float32[1437, 8, 8] in [0, 1], int32[1437]
    ```

    Args:
        test_fraction: the share of the images that goes to the test part, from 0.01 to
            0.99. The split is stratified by class, fixed and public.

    Returns:
        1,797 images of shape [8, 8] in all, with labels 0 to 9.

    Raises:
        InputError: `test_fraction` is out of its range.
    """
    if not _SMALLEST_FRACTION <= test_fraction <= 1 - _SMALLEST_FRACTION:
        raise InputError(
            f"test_fraction={test_fraction!r}: give a share from {_SMALLEST_FRACTION} to "
            f"{1 - _SMALLEST_FRACTION}, such as 0.2"
        )
    from sklearn import datasets, model_selection  # lazily: it takes a second to import

    pixels, digits = datasets.load_digits(return_X_y=True)
    images = np.asarray(pixels, np.float32).reshape(-1, 8, 8) / np.float32(16)
    labels = np.asarray(digits, np.int32)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=test_fraction, stratify=labels, random_state=_SPLIT_SEED
    )
    return Dataset(
        name="digits",
        train=(images[train], labels[train]),
        test=(images[test], labels[test]),
        classes=_CLASSES,
    )
