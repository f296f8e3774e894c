"""The example of an embedding from scratch, on a slice."""

import lzma

import numpy as np
import pytest


@pytest.fixture
def sst2(example, monkeypatch):
    module = example("sst2")
    monkeypatch.setattr(module, "ROWS", 128)
    monkeypatch.setattr(module, "BATCH", 40)
    monkeypatch.setattr(module, "EPOCHS", 1)
    monkeypatch.setattr(module, "DELTA", 1e-3)
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "EPSILONS", (8.0, None))
    return module


def phrases(count, rows):
    rng = np.random.default_rng(count)
    words = rng.integers(0, rows, (count, 40)).astype(np.int32)
    words[:, 5:] = rows  # five words each
    return words, rng.integers(0, 2, count).astype(np.float32)


def test_all_methods_are_trained_and_told(sst2, monkeypatch):
    data = {name: phrases(80, 128) for name in ("train", "dev", "test")}
    few = {"DP-SGD": ((1.0,),), "DP-AdaFEST": ((1.0, 1.0, 1.0),), "no privacy": ((0.1,),)}
    monkeypatch.setattr(sst2, "METHODS", few)
    found = {}
    for method, epsilon in (("DP-SGD", 8.0), ("DP-AdaFEST", 8.0), ("no privacy", None)):
        one = found[f"{method} {epsilon}"] = sst2.cell(method, epsilon, data, 1)
        assert 0 <= one["accuracy"][0] <= 1
    assert found["DP-SGD 8.0"]["rows"] == 128
    assert 0 < found["DP-AdaFEST 8.0"]["rows"] < 128
    assert found["DP-AdaFEST 8.0"]["pld"] <= 8.0
    assert found["DP-AdaFEST 8.0"]["on gradients"] > found["DP-SGD 8.0"]["on gradients"]
    text = sst2.report(found, "command", 1)
    assert text.count("| DP-") == 2
    assert "| no privacy | none |" in text


def test_words_are_hashed_without_looking_at_data(sst2, tmp_path):
    for name in ("train", "dev", "test"):
        with lzma.open(tmp_path / f"{name}.tsv.xz", "wt") as file:
            file.write("sentence\tlabel\na fine film \t1\nfilm \t0\n")
    words, labels = sst2.load(tmp_path)["train"]
    np.testing.assert_array_equal(labels, [1, 0])
    assert words[0, 2] == words[1, 0] < 128
    assert (words[1, 1:] == 128).all()


def test_the_real_files_are_read(sst2, real_data):
    if not (real_data / "sst2").is_dir():
        pytest.skip(f"no sst2 in {real_data}")
    data = sst2.load(real_data / "sst2")
    assert [len(data[name][1]) for name in ("train", "dev", "test")] == [60_614, 6_735, 872]
