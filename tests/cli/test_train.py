"""`hushgrad train` as a user runs it: in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hushgrad.cli import main

QUICK = ["--epochs", "2", "--noise-multiplier", "1"]


def hushgrad(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hushgrad", *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("trained")
    done = hushgrad("train", "digits", *QUICK, "--directory", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_it_shows_loss_epsilon_accuracy_statement_and_where(trained):
    _, done = trained
    for words in (
        "loss",
        "epsilon",
        "carries no noise",
        "Test accuracy",
        "Protected: whether any one example was in the training data",
        "PLD accounting",
        "Written to run",
    ):
        assert words in done.stdout
    assert done.stderr == ""


def test_no_line_is_longer_than_the_terminal(trained):
    _, done = trained
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_it_leaves_results_that_need_no_hushgrad_to_read(trained):
    folder, done = trained
    result = json.loads((folder / "run" / "result.json").read_text())
    assert 0 <= result["test_accuracy"] <= 1
    assert result["steps"] == result["mechanism"]["steps"]
    assert f"{result['epsilon']:.4f}" in (folder / "run" / "statement.txt").read_text()
    assert f"{result['test_accuracy']:.2%}" in done.stdout
    with np.load(folder / "run" / "params.npz") as params:
        assert params["dense1"].shape == (64, 32)


def test_the_same_command_again_spends_nothing(trained):
    folder, first = trained
    again = hushgrad("train", "digits", *QUICK, "--directory", "run", cwd=folder)
    assert again.returncode == 0
    assert "nothing spent" in again.stdout
    line = next(line for line in first.stdout.splitlines() if "Test accuracy" in line)
    assert line in again.stdout


def test_other_settings_in_the_same_directory_are_refused(trained):
    folder, _ = trained
    done = hushgrad("train", "digits", *QUICK, "--clip", "2", "--directory", "run", cwd=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: the run in 'run' cannot go on: ")
    assert "another mechanism" in done.stderr


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_the_same(tmp_path):
    """`kill -9` at some moment of training; then the same command again."""
    command = ["train", "digits", "--noise-multiplier", "1", "--epochs", "8", "--seed", "3"]
    whole = hushgrad(*command, "--directory", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "hushgrad", *command, "--directory", "killed"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        ledger = tmp_path / "killed" / "checkpoints" / "6"
        while not ledger.exists() and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = hushgrad(*command, "--directory", "killed", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    with (
        np.load(tmp_path / "whole" / "params.npz") as a,
        np.load(tmp_path / "killed" / "params.npz") as b,
    ):
        assert all(a[name].tobytes() == b[name].tobytes() for name in a.files)
    results = [(tmp_path / n / "result.json").read_text() for n in ("whole", "killed")]
    assert results[0] == results[1]
    assert "SEEDED" in again.stdout


def test_an_interrupted_command_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hushgrad",
            "train",
            "digits",
            "--epochs",
            "500",
            "--directory",
            "r",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "r" / "checkpoints" / "6").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    told = r"interrupted after step \d+ of 2,807, which is saved; spent: epsilon = 0\.\d+ at delta"
    assert re.match(told, message)
    assert message.endswith("The same call goes on\n")


MISTAKES = [
    (["--epsilon", "1", "--noise-multiplier", "1"], "give one of epsilon and --noise-multiplier"),
    (["--delta", "0"], "--delta must lie strictly between 0 and 1, got 0.0"),
    (["--delta", "1.5"], "--delta must lie strictly between 0 and 1, got 1.5"),
    (["--batch-size", "5000"], "--batch-size must be at most the number of examples"),
    (["--clip", "0"], "--clip must be a positive finite number, got 0.0"),
    (["--clip", "nan"], "--clip must be a positive finite number, got nan"),
    (["--noise-multiplier", "-1"], "--noise-multiplier must be a positive finite number, got -1.0"),
    (["--epsilon", "0"], "--epsilon must be a positive finite number, got 0.0"),
    (["--epochs", "0"], "--epochs must be a positive finite number"),
    (["--learning-rate", "0"], "--learning-rate must be a positive finite number"),
    (["--seed", "-4"], "--seed must be a whole number of at least 0, got -4"),
    (["--batch-size", "x"], "Invalid value for '--batch-size'"),
    (["--directory", "/dev/null/run"], "cannot be written to"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=lambda v: " ".join(v)[:30])
def test_a_mistake_is_a_message_and_status_2(tmp_path, monkeypatch, capsys, args, message):
    quick = [] if "--epsilon" in args or "--noise-multiplier" in args else QUICK[2:]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hushgrad", "train", "digits", *quick, *args])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("ledger*"))


def test_a_large_delta_is_warned_of(tmp_path):
    args = ["--epochs", "0.2", "--noise-multiplier", "1", "--delta", "0.01"]
    done = hushgrad("train", "digits", *args, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: delta=0.01 is above 1/examples")


def test_mnist_without_its_files_says_which_and_where(tmp_path):
    done = hushgrad("train", "mnist", "--data-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "train-images-idx3-ubyte.gz" in done.stderr
    assert "Traceback" not in done.stderr


def test_mnist_with_a_corrupt_file(tmp_path):
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"not gzip at all")
    done = hushgrad("train", "mnist", "--data-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "train-images-idx3-ubyte.gz" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_mnist_on_the_real_files(real_data, tmp_path):
    args = ["--data-dir", real_data / "mnist", "--noise-multiplier", "1.3", "--epochs", "0.02"]
    done = hushgrad("train", "mnist", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "60,000 examples, 5 steps" in done.stdout
    assert "10,000 held-out images" in done.stdout


def test_help_and_version(tmp_path):
    assert hushgrad("--version", cwd=tmp_path).stdout.startswith("hushgrad 0.")
    help_text = hushgrad("train", "mnist", "--help", cwd=tmp_path).stdout
    for option in (
        *("--epsilon", "--noise-multiplier", "--delta", "--clip", "--batch-size", "--epochs"),
        *("--learning-rate", "--seed", "--directory", "--data-dir"),
    ):
        assert option in help_text
