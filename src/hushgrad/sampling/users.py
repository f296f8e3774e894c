"""Data by user: who is drawn are users, and what is clipped is all that one of them adds."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from hushgrad._check import whole
from hushgrad.errors import DataError, InputError

__all__ = ["Users"]


class Users:
    """Examples that belong to users, to be trained on user by user.

    ```python
    users = hg.sampling.Users(patient, (x, y), max_examples=16)
    settings = {"batch_size": 64, "steps": 500, "delta": 1e-6, "epsilon": 3.0}
    m = hg.dp_sgd(examples=len(users), unit="user", **settings)
    run = hg.train(loss, params, users, m, optimizer=optax.sgd(0.1), directory="runs/patients")
    ```

    A drawn user takes part with up to `max_examples` of their examples, chosen at random
    for every step; the gradient of their mean loss is clipped as one. So every user adds at
    most one clip, however many examples they have, and whoever has few weighs as much as
    whoever has many (McMahan et al. 2018, arXiv 1710.06963).

    Args:
      user_ids: of every example: numbers or texts, one-dimensional.
      data: what `hg.train` takes, one row per example.
      max_examples: of one user in one step; as many as anybody has by default.

    Attributes:
      names: the identifiers, sorted: that of user number i is `names[i]`.

    Raises:
      DataError: if the identifiers are not one-dimensional, empty, or missing (NaN).
      InputError: if `max_examples` is no positive whole number.
    """

    def __init__(self, user_ids: Any, data: Any, *, max_examples: int | None = None) -> None:
        ids = np.asarray(user_ids)
        if ids.dtype.kind == "O" and all(isinstance(one, str) for one in ids.ravel()):
            ids = ids.astype(str)  # a table's column of texts
        if ids.ndim != 1 or not ids.size:
            raise DataError(
                f"user_ids must have one entry per example, got an array of shape {ids.shape}"
            )
        if (ids.dtype.kind == "f" and np.isnan(ids).any()) or ids.dtype.kind == "O":
            raise DataError("user_ids must be numbers or texts, none of them missing")
        if isinstance(data, Users):
            raise InputError("data must be what the users' examples are, not users again")
        if max_examples is not None:
            max_examples = whole("max_examples", max_examples)
        self.names, who = np.unique(ids, return_inverse=True)
        self._order = np.argsort(who, kind="stable")
        self._starts = np.searchsorted(who[self._order], np.arange(who.max() + 2))
        self.data = data
        self.max_examples: int = max_examples or int(np.diff(self._starts).max())

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._starts) - 1

    @property
    def examples(self) -> int:
        """How many examples all users have together."""
        return len(self._order)

    def size(self, user: int) -> int:
        """How many examples a user takes part with."""
        return min(self.max_examples, int(self._starts[user + 1] - self._starts[user]))

    def rows(self, user: int, rng: np.random.Generator) -> Int[np.ndarray, " own"]:
        """Rows of one user's examples; of more than `max_examples`, some chosen at random."""
        own = self._order[self._starts[user] : self._starts[user + 1]]
        if len(own) > self.max_examples:
            own = rng.choice(own, self.max_examples, replace=False)
        return own

    def members(
        self, users: Int[np.ndarray, " drawn"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "drawn most"], Bool[np.ndarray, "drawn most"]]:
        """Rows of the users' examples, `max_examples` for each, and which of them count.

        Of more, some are chosen at random; fewer are filled up with the user's own.
        """
        rows = np.empty((len(users), self.max_examples), np.int64)
        mask = np.zeros(rows.shape, bool)
        for i, user in enumerate(users):
            own = self.rows(user, rng)
            mask[i, : len(own)] = True
            rows[i] = np.resize(own, self.max_examples)
        return rows, mask
