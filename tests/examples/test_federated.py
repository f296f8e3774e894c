"""The federated examples, on a small slice."""

import io
import sys
import tarfile

import numpy as np

import hushgrad as hg


def test_digits_by_writer(example, tmp_path):
    digits = example("federated_digits")
    rng = np.random.default_rng(0)
    images = rng.random((60, 28, 28), np.float32)
    labels = rng.integers(0, 10, 60).astype(np.int32)
    users = hg.sampling.Users(np.arange(60) % 6, (images, labels))
    m = hg.dp_sgd(
        examples=6,
        batch_size=4,
        steps=2,
        clip=hg.clip.Adaptive(count_stddev=1.0),
        delta=1e-2,
        noise_multiplier=1.0,
        unit="user",
    )
    run = digits.trained(users, (images, labels), m, 0, every=1)
    assert [point[0] for point in run["curve"]] == [1, 2]
    assert 0 <= run["accuracy"] <= 1
    searched = hg.federated.CohortPlan(152, 1.52, 8.0)
    runs = {noise: [run, run] for noise in digits.NOISES}
    final = {(120, 1.2): [run], (152, 1.52): [run]}
    text = digits.report("command", 2, runs, final, (8.0, searched), 539)
    # The tutorial's own search and its epsilon, by both accountants.
    assert "120 by RDP (noise 1.2, epsilon 1.986)" in text
    assert "| 3,383 | 1e-05 | 120 | 1.2 | 1.71 | 1.99 |" in text
    digits.plot(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_shakespeare_by_role(example, tmp_path, monkeypatch, capsys):
    shakespeare = example("federated_shakespeare")
    speech = "\tand so on, with words enough for a window or two of them all.\n" * 4
    play = "a preface\nACT I\n" + "".join(
        f"ROLE {c}\tFirst line of {c}.\n\t[Exit]\n{speech}\n" for c in "ABCDEF"
    )
    folder = tmp_path / "shakespeare_plays"
    folder.mkdir()
    with tarfile.open(folder / "plays.tar.xz", "w:xz") as archive:
        for name in ("othello", "hamlet"):
            info = tarfile.TarInfo(f"plays/{name}.txt")
            info.size = len(play)
            archive.addfile(info, io.BytesIO(play.encode()))
    found = shakespeare.plays(folder / "plays.tar.xz")
    assert sorted(found) == ["hamlet", "othello"]
    assert sorted(found["hamlet"]) == [f"ROLE {c}" for c in "ABCDEF"]
    assert "Exit" not in found["hamlet"]["ROLE A"]
    arguments = ["--data-dir", tmp_path, "--rounds", 1, "--clients", 3, "--output", tmp_path]
    arguments += ["--epsilons", 50.0]
    monkeypatch.setattr(sys, "argv", ["example", *map(str, arguments)])
    monkeypatch.setattr(shakespeare, "HIDDEN", 8)
    shakespeare.main()
    assert "6 roles with" in capsys.readouterr().out
    table = (tmp_path / "federated_shakespeare.md").read_text()
    assert "| none | 0 |" in table
    assert "| 50 |" in table
