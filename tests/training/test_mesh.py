"""Several devices: the same run, the same epsilon, and no noise that serves twice."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import language
import numpy as np
import optax
import pytest

import hushgrad as hg
from hushgrad.errors import InputError

SCRIPT = Path(__file__).with_name("meshes.py")


QUICK = ["alone poisson", "tensor poisson", "alone tree", "fsdp alone tree"]
QUICK += ["alone blt", "fsdp blt"]
MORE = [
    *("two poisson", "data poisson", "fsdp poisson", "alone adaptive", "fsdp adaptive"),
    *(
        "fsdp tree",
        "fsdp alone poisson",
        "alone tensor poisson",
        "alone tensor tree",
        "fsdp fsdp tree",
        "alone banded",
        "fsdp banded",
        "fsdp alone banded",
    ),
]


@functools.cache
def made(folder, runs):
    """All runs, in one process that has eight devices."""
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(folder), *runs]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def result(name):
        if name in [*QUICK, "noise", "sums"]:
            return made(folder / "quick", tuple(QUICK))[name]
        return made(folder / "more", tuple(MORE))[name]

    return result


def each(*names):
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


TRAINED = ["two poisson", "data poisson", "fsdp poisson", "tensor poisson", "fsdp adaptive"]
MOVED = ["fsdp alone tree", "fsdp alone poisson", "alone tensor poisson", "fsdp fsdp tree"]
# Of bias, embedding and kernel: how much one device has. Biases are too small to be shared out.
SHARES = {"data": [1.0] * 3, "two": [1.0] * 3, "fsdp": [1.0, 1 / 8, 1 / 8], "tensor": [1 / 4] * 3}


@pytest.mark.parametrize("name", each(*TRAINED, "fsdp tree", "fsdp blt", "fsdp banded"))
def test_every_layout_trains_the_same(results, name):
    layout, mechanism = name.split()
    one, other = results(f"alone {mechanism}"), results(name)
    assert one["epsilon"] == other["epsilon"]
    np.testing.assert_allclose(other["values"], one["values"], rtol=1e-5, atol=1e-5)
    # Parameters, and then their average, stay where they were put.
    assert other["share"] == SHARES[layout] * 2


@pytest.mark.parametrize("name", each(*MOVED, "alone tensor tree", "fsdp alone banded"))
def test_a_run_that_goes_on_elsewhere_repeats_no_step(results, name):
    run, mechanism = results(name), name.split()[2]
    assert run["before"] == [0, 1, 2, 3, 4, 5]
    # The state of noise that cancels is made again for steps that are lost; no sum is released.
    lost = [4, 5] if mechanism in ("tree", "banded") else []
    assert run["after"] == [*lost, 6, 7, 8]
    assert run["epsilon"] == results(f"alone {mechanism}")["epsilon"]
    assert run["steps"] == 9


def test_each_device_draws_its_part_of_the_noise(results):
    # Of a matrix on eight devices; a little more where rows do not fill blocks.
    assert results("noise")["share"] < 1.05 / 8


def test_examples_stay_on_their_devices(results):
    """Sums alone go round, nothing that an example was seen as, in the rare branches neither."""
    assert results("sums") == ["all-reduce"]


def test_the_same_run_is_found_on_any_number_of_devices(results, tmp_path, tmp_path_factory):
    """Which this process, with one device, would be refused if devices told in its program."""
    results("tensor poisson")
    found = tmp_path_factory.getbasetemp().glob("runs*/quick/tensor poisson/run.json")
    there = json.loads(next(found).read_text())["identity"]
    m = language.MECHANISMS["poisson"]
    hg.train(
        language.loss,
        language.start,
        language.data,
        m,
        optimizer=optax.adam(0.05),
        directory=tmp_path,
        seed=1,
        callback=lambda progress: stop(),
        options=hg.Options(average=0.9, block_size=51),  # 52 on two devices
    )
    assert json.loads((tmp_path / "run.json").read_text())["identity"] == there


def stop():
    raise hg.StopTraining


def loss(params, x):
    return params @ x


def train(mesh, directory):
    m = hg.dp_sgd(examples=8, batch_size=4, steps=1, delta=1e-2, noise_multiplier=1.0)
    data = (np.ones((8, 3), np.float32),)
    return hg.train(
        loss,
        np.ones(3),
        data,
        m,
        optimizer=hg.optimizers.dp_adam(0.1, m),
        directory=directory,
        mesh=mesh,
    )


def test_a_mesh_without_an_axis_for_data_is_refused(tmp_path):
    mesh = jax.make_mesh((1, 1), ("model", "rows"))
    with pytest.raises(InputError, match="mesh must have an axis named 'data' or 'batch'"):
        train(mesh, tmp_path / "run")
    with pytest.raises(InputError, match=r"mesh must be a jax\.sharding\.Mesh"):
        train((8,), tmp_path / "run")
    with pytest.raises(InputError, match="axis must be one of"):
        hg.fsdp({}, mesh)


def test_one_device_may_be_a_mesh(tmp_path):
    assert train(jax.make_mesh((1,), ("data",)), tmp_path / "run").steps == 1
