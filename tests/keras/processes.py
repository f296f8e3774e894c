"""One of several processes that fit a Keras model together; writes what came out as JSON.

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
import keras
import numpy as np
from jax.experimental import multihost_utils

import hushgrad as hg
from hushgrad.errors import HushgradError, ProcessError
from hushgrad.keras.step import Step
from hushgrad.training.ledger import Ledger

port, count, index, folder = *map(int, sys.argv[1:4]), Path(sys.argv[4])
if count > 1:
    jax.distributed.initialize(
        f"127.0.0.1:{port}", count, index, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=10
    )
last = index == count - 1
rng = np.random.default_rng(0)
x = rng.normal(size=(203, 6)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)
FIT = {"batch_size": 42, "epochs": 2, "verbose": 0}


def distributed(kind):
    """Sets one of Keras's distributions, of all devices."""
    chosen = None
    if kind == "data":
        chosen = keras.distribution.DataParallel(auto_shard_dataset=False)
    elif kind == "sharded":
        chosen = keras.distribution.DataParallel()
    elif kind == "local":
        mine = [f"cpu:{d.id}" for d in jax.local_devices()]
        chosen = keras.distribution.DataParallel(devices=mine)
    elif kind == "model":
        mesh = keras.distribution.DeviceMesh((2, 2), ["examples", "model"])
        layout = keras.distribution.LayoutMap(mesh)
        layout[".*dense.*kernel"] = (None, "model")
        chosen = keras.distribution.ModelParallel(
            layout_map=layout, batch_dim_name="examples", auto_shard_dataset=False
        )
    keras.distribution.set_distribution(chosen)


