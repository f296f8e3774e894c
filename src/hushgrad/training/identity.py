"""Whether a call continues the run that a directory holds, and why not."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from hushgrad.errors import InputError, ResumeError
from hushgrad.training import program
from hushgrad.training.data import fingerprint
from hushgrad.training.directory import Identity, RunDirectory
from hushgrad.training.job import Job
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import State
from hushgrad.training.team import Team

__all__ = ["check", "check_alike", "identity_of"]


def identity_of(
    job: Job,
    state: State,
    secret: RunSecret | None,
    *,
    seeded: bool,
    budget: str | None,
    audit: dict[str, Any] | None,
) -> Identity:
    """What must be the same for a run to go on; finds errors in the loss on the way."""
    traced = job.trace(state)
    content = (job.source.content, state, program.constants(traced))
    return Identity(
        mechanism=job.mechanism.to_dict(),
        program=program.fingerprint(traced, jax.tree.structure(state)),
        content="" if secret is None else fingerprint(content, secret),
        block_size=job.block_size,
        seeded=seeded,
        budget=budget,
        audit=audit,
    )


def check(
    folder: RunDirectory,
    here: Identity,
    there: Identity,
    secret: RunSecret | None,
    seed: int | None,
) -> None:
    """Compares a call with the run that is found.

    Raises:
      ResumeError: naming what differs.
    """
    differing = _difference(here, there)
    reseeded = secret is not None and seed is not None and secret != RunSecret.from_seed(seed)
    if differing is None and reseeded:
        differing = "it was made with another seed"
    if differing is not None:
        raise ResumeError(
            f"the run in {str(folder.path)!r} cannot go on: {differing}; repeat the call that "
            "began it, or use another directory"
        )


def check_alike(team: Team, here: Identity) -> None:
    """Compares the calls of all processes.

    Raises:
      InputError: naming what differs.
    """
    everybody = [Identity(**facts) for facts in team.each(lambda: dataclasses.asdict(here))]
    for index, there in enumerate(everybody[1:], start=1):
        if there.program != everybody[0].program:
            what = "another loss, optimizer, shape of parameters, XLA_FLAGS or kind of device"
        elif there.content != everybody[0].content:
            what = "other data, other starting parameters, or other arrays that the loss holds"
        else:
            continue
        raise InputError(
            f"all processes must make the same call, but process {index} has {what} than process 0"
        )


def _difference(here: Identity, there: Identity) -> str | None:
    """Why the run `there` is not the one `here`, or None if it is."""
    if here.mechanism != there.mechanism:
        pairs = ((k, there.mechanism.get(k), v) for k, v in here.mechanism.items())
        changed = ", ".join(f"{k}: {a!r} there, {b!r} here" for k, a, b in pairs if a != b)
        return f"it was made by another mechanism ({changed})"
    if here.seeded != there.seeded:
        return f"it was made {'with' if there.seeded else 'without'} a seed"
    if here.block_size != there.block_size:
        return f"it was made with block_size={there.block_size}, not {here.block_size}"
    if here.budget != there.budget:
        return f"it was made with budget {there.budget!r}, not {here.budget!r}"
    if here.program != there.program:
        return (
            "it was made with another loss, optimizer, shape of parameters, version of JAX or "
            "kind of device"
        )
    # Without the secret, in a finished run, this cannot be told and is not needed.
    if here.content and here.content != there.content:
        return (
            "it was made with other data, other starting parameters, or other arrays that the "
            "loss or the optimizer hold"
        )
    return None
