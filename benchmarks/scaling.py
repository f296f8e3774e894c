"""The private step over the ordinary one on 1, 2, 4 and 8 devices, and the bytes they exchange.

    python -m benchmarks.scaling [--rounds 10] [--model transformer] [--output FILE]

Virtual devices on one processor, where none has a core to itself: that shows what the private
step adds, not how fast more devices are. The ratio must not grow with them. Strong scaling
keeps the batch, weak scaling keeps it for each device. With parameters on every device
("data") and shared out ("fsdp"). The bytes are those of the collectives in the compiled
programs: what one device takes part with in a step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")  # before JAX

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import hushgrad as hg
from benchmarks.models import MODELS, Model
from hushgrad.training.layout import Layout
from hushgrad.training.step import State, accumulate, empty_sums, initial_state, release

__all__ = ["main"]

_DEVICES = (1, 2, 4, 8)
_OPTIMIZER = optax.adam(1e-3)
_COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"(?P<type>[a-z]+[0-9]+)\[(?P<sizes>[0-9,]*)\]")


class Step:
    """One kind of step on some devices.

    Args:
      model: with the whole batch.
      devices: how many.
      share: whether parameters are shared out.
      private: or ordinary.
    """

    def __init__(self, model: Model, devices: int, share: bool, private: bool) -> None:
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        self._layout, self._model = Layout(mesh), model
        self._m = hg.dp_sgd(
            examples=100_000,
            batch_size=len(jax.tree.leaves(model.batch)[0]),
            steps=1,
            delta=1e-6,
            noise_multiplier=1.0,
        )
        params = _placed(model.params, mesh, share)
        state = initial_state(self._layout.params(params), self._m, _OPTIMIZER)
        self._state = self._layout.state(state, _OPTIMIZER)
        mask = np.ones(self._m.batch_size, bool)
        self._batch, self._mask = self._layout.batch((model.batch, mask), len(mask))
        self._places = self._layout.places(self._state)
        run = self._private if private else self._ordinary
        self._compiled = jax.jit(run).lower(self._state, self._batch, self._mask).compile()

    def __call__(self) -> None:
        jax.block_until_ready(self._compiled(self._state, self._batch, self._mask))

    @property
    def exchanged(self) -> Counter[str]:
        """Bytes by kind of collective."""
        found: Counter[str] = Counter()
        for line in (self._compiled.as_text() or "").splitlines():
            collective = _COLLECTIVE.search(line)
            if collective:
                found[collective["kind"]] += _bytes(collective["shapes"])
        return found

    @property
    def memory(self) -> float:
        """MiB on one device: what goes in and what is needed on the way."""
        plan = self._compiled.memory_analysis()
        assert plan is not None
        return (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / 2**20

    def _private(self, state: State, batch: Any, mask: Any) -> State:
        clipped = hg.clipped_grad(self._model.loss, self._m.clip, devices=self._layout.shards)
        grads = self._layout.places(self._state.params)
        sums = empty_sums(clipped, state.params, batch, mask, grads)
        sums = accumulate(clipped, state.params, sums, batch, mask, None, grads)
        key = jnp.arange(8, dtype=jnp.uint32)
        return release(
            self._m, _OPTIMIZER, state, sums.grads, sums.centred_bits, key, None, self._places
        )

    def _ordinary(self, state: State, batch: Any, mask: Any) -> State:
        def mean_loss(params: Any) -> Any:
            return jnp.mean(jax.vmap(self._model.loss, (None, *(0 for _ in batch)))(params, *batch))

        updates, optimizer = _OPTIMIZER.update(
            jax.grad(mean_loss)(state.params), state.optimizer, state.params
        )
        made = state._replace(
            params=optax.apply_updates(state.params, updates), optimizer=optimizer
        )
        leaves, structure = jax.tree.flatten(made)
        assert self._places is not None
        held = map(jax.lax.with_sharding_constraint, leaves, self._places)
        return jax.tree.unflatten(structure, list(held))


def _placed(params: Any, mesh: Mesh, share: bool) -> Any:
    return hg.fsdp(params, mesh) if share else params


def _bytes(shapes: str) -> int:
    total = 0
    for shape in _SHAPE.finditer(shapes):
        width = int(re.sub("[a-z]", "", shape["type"])) // 8
        total += width * int(np.prod([int(n) for n in shape["sizes"].split(",") if n] or [1]))
    return total


def _alternated(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Medians in milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(all_) for name, all_ in seconds.items()}


def _row(name: str, model: Model, devices: int, share: bool, rounds: int) -> str:
    steps = {
        kind: Step(model, devices, share, kind == "private") for kind in ("private", "ordinary")
    }
    ms = _alternated(dict(steps), rounds)
    sent = {kind: sum(step.exchanged.values()) / 2**20 for kind, step in steps.items()}
    kinds = ", ".join(f"{k} {v / 2**20:.2f}" for k, v in sorted(steps["private"].exchanged.items()))
    return (
        f"| {name} | {'fsdp' if share else 'data'} | {devices} | {ms['private']:.0f} | "
        f"{ms['ordinary']:.0f} | {ms['private'] / ms['ordinary']:.2f} | {sent['private']:.2f} | "
        f"{sent['ordinary']:.2f} | {kinds or 'none'} | {steps['private'].memory:.1f} | "
        f"{steps['ordinary'].memory:.1f} |"
    )


def _cut(model: Model, count: int) -> Model:
    """The model with so many examples."""
    batch = jax.tree.map(lambda a: jnp.resize(a, (count, *a.shape[1:])), model.batch)
    return Model(model.name, model.loss, model.params, batch)


def main() -> None:
    """Measures, prints, and writes the page if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", choices=sorted(MODELS), default="transformer")
    parser.add_argument("--batch", type=int, default=64, help="examples in all; weak: an eighth")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    model, rounds = MODELS[arguments.model](), arguments.rounds
    lines = [
        "# Several devices: the private step over the ordinary one",
        "",
        f"{model.name.partition(', batch')[0]}, "
        f"{sum(p.size for p in jax.tree.leaves(model.params)):,} parameters, Adam. Strong scaling: "
        f"{arguments.batch} examples in all; weak: {arguments.batch // 8} for each device. Virtual "
        "devices on one processor: the ratio matters, not the milliseconds. MiB exchanged by one "
        "device in a step are those of the compiled program's collectives; memory is that of "
        "its arguments and temporaries, on one device.",
        "",
        "| scaling | parameters | devices | private ms | ordinary ms | ratio | private MiB "
        "exchanged | ordinary MiB exchanged | private, by kind | private MiB held | ordinary MiB "
        "held |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("strong", "weak"):
        for share in (False, True):
            for devices in (n for n in _DEVICES if n <= jax.device_count()):
                each = arguments.batch // 8 * devices
                cut = _cut(model, arguments.batch if name == "strong" else each)
                lines.append(_row(name, cut, devices, share, rounds))
                print(lines[-1], flush=True)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("hushgrad", "jax", "optax")
    )
    lines += [
        "",
        f"Command: `python -m benchmarks.scaling --rounds {rounds} --model {arguments.model} "
        f"--batch {arguments.batch}`",
        "",
        f"Python {platform.python_version()}, {versions}; {platform.machine()}, "
        f"{os.cpu_count()} cores, {jax.default_backend()}.",
        "",
    ]
    page = "\n".join(lines)
    print(page)
    if arguments.output:
        arguments.output.write_text(page)


if __name__ == "__main__":
    main()