def made(scene, kind="data", *, weights=0, optimizer=None, **options):
    distributed(kind)
    keras.utils.set_random_seed(weights)
    stack = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((6,)), *stack])
    settings = {"noise_multiplier": 1.0, "delta": 1e-3, "seed": 1, "block_size": 18} | options
    settings = {"clip": 1.0, "ledger": folder / f"{scene}.sqlite"} | settings
    private = hg.keras.privatize(model, **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    private.compile(optimizer or keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    return private


def told(private):
    """What came out, as plain data; parts of weights that are elsewhere are fetched."""
    values = [hg.training.team.whole(w.value) for w in private.trainable_variables]
    kernel = private.trainable_variables[0].value
    return {
        "values": np.concatenate([v.ravel() for v in values]).tolist(),
        "epsilon": private.epsilon(),
        "steps": private.account.steps,
        "share": kernel.addressable_shards[0].data.size / kernel.size,
    }


def charges(scene):
    with sqlite3.connect(f"file:{folder}/{scene}.sqlite?mode=ro", uri=True) as file:
        return file.execute("select count(*) from entries where kind = 'charge'").fetchone()[0]


def trained(scene, kind):
    private = made(f"{scene} {kind}", kind)
    history = private.fit(x, y, validation_data=(x[:48], y[:48]), validation_batch_size=24, **FIT)
    return told(private) | {"history": history.history}


def charged(scene):
    """How many steps are in the ledger, on disk, when each process begins a release; no seed."""
    found, opened = [], []
    release, opening, charge = Step.release, Ledger.__init__, Ledger.charge

    def releasing(self, *arguments):
        found.append(charges(scene) - len(found))
        return release(self, *arguments)

    def slowly(self, *arguments):
        time.sleep(0.05)
        charge(self, *arguments)

    def noted(self, *arguments, **settings):
        opened.append(index)
        opening(self, *arguments, **settings)

    Step.release, Ledger.__init__, Ledger.charge = releasing, noted, slowly
    try:
        private = made(scene, seed=None)
        private.fit(x, y, **FIT)
    finally:
        Step.release, Ledger.__init__, Ledger.charge = release, opening, charge
    return told(private) | {"found": found, "opened": opened}


class Recorded:
    """Examples that note who of them was read, and may no longer be read after a while."""

    def __init__(self, most=None):
        self.read, self.most = [], most

    def __len__(self):
        return len(x)

    def __getitem__(self, number):
        if self.most is not None and len(self.read) > self.most:
            raise OSError("by hand")
        self.read.append(int(number))
        return x[number], y[number]


def parts(scene):
    """Each process reads what its devices work on, and no more."""
    recorded, private = Recorded(), made(f"{scene} {count}")
    private.fit(recorded, **FIT)
    # The first and the last are looked at by all, to see that they are apart.
    ends = {0, len(x) - 1}
    return told(private) | {"read": sorted(n for n in recorded.read if n not in ends)}


def failed(private, data=(x, y), **options):
    """How a call failed."""
    try:
        private.fit(*data, **(FIT | options))
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return None


def unreadable(scene):
    """One process's data cannot be read any longer: nothing more is released on any."""
    private, recorded = made(scene), Recorded(40 if last else None)
    result = {"failed": failed(private, (recorded,)), "charged": charges(scene)}
    result |= told(private)
    recorded.most = None
    private.fit(recorded, **FIT)
    return result | {"after": private.account.steps}


class At(keras.callbacks.Callback):
    """Does something at the end of a step, on the last process."""

    def __init__(self, step, do):
        super().__init__()
        self._left, self._do = step, do

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if last and not self._left:
            self._do(self.model)


def stop(model):
    model.stop_training = True


def fail(model):
    raise ZeroDivisionError("by hand")


def interrupt(model):
    os.kill(os.getpid(), signal.SIGINT)


def ended(scene, name):
    """A callback of one process stops the training, or fails; it can be trained further."""
    private = made(f"{scene} {name}")
    does = {"stop": stop, "fail": fail, "interrupt": interrupt}[name]
    result = {"failed": failed(private, callbacks=[At(3, does)])} | told(private)
    private.fit(x, y, **FIT)
    result |= {"after": private.account.steps}
    # Weights that one process saved are every process's own: they cost nothing more.
    files = [str(folder / f"{scene} {name} {i}.weights.h5") for i in range(count)]
    private.save_weights(files[index])  # Keras has all of them do it
    multihost_utils.sync_global_devices("saved")
    private.load_weights(files[0])
    return result | {"loaded": private.account.steps}


def told_to_end(scene):
    """SIGTERM to one process."""
    private = made(scene)

    def terminate(model):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)  # JAX hears of it on a thread of its own

    return {"failed": failed(private, callbacks=[At(3, terminate)])} | told(private)


def refused(scene):
    """Calls that differ from process to process, and those that several cannot make."""

    def budget():
        return hg.Budget("p", 30.0, 1e-3, url=f"sqlite:///{folder}/{scene}.sqlite")

    changed = x.copy()
    changed[0, 0] += last
    models = {
        "seed": lambda: made(scene, seed=1 + last),
        "noise": lambda: made(scene, noise_multiplier=1.0 + last),
        "block": lambda: made(scene, block_size=18 + 4 * last),
        "budget": lambda: made(scene, budget=None if last else budget()),
        # Variables are made by all together, so numbers alone can differ.
        "optimizer": lambda: made(scene, optimizer=keras.optimizers.Adam(0.1, 0.8 + 0.1 * last)),
        "no distribution": lambda: made(scene, None),
        "local distribution": lambda: made(scene, "local"),
        "sharded data set": lambda: made(scene, "sharded"),
    }
    result = {name: failed(make()) for name, make in models.items()}
    private = made(scene)
    result |= {
        "data": failed(private, (changed, y)),
        "rows": failed(private, (x[: 203 - last], y[: 203 - last])),
        "epochs": failed(private, epochs=2 + last),
        "validation": failed(private, validation_data=None if last else (x, y)),
        "class weight": failed(private, class_weight={0: 1.0 + last}),
        "no rows": failed(private, (Recorded(0 if last else None),)),
        "no data": failed(private, (3, y) if last else (x, y)),
        "stream": failed(private, ((pair for pair in [(x, y)]),)),
    }
    try:
        private.train_on_batch(x[:10], y[:10])
    except HushgradError as error:
        result["batch"] = f"{type(error).__name__}: {error}"
    file = folder / f"{scene}.sqlite"
    return result | {"steps": charges(scene) if file.exists() else 0}


def killed(scene):
    """The last process dies after a step."""
    private = made(scene)
    try:
        private.fit(x, y, callbacks=[At(3, lambda model: os._exit(7))], **FIT)
    except ProcessError as error:
        return {"failed": str(error), "steps": private.account.steps}
    raise AssertionError("it went on alone")


known = (trained, charged, parts, unreadable, ended, told_to_end, refused, killed)
SCENES = {f.__name__: f for f in known}
results = {}
for scene in sys.argv[5:]:
    name, *arguments = scene.split()
    results[scene] = SCENES[name](name, *arguments)
    # Each is written at once: a process may not come to its end.
    (folder / f"{index} of {count}.json").write_text(json.dumps(results))
if any(scene.startswith("killed") for scene in sys.argv[5:]):
    os._exit(0)  # there is nobody left to say goodbye to
