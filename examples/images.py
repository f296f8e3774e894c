"""Images of MNIST, Fashion-MNIST and CIFAR-10 as bytes, from the files that they come in.

Not a script: `scattering.py` imports it.
"""

from __future__ import annotations

import pickle
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
        images = hg.datasets.read_idx(_file(folder, f"{name}-images-idx3-ubyte*"))
        labels = hg.datasets.read_idx(_file(folder, f"{name}-labels-idx1-ubyte*"))
        return images, labels.astype(np.int32)
    if (folder / "labels.npz").exists():
        return _strips(folder, part), np.load(folder / "labels.npz")[part].astype(np.int32)
    names = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}[part]
    files = [_file(folder, name) for name in names]
    read = [pickle.loads(file.read_bytes(), encoding="bytes") for file in files]
    images = np.concatenate([one[b"data"] for one in read]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([one[b"labels"] for one in read]).astype(np.int32)


def _file(folder: Path, name: str) -> Path:
    """The file of that name, compressed or not."""
    found = sorted(folder.glob(name))
    if not found:
        raise SystemExit(f"error: no {name} in {folder}; name its parent by --data-dir")
    return found[0]


def _strips(folder: Path, part: str) -> UInt8[np.ndarray, "n 3 32 32"]:
    from PIL import Image

    parts = []
    for file in sorted(folder.glob(f"{part}_*.webp")):
        strip = np.asarray(Image.open(file).convert("RGB"))
        parts.append(strip.reshape(500, 32, 2, 32, 3).transpose(0, 2, 4, 1, 3))
    return np.concatenate(parts).reshape(-1, 3, 32, 32)
