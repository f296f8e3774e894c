"""What an audit puts into a run, and where what it drew is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import optax
from jaxtyping import Array, PyTree

from hushgrad.errors import InputError, ResumeError
from hushgrad.mechanism import Plan
from hushgrad.training.data import Source
from hushgrad.training.directory import Identity, RunDirectory
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import State, Summand
from hushgrad.training.team import Team

__all__ = ["CANARIES", "RESULT", "Audit", "Planted", "plant"]

# Files of the run's directory, for its owner alone.
CANARIES, RESULT = "canaries.json", "audit.json"


@dataclasses.dataclass(frozen=True)
class Planted:
    """What a run trains on, and with, once its audit is in it.

    Attributes:
      source: the data.
      optimizer: sees what is released.
      summand: from the engine's sum of a block to that with what the audit adds to it.
      shaped: from the parameters to what is summed and released, where the audit adds to it.
      audit: the audit as plain data, if there is one.
      found: what the audit says of the last state, after so many steps; None without an audit.
    """

    source: Source
    optimizer: optax.GradientTransformation
    summand: Callable[[Summand], Summand] = lambda clipped: clipped
    shaped: Callable[[PyTree[Array]], PyTree[Array]] = lambda params: params
    audit: dict[str, Any] | None = None
    found: Callable[[State, int], Any] | None = None


@runtime_checkable
class Audit(Protocol):
    """What `hg.train(audit=...)` takes, such as `hushgrad.audit.Canaries`."""

    def to_dict(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        ...

    def draw(
        self, source: Source, mechanism: Plan, params: PyTree[Array], secret: RunSecret
    ) -> dict[str, Any]:
        """What is left to chance, as plain data; drawn once in a run.

        Raises:
          InputError: if the run cannot be audited so.
        """
        ...

    def plant(
        self,
        drawn: dict[str, Any],
        given: Planted,
        loss: Callable[..., Any],
        mechanism: Plan,
        params: PyTree[Array],
    ) -> Planted:
        """The run with what was drawn in it."""
        ...


def plant(
    team: Team,
    folder: RunDirectory,
    found: tuple[str, Identity] | None,
    audit: Audit | None,
    given: Planted,
    loss: Callable[..., Any],
    mechanism: Plan,
    params: PyTree[Array],
    seed: int | None,
) -> Planted:
    """A run with its audit in it: the one that the directory holds, or a new one.

    Raises:
      InputError: if the run cannot be audited so.
      ResumeError: if the run that is found has another audit, or lost what it drew.
    """
    if audit is not None and not isinstance(audit, Audit):
        raise InputError(f"audit must be hg.audit.Canaries(...), got {audit!r}")
    there = found[1].audit if found is not None else None
    here = None if audit is None else audit.to_dict()
    if found is not None and there != here:
        raise ResumeError(
            f"the run in {str(folder.path)!r} cannot go on: it was begun with audit={there!r}, not "
            f"{here!r}; repeat the call that began it, or use another directory"
        )
    if audit is None:
        return given

    def known() -> dict[str, Any]:
        kept = folder.read(CANARIES)
        if found is not None and kept is None:
            raise ResumeError(
                f"{str(folder.path)!r} has lost its {CANARIES}, so its audit cannot go on; restore "
                "it, or use another directory"
            )
        if found is not None and kept is not None:
            return kept
        secret = RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)
        # What a call drew that never began its run is drawn anew.
        drawn = audit.draw(given.source, mechanism, params, secret)
        folder.write(CANARIES, drawn)
        return drawn

    return audit.plant(team.first(known), given, loss, mechanism, params)
