"""`hushgrad doctor`: what is installed, whether it is exact on this machine, and how fast."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hushgrad.cli.command import examples

__all__ = ["EXAMPLES", "doctor"]

EXAMPLES = examples("hushgrad doctor", "hushgrad doctor --json")

_FAILED = 1
_NEEDED = ("hushgrad", "jax", "jaxlib", "numpy", "scipy", "optax", "dp-accounting", "sqlalchemy")
# Distribution and the extra that brings it.
_EXTRAS = {
    "keras": "keras",
    "flwr": "flower",
    "matplotlib": "plot",
    "jinja2": "report",
    "nicegui": "ui",
    "pyarrow": "arrow",
    "psycopg": "postgresql",
    "tensorboardX": "tensorboard",
}
# Float32 sums in another order; the engine's own tests hold it to the same.
_EXACT = 1e-4
_ROUNDS = 7
# A million normals: mean and variance are within 5 standard errors but once in 3.5 million, and
# the draw is the same each time, so a machine that draws it right always passes.
_NORMALS, _ERRORS = 1_000_000, 5.0
# RFC 8439, section 2.3.2: the first words of the block of key 00..1f, counter 1.
_NONCE, _WORDS = (0x09000000, 0x4A000000, 0), (0xE4E7F110, 0x15593BD1, 0x1FDD0F50, 0xC47120A3)

AsJson = Annotated[bool, typer.Option("--json", help="The same for machines.")]


@dataclasses.dataclass(frozen=True)
class _Found:
    """What one check saw."""

    name: str
    passed: bool
    told: str
    seconds: float = 0.0


def doctor(as_json: AsJson = False) -> None:
    """Check that this machine does what is promised.

    Which versions are installed, which devices JAX sees, whether gradients, noise, accounting and
    the ledger are right here, and how fast: about ten seconds. Status 1 if a check fails.
    """
    installed, extras, devices = _installed(), _extras(), _devices()
    checks = [_tried(*check) for check in _CHECKS.items()]
    speed = _speed()
    failed = [check for check in checks if not check.passed]
    if as_json:
        facts = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "installed": installed,
            "extras": extras,
            "devices": devices,
            "checks": [dataclasses.asdict(check) for check in checks],
            "speed": speed,
            "passed": not failed,
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show(installed, extras, devices, checks, speed)
    if failed:
        raise typer.Exit(_FAILED)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed() -> dict[str, str | None]:
    return {name: _version(name) for name in _NEEDED}


def _extras() -> dict[str, str | None]:
    return {name: _version(name) for name in _EXTRAS}


def _devices() -> list[str]:
    import jax

    return [f"{device.platform} {device.id}: {device.device_kind}" for device in jax.devices()]


def _tried(name: str, check: Callable[[], str]) -> _Found:
    """A check's result; what it raises is its failure, not the command's."""
    began = time.perf_counter()
    try:
        passed, told = True, check()
    except Exception as error:
        passed, told = False, f"{type(error).__name__}: {error}"
    return _Found(name, passed, told, round(time.perf_counter() - began, 2))


def _gradients() -> str:
    """The engine against one gradient per example, on a network with convolutions."""
    from hushgrad import recipes
    from hushgrad.gradients import check

    found = check(recipes.mnist.loss, recipes.mnist.init(0), _batch(24))
    if not found.largest <= _EXACT:
        raise ArithmeticError(f"{found}; at most {_EXACT:g} was expected")
    return str(found)


def _noise() -> str:
    """ChaCha20 by the vector of its standard, and the moments of the normals made of it."""
    import jax.numpy as jnp
    import numpy as np

    from hushgrad.noise.chacha import key_stream
    from hushgrad.noise.normal import standard_normal

    key = jnp.asarray(np.frombuffer(bytes(range(32)), "<u4"))
    nonce = [jnp.uint32(word) for word in _NONCE]
    words = [int(word[0]) for word in key_stream(key, nonce, jnp.ones(1, jnp.uint32))[:4]]
    if tuple(words) != _WORDS:
        raise ArithmeticError(f"ChaCha20 gives {words}, and RFC 8439 {list(_WORDS)}")
    normals = np.asarray(standard_normal(key, 1, (_NORMALS,), jnp.dtype("float32")), np.float64)
    mean, variance = float(normals.mean()), float(normals.var())
    errors = abs(mean) * _NORMALS**0.5, abs(variance - 1) * (_NORMALS / 2) ** 0.5
    if not max(errors) < _ERRORS:
        raise ArithmeticError(f"{_NORMALS:,} normals have mean {mean:g} and variance {variance:g}")
    return (
        f"ChaCha20 as in RFC 8439; {_NORMALS:,} normals: mean {mean:.4f}, variance {variance:.4f}"
    )


def _accounting() -> str:
    """Our tight bound between its certified bounds, and beside Google's accountant."""
    from hushgrad import accounting

    event = accounting.poisson_gaussian(256 / 60_000, 1.1, 14_063)
    ours, reference = accounting.epsilon(event, 1e-5), _reference(event)
    certified = accounting.epsilon_interval(event, 1e-5)
    if not (certified.lower <= ours <= certified.upper and abs(ours - reference) < 0.01):
        raise ArithmeticError(f"epsilon {ours}, certified {certified}, dp_accounting {reference}")
    return (
        f"epsilon {ours:.4f} of a run of 14,063 steps; certified {certified.lower:.4f} to "
        f"{certified.upper:.4f}, dp_accounting {reference:.4f}"
    )


