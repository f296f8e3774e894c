"""The same networks under other libraries, where they are installed (extra `bench`).

A peer is a column of the table: a name, and for a model a function without
arguments that computes one gradient and returns when it is there.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import jax

from benchmarks.models import Model

__all__ = ["OPACUS_MODES", "missing", "peers"]

Step = Callable[[], object]

OPACUS_MODES = ("hooks", "ghost", "functorch", "ew")


def missing() -> list[str]:
    """The packages whose columns are left out."""
    wanted = {"jax_privacy": "jax-privacy", "torch": "torch", "opacus": "opacus"}
    return [name for module, name in wanted.items() if importlib.util.find_spec(module) is None]


def peers(model: Model) -> dict[str, Step]:
    """Every peer that is installed, has this model and can hold it, ready to run."""
    absent = missing()
    fits = _fits(model)
    found: dict[str, Step] = {}
    if "jax-privacy" not in absent and fits:
        from benchmarks.peers import jax_steps

        found["jax-privacy"] = jax_steps.step(model)
    if model.architecture and "torch" not in absent:
        from benchmarks.peers import torch_steps

        found["torch"] = torch_steps.ordinary(model)
        if "opacus" not in absent:
            for mode in OPACUS_MODES if fits else ("ghost",):
                step = torch_steps.private(model, mode)
                if step is not None:
                    found[f"opacus {mode}"] = step
    return found


def _fits(model: Model) -> bool:
    """Whether a gradient per example, twice, takes less than half of this machine's memory."""
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2 * len(model.batch[0]) * weights < memory / 2
