"""The example of audits, on a slice."""

import gzip
import lzma
import struct

import numpy as np
import pytest

import hushgrad as hg


def idx(array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.slow
def test_models_are_trained_attacked_and_told(example, monkeypatch, tmp_path):
    audit = example("audit")
    rng = np.random.default_rng(0)

    def part(count):
        images = rng.random((count, 28, 28), np.float32)
        return images, rng.integers(0, 10, count).astype(np.int32)

    data = hg.datasets.Dataset("made up", part(700), part(100), 10)
    monkeypatch.setattr(audit, "ATTACKED", 100)
    monkeypatch.setattr(audit, "CANARIES", 100)
    monkeypatch.setattr(audit, "ATTACKS", ("threshold", "logistic"))
    monkeypatch.setattr(
        audit,
        "mechanism",
        lambda epsilon, n: hg.dp_sgd(
            examples=n, batch_size=100, steps=2, delta=1e-5, noise_multiplier=1.0
        ),
    )
    gradient, labelled = (audit.mnist(data, 1.0, kind) for kind in ("gradient", "mislabelled"))
    for name, size in (("train", 60_000), ("t10k", 2_000)):
        images = np.zeros((size, 28, 28), np.uint8)
        images[:, :2] = rng.integers(0, 256, (size, 2, 28))
        packed = lzma.compress(idx(images), preset=0)
        (tmp_path / f"{name}-images-idx3-ubyte.xz").write_bytes(packed)
        labels = gzip.compress(idx(np.arange(size) % 10))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(labels)
    monkeypatch.setattr(audit, "POOL", 200)
    monkeypatch.setattr(audit, "SHADOWS", 6)
    monkeypatch.setattr(
        hg,
        "dp_sgd",
        lambda plain=hg.dp_sgd, **given: plain(**given | {"batch_size": 50, "epochs": 1}),
    )
    shadows = [audit.fashion(tmp_path, private) for private in (False, True)]
    found = {"fashion none": shadows[0], "fashion epsilon 8": shadows[1]}
    for epsilon in audit.EPSILONS:
        found[f"gradient {audit._name(epsilon)}"] = gradient
        found[f"mislabelled {audit._name(epsilon)}"] = labelled
    text = audit.report(found, "command")
    assert text.count("| epsilon 8 |") == 1 + 2 + 5
    assert text.count("RMIA") == 4
