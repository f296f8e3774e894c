"""Images of MNIST, Fashion-MNIST and CIFAR-10 as bytes, from the files that they come in.

Not a script: `scattering.py` imports it.
"""

from __future__ import annotations

import lzma
import pickle
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

import hushgrad as hg

Images = tuple[UInt8[np.ndarray, "n *colours h w"], Int[np.ndarray, " n"]]


def load(folder: Path, part: str) -> Images:
    """Images and labels of one part, "train" or "test".

    Args:
      folder: named mnist or fashion_mnist, with idx files (.gz or .xz); or cifar10, with the
        batches of the data set's Python version, or with WebP strips of 1,000 images in 500 rows
        of two and labels.npz.
      part: of the data set.
    """
    if folder.name != "cifar10":
        name = {"train": "train", "test": "t10k"}[part]
        images = _idx(next(folder.glob(f"{name}-images-idx3-ubyte*")))
        return images, _idx(next(folder.glob(f"{name}-labels-idx1-ubyte*"))).astype(np.int32)
    if (folder / "labels.npz").exists():
        return _strips(folder, part), np.load(folder / "labels.npz")[part].astype(np.int32)
    names = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}[part]
    read = [pickle.loads((folder / name).read_bytes(), encoding="bytes") for name in names]
    images = np.concatenate([one[b"data"] for one in read]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([one[b"labels"] for one in read]).astype(np.int32)


def _idx(file: Path) -> np.ndarray:
    if file.suffix != ".xz":
        return hg.datasets.read_idx(file)
    with tempfile.NamedTemporaryFile() as plain:
        plain.write(lzma.decompress(file.read_bytes()))
        plain.flush()
        return hg.datasets.read_idx(plain.name)


def _strips(folder: Path, part: str) -> UInt8[np.ndarray, "n 3 32 32"]:
    from PIL import Image

    parts = []
    for file in sorted(folder.glob(f"{part}_*.webp")):
        strip = np.asarray(Image.open(file).convert("RGB"))
        parts.append(strip.reshape(500, 32, 2, 32, 3).transpose(0, 2, 4, 1, 3))
    return np.concatenate(parts).reshape(-1, 3, 32, 32)