def _reference(event: Any) -> float:
    from dp_accounting import pld

    return float(pld.PLDAccountant().compose(event).get_epsilon(1e-5))


def _ledger() -> str:
    """A run of three steps in the working directory: charged durably, chained, finished."""
    import jax.numpy as jnp
    import optax

    from hushgrad.planning import dp_sgd
    from hushgrad.training import train

    m = dp_sgd(examples=50, batch_size=10, steps=3, clip=1.0, delta=1e-3, noise_multiplier=1.0)
    with tempfile.TemporaryDirectory(prefix=".hushgrad-doctor-", dir=Path.cwd()) as folder:
        x = jnp.ones((50, 2))
        run = train(
            lambda p, row: jnp.sum(jnp.square(p - row)),
            jnp.zeros(2),
            (x,),
            m,
            optimizer=optax.sgd(0.1),
            directory=Path(folder) / "run",
        )
        if run.steps != m.steps or run.seeded or not run.epsilon > 0:
            raise ArithmeticError(f"{run.steps} of {m.steps} steps, epsilon {run.epsilon}")
    return f"three steps charged in {Path.cwd()}, with secrets of the operating system"


_CHECKS: dict[str, Callable[[], str]] = {
    "gradients": _gradients,
    "noise": _noise,
    "accounting": _accounting,
    "ledger": _ledger,
}


def _batch(size: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 28, 28)).astype(np.float32), rng.integers(0, 10, size)


def _speed() -> dict[str, float]:
    """Milliseconds of a private and an ordinary gradient of the same network, in turns."""
    import jax

    from hushgrad import recipes
    from hushgrad.gradients import clipped_grad

    loss, params, batch = recipes.mnist.loss, recipes.mnist.init(0), _batch(256)

    def mean(p: Any, *rows: Any) -> Any:
        return jax.vmap(loss, (None, 0, 0))(p, *rows).mean()

    programs = {
        "private_ms": jax.jit(clipped_grad(loss, clip=1.0)),
        "ordinary_ms": jax.jit(jax.grad(mean)),
    }
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(_ROUNDS + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(params, *batch))
            taken[name].append(1000 * (time.perf_counter() - began))
    # The first of each was compiled.
    return {name: round(statistics.median(times[1:]), 2) for name, times in taken.items()}


def _show(
    installed: dict[str, str | None],
    extras: dict[str, str | None],
    devices: list[str],
    checks: list[_Found],
    speed: dict[str, float],
) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)

    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    console.print(f"Python {platform.python_version()}, {machine}")
    console.print(", ".join(f"{name} {version}" for name, version in installed.items()))
    there = [f"{name} {version}" for name, version in extras.items() if version]
    console.print(f"extras: {', '.join(there) or 'none'}")
    for name, version in extras.items():
        if version is None:
            console.print(f"  no {name}: pip install 'hushgrad[{_EXTRAS[name]}]'")
    console.print(f"devices: {'; '.join(devices)}\n")
    for check in checks:
        console.print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.told}")
    ratio = speed["private_ms"] / speed["ordinary_ms"]
    console.print(
        f"\nA gradient of TensorFlow Privacy's CNN, 256 images: {speed['ordinary_ms']:g} ms "
        f"ordinary, {speed['private_ms']:g} ms private, {ratio:.2f} times."
    )
    if any(not check.passed for check in checks):
        console.print("\nA check failed: do not train on people's data with this installation.")
