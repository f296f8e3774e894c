"""Fingerprints of what a step computes, so that no other step runs under its noise."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from hushgrad.training.team import whole

__all__ = ["constants", "fingerprint"]


def fingerprint(traced: Sequence[core.ClosedJaxpr], structure: Any) -> str:
    """Of traced programs, without the arrays they close over, and of what runs them.

    Another version or another kind of device may round differently, and would
    release different numbers under the same noise.
    """
    runs_on = (
        jax.__version__,
        importlib.metadata.version("jaxlib"),
        jax.default_backend(),
        jax.devices()[0].device_kind,
        # How many devices there are does not change what is computed.
        re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")),
    )
    # Addresses of functions differ from process to process.
    text = re.sub(r"0x[0-9a-f]+", "", f"{runs_on}{[str(t) for t in traced]}{structure}")
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def constants(traced: Sequence[core.ClosedJaxpr]) -> list[np.ndarray]:
    """The arrays that programs close over, calls and loops inside them included."""
    return [whole(array) for program in traced for array in _closed_over(program)]


def _closed_over(value: Any) -> Iterator[Any]:
    if isinstance(value, core.ClosedJaxpr):
        yield from value.consts
        if value.jaxpr is not value:  # from JAX 0.11 on both are one
            yield from _closed_over(value.jaxpr)
            return
    if isinstance(value, core.Jaxpr):
        for eqn in value.eqns:
            for atom in eqn.invars:
                if isinstance(atom, core.Literal) and np.ndim(atom.val):
                    yield atom.val
            yield from _closed_over(list(eqn.params.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _closed_over(part)
