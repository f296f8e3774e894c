"""The form in which every loader hands over its images and labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, already split into a training and a test part.

    Attributes:
        name: what the data is called, such as `"mnist"`.
        train: `(images, labels)`; images are float32 in [0, 1] of shape
            [n, height, width], labels are int32 in 0..classes-1 of shape [n].
        test: the same for the test part.
        classes: how many different labels there are.
    """

    name: str
    train: tuple[Float32[np.ndarray, "train height width"], Int32[np.ndarray, "train"]]
    test: tuple[Float32[np.ndarray, "test height width"], Int32[np.ndarray, "test"]]
    classes: int
