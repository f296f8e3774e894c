"""A run goes on where it stopped, or says why it may not."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import OPTIMIZER, Stop, loss, mechanism

import hushgrad as hg
from hushgrad.errors import InputError, ResumeError

KILLABLE = Path(__file__).with_name("killable.py")


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def charges(directory: Path) -> int:
    with sqlite3.connect(directory / "ledger.sqlite") as ledger:
        return ledger.execute("select count(*) from entries where kind = 'charge'").fetchone()[0]


def killable(directory: Path, *how: str) -> int:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(KILLABLE), str(directory), *how]
    return subprocess.run(command, env=env, check=False, timeout=300).returncode


def result(directory: Path) -> tuple[bytes, dict]:
    with np.load(directory / "result.npz") as saved:
        params = b"".join(saved[name].tobytes() for name in sorted(saved.files))
    return params, json.loads((directory / "result.json").read_text())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[bytes, dict]:
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    assert killable(directory) == 0
    return result(directory)


@pytest.mark.parametrize(
    "where", ["charged", *(pytest.param(w, marks=pytest.mark.slow) for w in ("released", "saving"))]
)
def test_a_run_killed_at_random_steps_ends_as_if_it_had_not_been(unbroken, tmp_path, where):
    """SIGKILL between charge and release, after a release, and around a checkpoint."""
    directory = tmp_path / "run"
    step = random.SystemRandom().randrange(1, 20)
    assert killable(directory, where, str(step)) == -signal.SIGKILL, step
    assert charges(directory) >= step - (where == "saving") * 3, step
    assert killable(directory) == 0, step
    assert result(directory) == unbroken, step
    assert charges(directory) == 20


@pytest.mark.slow
def test_ten_kills_in_a_row(unbroken, tmp_path):
    directory = tmp_path / "run"
    rng = random.SystemRandom()
    for _ in range(10):
        where = rng.choice(["charged", "released", "saving"])
        assert killable(directory, where, str(rng.randrange(1, 20))) in (0, -signal.SIGKILL)
    assert killable(directory) == 0
    assert result(directory) == unbroken


def test_an_interrupted_run_repeats_its_steps_exactly_without_a_seed(train, tmp_path):
    """The secret on disk makes the rest; a copy of the directory ends the same."""
    with pytest.raises(Stop):
        train(stop_after=7)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    first = train()
    second = train(directory=tmp_path / "copy")
    np.testing.assert_array_equal(flat(first.params), flat(second.params))
    assert first.epsilon == second.epsilon == mechanism().epsilon()


def test_the_optimizers_state_goes_on_too(train, tmp_path):
    whole = train(seed=4)
    with pytest.raises(Stop):
        train(seed=4, stop_after=6, directory=tmp_path / "part")
    np.testing.assert_array_equal(
        flat(whole.params), flat(train(seed=4, directory=tmp_path / "part").params)
    )


def test_a_finished_run_is_returned_and_nothing_is_spent(train, tmp_path):
    first, called = train(), []
    second = train(callback=called.append)
    assert not called
    np.testing.assert_array_equal(flat(first.params), flat(second.params))
    assert charges(tmp_path / "run") == 12
    assert second.epsilon == first.epsilon


def other_loss(params, x, y):
    return abs(x @ params["w"] + params["b"] - y)


def refused(train, message: str, **changes) -> None:
    with pytest.raises(Stop):
        train(stop_after=6)
    with pytest.raises(ResumeError, match=message):
        train(**changes)
    # The run itself is unharmed.
    assert train().steps == 12


def test_another_mechanism(train):
    refused(train, r"another mechanism \(steps: 12 there, 13 here\)", mechanism=mechanism(steps=13))


def test_another_noise(train):
    refused(train, "another mechanism", mechanism=mechanism(noise_multiplier=0.9))


def test_another_loss(train):
    refused(train, "another loss, optimizer", loss=other_loss)


def test_another_learning_rate(train):
    refused(train, "another loss, optimizer", optimizer=optax.sgd(0.2, momentum=0.9))


def test_another_seed(train):
    refused(train, "without a seed", seed=1)


def test_one_changed_record(train, data):
    x, y = data
    changed = x.copy()
    changed[31, 2] += 1e-3
    refused(train, "other data", data=(changed, y))


def test_an_array_that_the_loss_closes_over(train):
    """Frozen weights, or data: traced programs show their shapes alone."""

    def weighted(weight):
        held = np.full(4, weight, np.float32)
        return lambda p, x, y: ((x * held) @ p["w"] + p["b"] - y) ** 2

    with pytest.raises(Stop):
        train(stop_after=6, loss=weighted(1.0))
    with pytest.raises(ResumeError, match="other arrays that the loss or the optimizer hold"):
        train(loss=weighted(2.0))
    assert train(loss=weighted(1.0)).steps == 12


def test_an_array_that_the_optimizer_holds(train):
    with pytest.raises(Stop):
        train(stop_after=6, optimizer=optax.sgd(jnp.float32(0.1)))
    with pytest.raises(ResumeError):
        train(optimizer=optax.sgd(jnp.float32(0.2)))


def test_other_starting_parameters(train, params):
    refused(train, "other starting parameters", params={**params, "b": jnp.ones(())})


def test_an_optimizer_whose_state_grows_wider_goes_on_exactly(train, tmp_path, params):
    """Adam's moments of bfloat16 parameters begin as bfloat16 and go on as float32."""
    narrow = {k: v.astype(jnp.bfloat16) for k, v in params.items()}
    settings = {"params": narrow, "optimizer": optax.adam(0.1), "seed": 4}
    whole = train(**settings)
    with pytest.raises(Stop):
        train(**settings, stop_after=6, directory=tmp_path / "part")
    part = train(**settings, directory=tmp_path / "part")
    np.testing.assert_array_equal(flat(whole.params), flat(part.params))


