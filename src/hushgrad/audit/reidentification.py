"""Whether published values single people out."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hushgrad.errors import InputError

__all__ = ["Reidentification", "reidentification", "warn_if_published"]


@dataclasses.dataclass(frozen=True)
class Reidentification:
    """How many rows are recognised by their values.

    Attributes:
      rows: how many there are.
      unique: how many have values that no other row has.
      groups: how many different values there are.
      smallest_group: rows that share a value, at least: k of k-anonymity.
      digits: after the point that values were rounded to; None if they were not.
    """

    rows: int
    unique: int
    groups: int
    smallest_group: int
    digits: int | None

    @property
    def share(self) -> float:
        """Share of the rows that are unique."""
        return self.unique / self.rows

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**dataclasses.asdict(self), "share": self.share}


def reidentification(values: ArrayLike, digits: int | None = None) -> Reidentification:
    """How many rows have values that nobody else has.

    ```python
    found = hg.audit.reidentification(members.loss, digits=3)
    found.share, found.smallest_group
    ```

    Losses, scores and predictions of single examples carry no noise. Even without names, a
    row that nobody shares is a fingerprint: who can compute the same value for somebody
    finds their row, and what stands beside it (Sweeney 2002, k-anonymity).

    Args:
      values: [rows] or [rows, columns], numbers or strings; NaN equals NaN.
      digits: rounds numbers to as many digits after the point first.

    Raises:
      InputError: if there are no rows, or strings are to be rounded.
    """
    table = np.asarray(values)
    if table.ndim not in (1, 2) or not table.size:
        raise InputError(
            f"values must be [rows] or [rows, columns] and not empty, got shape {table.shape}"
        )
    table = table.reshape(len(table), -1)
    if digits is not None:
        if table.dtype.kind not in "fiub":
            raise InputError(f"digits={digits!r} rounds numbers, got values of {table.dtype}")
        table = np.round(table.astype(float), digits)
    codes = np.stack([np.unique(c, return_inverse=True)[1].reshape(-1) for c in table.T], axis=1)
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    return Reidentification(
        len(table), int(np.sum(counts == 1)), len(counts), int(counts.min()), digits
    )


def warn_if_published(
    values: ArrayLike, what: str = "values", digits: int | None = None, *, stacklevel: int = 3
) -> None:
    """Warns who is about to write per-example values, if they single anybody out.

    ```python
    hg.audit.warn_if_published(members.loss, "losses of members")
    ```

    Args:
      values: as in `reidentification`.
      what: names them in the warning.
      digits: to which they will be rounded.
      stacklevel: of the warning; by default it points at the caller's caller.
    """
    found = reidentification(values, digits)
    if found.unique:
        warnings.warn(
            f"{what}: {found.unique:,} of {found.rows:,} rows ({100 * found.share:.3g} %) have a "
            f"value that no other row has, and no noise protects them. Whoever can compute the "
            f"value of a person finds their row: keep this file as secret as the data, or "
            f"publish the summary only.",
            UserWarning,
            stacklevel=stacklevel,
        )
