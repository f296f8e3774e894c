"""One of several processes that train together: writes what came out of each scene as JSON.

Called as `python processes.py PORT COUNT INDEX FOLDER SCENE...`; they have four devices in all.
"""

import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
from language import MECHANISMS, PLAIN, data, loss, start, tensor, told

import hushgrad as hg
from hushgrad.errors import HushgradError, ProcessError
from hushgrad.training.job import Job
from hushgrad.training.ledger import Ledger

port, count, index, folder = *map(int, sys.argv[1:4]), Path(sys.argv[4])
if count > 1:
    jax.distributed.initialize(
        f"127.0.0.1:{port}", count, index, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=10
    )

flat = jax.make_mesh((4,), ("data",))
square = jax.make_mesh((2, 2), ("batch", "model"))
LAYOUTS = {
    "data": (flat, start),
    "fsdp": (flat, hg.fsdp(start, flat)),
    "tensor": (square, tensor(square)),
}
m = MECHANISMS["poisson"]


class Recorded:
    """Examples that note who of them was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return len(data[0])

    def __getitem__(self, number):
        self.read.append(int(number))
        return data[0][number], data[1][number]


def train(directory, *, layout="data", mechanism=m, data=data, **more):
    mesh, params = LAYOUTS[layout]
    settings = {
        "optimizer": optax.adam(0.05),
        "seed": 1,
        "mesh": mesh,
        "options": hg.Options(average=0.9, checkpoint_every=4),
    } | more
    return hg.train(loss, params, data, mechanism, directory=folder / directory, **settings)


def trained(scene, layout, mechanism):
    return told(
        train(f"{scene} {layout} {mechanism}", layout=layout, mechanism=MECHANISMS[mechanism])
    )


def charged(scene):
    """How many steps are in the ledger, on disk, when each process begins a release; no seed."""
    found, opened = [], []
    release, opening, charge = Job.released, Ledger.__init__, Ledger.charge

    def releasing(self, state, sums, secret, step):
        with sqlite3.connect(f"file:{folder}/{scene}/ledger.sqlite?mode=ro", uri=True) as file:
            rows = file.execute("select count(*) from entries where kind = 'charge'").fetchone()
        found.append(rows[0] - step)
        return release(self, state, sums, secret, step)

    def slowly(self, *arguments):
        time.sleep(0.05)
        charge(self, *arguments)

    def noted(self, *arguments, **settings):
        opened.append(index)
        opening(self, *arguments, **settings)

    Job.released, Ledger.__init__, Ledger.charge = releasing, noted, slowly
    try:
        run = train(scene, seed=None)
    finally:
        Job.released, Ledger.__init__, Ledger.charge = release, opening, charge
    return told(run) | {"found": found, "opened": opened}


def parts(scene):
    """Each process reads what its devices work on, and no more."""
    recorded = Recorded()
    result = told(train(f"{scene} {count}", data=recorded))
    # The first row also fills up blocks.
    return result | {"read": sorted(number for number in recorded.read if number)}


def stopped(scene):
    """A callback of one process ends the run for all."""

    def callback(progress):
        if progress.step == 3:
            raise hg.StopTraining

    run = train(scene, callback=callback if index == count - 1 else None)
    return {"steps": run.steps}


def failing(scene):
    """A callback of one process fails: all stop, and go on with the same call."""

    def callback(progress):
        if progress.step == 2:
            raise ZeroDivisionError("by hand")

    try:
        train(scene, callback=callback if index == count - 1 else None)
    except (ZeroDivisionError, HushgradError) as error:
        failed = f"{type(error).__name__}: {error}"
    return told(train(scene)) | {"failed": failed}


class Torn(Recorded):
    """Examples that one process can no longer read after a while."""

    torn = index == count - 1

    def __getitem__(self, number):
        if self.torn and len(self.read) > 40:
            raise OSError("by hand")
        return super().__getitem__(number)


def unreadable(scene):
    """A file system of one process fails: all stop, and go on with the same call."""
    torn, released = Torn(), []
    release = Job.released

    def releasing(self, state, sums, secret, step):
        released.append(step)
        return release(self, state, sums, secret, step)

    Job.released = releasing
    try:
        train(scene, data=torn)
    except (OSError, HushgradError) as error:
        failed = f"{type(error).__name__}: {error}"
    finally:
        Job.released = release
    with sqlite3.connect(f"file:{folder}/{scene}/ledger.sqlite?mode=ro", uri=True) as file:
        rows = file.execute("select count(*) from entries where kind = 'charge'").fetchone()
    torn.torn = False
    facts = {"failed": failed, "charged": rows[0], "released": len(released)}
    return told(train(scene, data=torn)) | facts


def interrupted(scene, name):
    """A signal to one process."""

    def callback(progress):
        if progress.step == 3:
            os.kill(os.getpid(), getattr(signal, name))

    directory = f"{scene} {name}"
    try:
        train(directory, callback=callback if index == count - 1 else None)
    except KeyboardInterrupt as error:
        failed = f"{type(error).__name__}: {error}"
    return told(train(directory)) | {"failed": failed}


def killed(scene, layout, mechanism):
    """The last process dies after a step."""

    def callback(progress):
        if progress.step == 6 and index == count - 1:
            jax.block_until_ready(progress.params)
            os._exit(7)

    kind = MECHANISMS[mechanism]
    try:
        train("killed", layout=layout, mechanism=kind, callback=callback, budget=budget(kind))
    except ProcessError as error:
        return {"failed": str(error)}
    raise AssertionError("it went on alone")


def resumed(scene, layout, mechanism):
    """The run that was killed."""
    kind = MECHANISMS[mechanism]
    result = told(train("killed", layout=layout, mechanism=kind, budget=budget(kind)))
    return result | {"held": budget(kind).epsilon_held}


def budget(mechanism=m):
    relation, url = mechanism.neighbouring_relation, f"sqlite:///{folder}/budget.sqlite"
    return hg.Budget(relation, epsilon=30.0, delta=1e-4, neighbouring_relation=relation, url=url)


def refused(scene):
    """Calls that differ from process to process."""
    last = index == count - 1
    ten = hg.dp_sgd(**(PLAIN | {"steps": 10}))
    fewer = {"data": tuple(a[:200] for a in data)} if last else {}
    smaller = hg.dp_sgd(**(PLAIN | {"examples": 200}))
    changed = data[0].copy()
    changed[0, 0] += last
    local = jax.make_mesh((jax.local_device_count(),), ("data",), devices=jax.local_devices())
    calls = {
        "seed": {"seed": 1 + last},
        "mechanism": {"mechanism": ten if last else m},
        "data": fewer,
        "data and mechanism": fewer | ({"mechanism": smaller} if last else {}),
        "content": {"data": (changed, data[1])},
        "no mesh": {"mesh": None},
        "one mesh": {"mesh": None} if last else {},
        "local mesh": {"mesh": local},
        "options": {"options": hg.Options(average=0.8 if last else 0.9)},
        "optimizer": {"optimizer": optax.sgd(0.1) if last else optax.adam(0.1)},
        "budget": {"budget": None if last else budget()},
    }
    result = {}
    for name, changes in calls.items():
        try:
            train(f"{scene} {name}", **changes)
        except HushgradError as error:
            result[name] = f"{type(error).__name__}: {error}"
    try:
        train(f"{scene} {index}")
    except HushgradError as error:
        result["directory"] = f"{type(error).__name__}: {error}"
    result["begun"] = [p.name for p in folder.glob(f"{scene}*/ledger.sqlite")]
    return result


def exported(scene):
    """One file, from parts on all."""
    from safetensors.numpy import load_file

    run = train("fsdp", layout="fsdp")
    file = run.export(folder / "weights.safetensors")
    same = [np.array_equal(np.ravel(a), v) for a, v in _compared(load_file(file), told(run))]
    return {"same": same}


def _compared(arrays, result):
    values, at = np.array(result["values"], np.float32), 0
    for name in sorted(arrays):
        yield arrays[name], values[at : at + arrays[name].size]
        at += arrays[name].size


SCENES = {
    f.__name__: f
    for f in (
        trained,
        charged,
        parts,
        stopped,
        failing,
        unreadable,
        interrupted,
        killed,
        resumed,
        refused,
        exported,
    )
}
results = {}
for scene in sys.argv[5:]:
    name, *arguments = scene.split()
    results[scene] = SCENES[name](name, *arguments)
    # Each is written at once: a process may not come to its end.
    (folder / f"{index} of {count}.json").write_text(json.dumps(results))
if any(scene.startswith("killed") for scene in sys.argv[5:]):
    os._exit(0)  # there is nobody left to say goodbye to
