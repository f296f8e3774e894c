"""The example of correlated noise, on a slice."""

import dataclasses

import numpy as np
import pytest

import hushgrad as hg


def images(count):
    rng = np.random.default_rng(0)
    return rng.random((count, 28, 28), np.float32), rng.integers(0, 10, count).astype(np.int32)


@pytest.mark.slow
def test_every_mechanism_of_every_task_is_trained_and_told(example, monkeypatch, tmp_path):
    correlated = example("correlated")
    monkeypatch.setattr(correlated, "EPSILONS", (8.0,))
    monkeypatch.setattr(correlated, "HELD_OUT", 40)
    data = hg.datasets.Dataset("made up", images(160), images(40), 10)
    users = np.arange(160) % 20
    monkeypatch.setattr(hg.datasets, "load_mnist_writers", lambda folder: (users, None))
    small = {
        "mnist": {"examples": 120, "batch_size": 60, "epochs": 1},
        "writers": {"examples": 20, "batch_size": 10, "steps": 2},
        "stream": {"examples": 120, "batch_size": 60, "epochs": 1},
    }
    found = {}
    for key, plan in small.items():
        settings = {**correlated.TASKS[key].plan, **plan, "delta": 1e-3}
        task = dataclasses.replace(correlated.TASKS[key], plan=settings, rates=(0.1,))
        monkeypatch.setitem(correlated.TASKS, key, task)
        scores = (
            correlated.writers_score(data, tmp_path)
            if key == "writers"
            else correlated.mnist_score(data)
        )
        name = next(iter(task.mechanisms))  # what differs is in other tests
        one = correlated.cell(task, name, 8.0, scores, 1)
        assert one["epsilon"] <= 8.0
        assert 0 <= one["accuracy"][0] <= 1
        found[key] = {f"{name} 8": one for name in task.mechanisms}
    text = correlated.report(found, "command", 1)
    assert text.count("| BLT") == 3
    assert "## MNIST as a stream" in text
