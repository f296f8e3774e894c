"""A round with clients elsewhere: their updates as they come."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hushgrad.errors import InputError
from hushgrad.federated.aggregator import empty, with_update
from hushgrad.training.run import Progress
from hushgrad.training.secret import RunSecret

if TYPE_CHECKING:
    from hushgrad.federated.process import LearningProcess, ServerState

__all__ = ["Round", "RoundMetrics"]

_LOG = logging.getLogger("hushgrad.federated")


@dataclasses.dataclass(frozen=True)
class RoundMetrics(Progress):
    """What is known after a round; numbers named `unprotected_...` are not private.

    Attributes:
      unprotected_clients: how many updates were summed, those that were not finite included.
      lost: the round was charged before, by a server that died with what it released; nothing
        was learned in it.
    """

    unprotected_clients: int = 0
    lost: bool = False

    @property
    def round(self) -> int:
        """How many rounds were made."""
        return self.step


class Round:
    """One round; made by `LearningProcess.begin`.

    Attributes:
      number: from 0.
      clients: who was drawn, a secret; None where whoever comes may take part.
    """

    def __init__(
        self, process: LearningProcess, state: ServerState, clients: frozenset[int] | None
    ) -> None:
        self._process, self._state = process, state
        self.number, self.clients = state.round, clients
        self._sums = empty(state.params)
        self._received: set[int] = set()
        self._over = False

    @property
    def params(self) -> PyTree[Array]:
        """What clients start from."""
        return self._state.params

    @property
    def norm(self) -> Float[Array, ""] | None:
        """What updates will be clipped to, where that moves; else see the mechanism's clip."""
        return self._state.norm

    @property
    def received(self) -> frozenset[int]:
        """Whose updates have come."""
        return frozenset(self._received)

    def chance(self, client: int) -> RunSecret:
        """What a client's shuffling follows from; may be sent to it."""
        return self._process.chance(self._state, client)

    def receive(
        self,
        client: int,
        update: PyTree[Any],
        *,
        loss: float = float("nan"),
        clipped: bool = False,
    ) -> bool:
        """Adds a client's update to the sum, clipped here whatever the client did.

        Each client counts once. What comes too late, from who was not drawn or may not take part,
        or does not look like the parameters, changes nothing. An update that is not finite counts
        as come, and adds exactly zero.

        Args:
          client: its number.
          update: the parameters it was sent less those it ended with; shaped like them.
          loss: of its examples, for the un-noised metrics.
          clipped: whether the client says that it clipped the update: it counts as clipped, which
            is all that it can tell, true or not.

        Returns:
          Whether it was added.
        """
        wrong = self._wrong(client, update)
        if wrong:
            _LOG.warning("round %d: client %r left out: %s", self.number, client, wrong)
            return False
        process = self._process
        clip, norm = process.mechanism.clip, self._state.norm
        update = jax.tree.map(
            lambda u, p: jnp.asarray(u) if _counts(p) else p, update, self._state.params
        )
        self._sums = with_update(clip, self._sums, update, norm, float(loss), bool(clipped))
        self._received.add(int(client))
        return True

    def finish(self) -> tuple[ServerState, RoundMetrics]:
        """Charges and releases the round with what has come, nobody included."""
        if self._over:
            raise InputError(f"round {self.number} is over; begin the next")
        after = self._process.released(self._state, self._sums, sorted(self._received))
        self._over = True
        return after

    def _wrong(self, client: Any, update: Any) -> str:
        if self._over:
            return "it came after the round's end"
        if not isinstance(client, int | np.integer) or isinstance(client, bool):
            return "its number is none"
        if int(client) in self._received:
            return "its update had come already"
        if self.clients is not None and int(client) not in self.clients:
            return "it was not drawn"
        try:
            self._process.check(self._state, [int(client)])
        except InputError as error:
            return str(error)
        return _unlike(update, self._state.params)


def _unlike(update: Any, params: Any) -> str:
    """Why an update cannot be added to the parameters; empty if it can."""
    if jax.tree.structure(update) != jax.tree.structure(params):
        return "its update is not structured like the parameters"
    for (path, param), leaf in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(update), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if np.shape(leaf) != param.shape:
            return f"its update has shape {np.shape(leaf)} at {name}, not {param.shape}"
        kind = np.asarray(leaf).dtype
        if _counts(param) and not jnp.issubdtype(kind, jnp.floating):
            return f"its update has type {kind} at {name}"
    return ""


def _counts(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
