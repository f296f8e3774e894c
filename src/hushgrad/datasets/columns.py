"""Columns of Parquet and Arrow files as examples, read as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hushgrad.errors import DataError, InputError

__all__ = ["Columns"]

_MAPPED = (".arrow", ".feather", ".ipc")


class Columns:
    """A table's columns, in the order of the loss's arguments; one row per example.

    ```python
    data = hg.datasets.Columns("visits.parquet", ["features", "outcome"])
    run = hg.train(loss, params, data, m, optimizer=..., directory="runs/visits")
    ```

    Arrow files (IPC, Feather without compression) are mapped into memory, and only the rows
    that are drawn are read. Of Parquet files whole row groups are read for every row, so
    write those with few rows in a group, or convert them. A list column with lists of one
    length is an array for each example. Takes the extra `arrow`.

    Args:
      source: a file, a folder of Parquet files, or a `pyarrow.Table`.
      columns: their names, one for each of the loss's arguments after the parameters.

    Raises:
      DataError: if a file cannot be read or lacks a column, or a column is not numbers or
        has missing values where it is read.
      InputError: if pyarrow is not installed.
    """

    def __init__(self, source: Any, columns: Sequence[str]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.dataset
        except ModuleNotFoundError as error:
            raise InputError("tables need pyarrow: pip install 'hushgrad[arrow]'") from error
        if isinstance(columns, str) or not columns:
            raise InputError(f"columns must be a list of names, got {columns!r}")
        self.columns = list(columns)
        try:
            self._table = self._open(pa, source)
            names = self._table.schema.names
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{str(source)!r} cannot be read as a table: {error}") from error
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise DataError(f"columns {missing} are not in the table, which has {names}")
        self._length = self._table.count_rows() if self._lazy else self._table.num_rows

    def __len__(self) -> int:
        """How many rows there are."""
        return self._length

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """Each column's values in some rows, stacked."""
        if self._lazy:
            taken = self._table.take(rows, columns=self.columns)
        else:
            taken = self._table.take(rows)
        return [_array(name, taken.column(name)) for name in self.columns]

    def _open(self, pa: Any, source: Any) -> Any:
        self._lazy = False
        if isinstance(source, pa.Table):
            return source.select(self._present(source.schema.names))
        path = Path(source).expanduser()
        if path.suffix in _MAPPED:
            # The map lives as long as the table does.
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            return table.select(self._present(table.schema.names))
        self._lazy = True
        return pa.dataset.dataset(path, format="parquet")

    def _present(self, names: list[str]) -> list[str]:
        return self.columns if set(self.columns) <= set(names) else names


def _array(name: str, column: Any) -> np.ndarray:
    import pyarrow as pa

    if column.null_count:
        raise DataError(f"column {name!r} has missing values; fill or leave out those rows")
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        values = column if isinstance(column, pa.Array) else column.combine_chunks()
        flat = _array(name, values.flatten())
        if (len(values) and len(flat) % len(values)) or len({len(v) for v in values}) > 1:
            raise DataError(f"column {name!r} must have lists of one length; pad or crop them")
        return flat.reshape(len(values), *([-1] if len(values) else [0]), *flat.shape[1:])
    array = (
        column.to_numpy(zero_copy_only=False)
        if isinstance(column, pa.Array)
        else (column.to_numpy())
    )
    if array.dtype.kind not in "biuf":
        raise DataError(f"column {name!r} must be numbers, got {kind}")
    return array
