"""Runs on meshes of eight devices, in a process of its own: prints what came out as JSON.

Called as `python meshes.py FOLDER RUN...`, where a run is "LAYOUT MECHANISM", or "LAYOUT LAYOUT
MECHANISM" to be killed on the first.
"""

import functools
import json
import os
import re
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax
from language import MECHANISMS, data, loss, start, tensor, told

import hushgrad as hg
from hushgrad.training.layout import Layout
from hushgrad.training.step import accumulate, empty_sums, on_mesh

folder, wanted = Path(sys.argv[1]), [run.split() for run in sys.argv[2:]]
flat, square = jax.make_mesh((8,), ("data",)), jax.make_mesh((2, 4), ("batch", "model"))
pair = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
LAYOUTS = {
    "alone": (None, start),
    "two": (pair, start),
    "data": (flat, start),
    "fsdp": (flat, hg.fsdp(start, flat)),
    "tensor": (square, tensor(square)),
}


class Killed(Exception):
    pass


def train(layout, mechanism, name, kill=None):
    mesh, params = LAYOUTS[layout]

    def callback(progress):
        if progress.step == kill:
            raise Killed

    return hg.train(
        loss,
        params,
        data,
        MECHANISMS[mechanism],
        optimizer=optax.adam(0.05),
        directory=folder / name,
        seed=1,
        mesh=mesh,
        callback=callback,
        options=hg.Options(average=0.9, checkpoint_every=4, block_size=51),
    )


def work_of_noise(params):
    """Floating-point operations of one device."""
    places = Layout(flat).places(params)

    def noisy(params, key):
        with on_mesh(places):
            made, _ = hg.noise.gaussian(1.0).update(params, optax.EmptyState(), key=key)
        return made

    where = jax.tree.map(lambda x: x.sharding, params)
    program = jax.jit(noisy, out_shardings=where).lower(params, np.arange(8, dtype=np.uint32))
    return program.compile().cost_analysis()["flops"]


def collectives():
    """What devices exchange to add up their examples' gradients, parameters on each."""
    layout, clipped = Layout(flat), hg.clipped_grad(loss, 1.0, devices=8)
    params, rows = layout.params(start), [np.resize(a, (256, *a.shape[1:])) for a in data]
    batch, mask = layout.batch((tuple(rows), np.ones(256, bool)), 256)
    places = layout.places(params)
    sums = empty_sums(clipped, params, batch, mask, places)
    lowered = accumulate.lower(clipped, params, sums, batch, mask, None, places)
    kinds = r" (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)(?:-start)?\("
    return sorted(set(re.findall(kinds, lowered.compile().as_text())))


results, keys = {}, []
noise_key = hg.training.secret.RunSecret.noise_key
hg.training.secret.RunSecret.noise_key = functools.wraps(noise_key)(
    lambda self, step: (keys.append(step), noise_key(self, step))[1]
)
for *layouts, mechanism in wanted:
    name = " ".join([*layouts, mechanism])
    keys.clear()
    if len(layouts) == 2:
        try:
            train(layouts[0], mechanism, name, kill=6)
        except Killed:
            made = list(keys)
        keys.clear()
        results[name] = told(train(layouts[1], mechanism, name))
        results[name] |= {"before": made, "after": list(keys)}
    else:
        results[name] = told(train(layouts[0], mechanism, name))
matrix = {"kernel": np.zeros((256, 384), np.float32)}
layouts = [Layout(flat).params(params) for params in (matrix, hg.fsdp(matrix, flat))]
works = [work_of_noise(params) for params in layouts]
results["sums"] = collectives()
results["noise"] = {"share": works[1] / works[0]}
print(json.dumps(results))
