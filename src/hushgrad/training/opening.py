"""How a run begins, or is found again: what all of its processes agree on first."""

from __future__ import annotations

import dataclasses
import math
import uuid
from typing import Any

import jax
from jaxtyping import Array, PyTree

from hushgrad._version import __version__
from hushgrad.mechanism import Plan
from hushgrad.training import identity
from hushgrad.training.budget import Budget
from hushgrad.training.directory import Identity, RunDirectory
from hushgrad.training.job import Job
from hushgrad.training.layout import Layout
from hushgrad.training.options import Options
from hushgrad.training.reservation import Reservation
from hushgrad.training.secret import RunSecret
from hushgrad.training.shared import shared_secret
from hushgrad.training.step import State
from hushgrad.training.team import Team

__all__ = ["default_block_size", "facts_of", "find", "opened"]

_CPU_BLOCK = 64


def facts_of(
    mechanism: Plan,
    seed: int | None,
    budget: Budget | None,
    options: Options,
    layout: Layout,
    params: PyTree[Array],
    audit: Any = None,
) -> dict[str, Any]:
    """What all processes of a run must agree on, by name."""
    shapes = jax.tree_util.tree_leaves_with_path(params)
    return {
        "seed": seed,
        "mechanism": mechanism.to_dict(),
        "budget": None if budget is None else budget.name,
        "options": options.plain(),
        "mesh": layout.plain(),
        "params": {jax.tree_util.keystr(path): f"{x.dtype}{x.shape}" for path, x in shapes},
        "audit": repr(audit),
        "version of hushgrad": __version__,
    }


def find(team: Team, folder: RunDirectory) -> tuple[str, Identity] | None:
    """The run that the directory holds."""

    def load() -> Any:
        found = folder.load()
        return None if found is None else (found[0], dataclasses.asdict(found[1]))

    found = team.first(load)
    return None if found is None else (found[0], Identity(**found[1]))


def opened(
    team: Team,
    folder: RunDirectory,
    found: tuple[str, Identity] | None,
    job: Job,
    state: State,
    seed: int | None,
    budget: Budget | None,
    audit: dict[str, Any] | None = None,
) -> tuple[str, RunSecret | None, Reservation | None]:
    """Begins a run or checks the one found; without a secret, it is finished."""

    def known() -> RunSecret | None:
        if found is not None:
            return folder.secret()
        return RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)

    secret = shared_secret(team, known)
    name = None if budget is None else budget.name
    here = identity.identity_of(
        job, state, secret, seeded=seed is not None, budget=name, audit=audit
    )
    identity.check_alike(team, here)
    if found is not None:
        name = found[0]
        identity.check(folder, here, found[1], secret, seed)
    else:
        name = team.first(lambda: uuid.uuid4().hex)
    held: list[Reservation] = []

    def begin() -> None:
        # Should the process die before the run is written down, the budget holds too much.
        if budget is not None:
            place = str(folder.path.resolve())
            held.append(budget.reserve(job.mechanism, name, directory=place))
        if found is None:
            assert secret is not None
            folder.keep_secret(secret)
            folder.begin(name, here)

    team.first(begin)
    return name, secret, held[0] if held else None


def default_block_size(mechanism: Plan, found: tuple[str, Identity] | None) -> int:
    """Rows per block where the user does not say: those of the run that is found."""
    if found is not None:
        return found[1].block_size
    # Two standard deviations above the mean: 98 of 100 batches take one block.
    largest = max(m.batch_size for m in mechanism.phases)
    usual = 8 * math.ceil((largest + 2 * math.sqrt(largest)) / 8)
    # A CPU is as fast or faster on blocks that stay in its caches, and pads less.
    return min(usual, _CPU_BLOCK) if jax.default_backend() == "cpu" else usual