def test_another_block_size(train):
    refused(train, "block_size=", block_size=3)


def test_a_changed_seed(train):
    with pytest.raises(Stop):
        train(stop_after=6, seed=1)
    with pytest.raises(ResumeError, match="another seed"):
        train(seed=2)


def test_the_block_size_is_taken_from_the_run_where_none_is_given(train):
    with pytest.raises(Stop):
        train(stop_after=6, block_size=3)
    assert train().steps == 12


def test_a_lost_secret(train, tmp_path):
    with pytest.raises(Stop):
        train(stop_after=6)
    (tmp_path / "run" / "secret.key").unlink()
    with pytest.raises(ResumeError, match=r"lost its secret\.key"):
        train()


def test_lost_checkpoints(train, tmp_path):
    with pytest.raises(Stop):
        train(stop_after=6)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ResumeError, match="checkpoints of this run are gone"):
        train()


def test_a_lost_ledger(train, tmp_path):
    with pytest.raises(Stop):
        train(stop_after=6)
    for file in (tmp_path / "run").glob("ledger.sqlite*"):
        file.unlink()
    with pytest.raises(ResumeError, match="not this run's ledger"):
        train()


def test_a_lost_description(train, tmp_path):
    with pytest.raises(Stop):
        train(stop_after=6)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ResumeError, match=r"ledger but no run\.json"):
        train()


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 9}', "[]"])
def test_a_damaged_description(train, tmp_path, content):
    with pytest.raises(Stop):
        train(stop_after=6)
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(ResumeError, match="cannot be read"):
        train()


def test_two_processes_in_one_directory(train, tmp_path):
    (tmp_path / "run").mkdir()
    with (
        filelock.FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(ResumeError, match="another process is training"),
    ):
        train()


def test_a_directory_that_cannot_be_written_to(train, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"directory .* cannot be written to"):
        train(directory=tmp_path / "file" / "run")


def test_other_shapes_of_parameters(train, tmp_path, data):
    with pytest.raises(Stop):
        train(stop_after=6)
    with pytest.raises(ResumeError, match="shape of parameters"):
        hg.train(
            lambda p, x, y: loss(p, x, y) + 0 * p["extra"],
            {"w": np.ones(4, np.float32), "b": np.float32(0), "extra": np.float32(0)},
            data,
            mechanism(),
            optimizer=OPTIMIZER,
            directory=tmp_path / "run",
        )
