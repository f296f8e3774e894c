"""Tables of CSV and Parquet files as features and labels, by a schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Num

from hushgrad.datasets.schema import Category, Number, Schema
from hushgrad.errors import DataError, InputError

__all__ = [
    "Table",
    "as_texts",
    "column_kinds",
    "column_names",
    "encode_table",
    "read_table",
    "read_texts",
    "table_labels",
]

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"

Table = dict[str, Any]
"""Columns by name, as `pyarrow` has them."""


def read_table(file: str | Path, schema: Schema) -> Table:
    """The columns of a file that a schema names. Takes the extra `arrow`.

    Args:
      file: CSV with names in its first line (compressed too, as in `.csv.gz`), or Parquet.
      schema: must name every column of the file.

    Raises:
      DataError: if the file cannot be read, or its columns are not those of the schema.
      InputError: if pyarrow is not installed.
    """
    names = column_names(file)
    lacking = [name for name in schema.names if name not in names]
    if lacking:
        raise DataError(f"columns {lacking} of the schema are not in {str(file)!r}: it has {names}")
    unnamed = [name for name in names if name not in (*schema.names, *schema.ignored)]
    if unnamed:
        raise DataError(
            f"columns {unnamed} of {str(file)!r} are not in the schema; declare them, with "
            "kind = 'ignored' where they must not be used"
        )
    return _read(file, list(schema.names))


def read_texts(file: str | Path) -> Table:
    """All columns of a file; those of CSV as texts, since their types follow from the records."""
    return _read(file, column_names(file))


def column_names(file: str | Path) -> list[str]:
    """The names of a file's columns, which are public.

    Raises:
      DataError: if it cannot be read, or a name is there twice.
    """
    pa = _pyarrow()
    try:
        if _is_parquet(file):
            names = pa.parquet.read_schema(Path(file).expanduser()).names
        else:
            with pa.csv.open_csv(_path(file), parse_options=_options(pa)) as reader:
                names = reader.schema.names
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{str(file)!r} cannot be read as a table: {error}") from error
    if len(set(names)) < len(names):
        raise DataError(f"{str(file)!r} has several columns of one name; rename them: {names}")
    return list(names)


def column_kinds(file: str | Path) -> dict[str, str]:
    """For columns whose type the file declares, as Parquet does: "number" or "category"."""
    pa = _pyarrow()
    if not _is_parquet(file):
        return {}
    kinds = {}
    for field in pa.parquet.read_schema(Path(file).expanduser()):
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            kinds[field.name] = "number"
        elif any(test(field.type) for test in _names(pa.types)):
            kinds[field.name] = "category"
    return kinds


def as_texts(column: Any, missing: Sequence[str]) -> list[str | None]:
    """Each cell as text, None where there is none."""
    texts = _trimmed(_pyarrow(), column).to_pylist()
    return [None if text in missing else text for text in texts]


def encode_table(table: Table, schema: Schema) -> Float32[np.ndarray, "examples features"]:
    """The numbers that a model sees, for each row of a table.

    Each row by itself, by what the schema says: nothing is learned from the records. No row
    is left out.

    - A number is clipped to its bounds and scaled to -1 .. 1. With `knots`, as many columns
      more say how near it is to each of so many places within the bounds, so that a linear
      model can bend there. One column more is 1 if the value is missing, or no number; all
      others are zero then, as in the middle of the bounds.
    - A category is 1 in one of as many columns as there are, or in one for other names, or in
      one for a value that is missing.
    """
    parts = [
        _number_features(_numbers(table[column.name], schema.missing), column)
        if isinstance(column, Number)
        else _one_hot(_codes(table[column.name], column, schema.missing), column)
        for column in schema.columns
    ]
    return np.concatenate(parts, axis=1)


def table_labels(
    table: Table, schema: Schema
) -> tuple[Num[np.ndarray, " examples"], Float32[np.ndarray, " examples"]]:
    """What is to be predicted, and the weight of each row.

    A row without a label that the schema knows has weight zero: it counts, and teaches
    nothing. To leave it out would change the number of examples, which is public.

    Returns:
      Numbers of classes (int32; float32 where there are two), or the number scaled to -1 .. 1
      by its bounds (float32); and weights of 0 or 1.
    """
    column = table[schema.label.name]
    if isinstance(schema.label, Number):
        values = _numbers(column, schema.missing)
        known = ~np.isnan(values)
        scaled = 2 * _unit(np.where(known, values, schema.label.low), schema.label) - 1
        return scaled.astype(np.float32), known.astype(np.float32)
    codes, two = _codes(column, schema.label, schema.missing), len(schema.label.categories) == 2
    known = codes < len(schema.label.categories)
    return np.where(known, codes, 0).astype(np.float32 if two else np.int32), known.astype(
        np.float32
    )


def _number_features(
    values: Float[np.ndarray, " examples"], column: Number
) -> Float32[np.ndarray, "examples features"]:
    known = ~np.isnan(values)
    unit = _unit(np.where(known, values, column.low), column)
    near = np.zeros((len(unit), 0))
    if column.knots:
        near = np.maximum(
            0, 1 - np.abs(unit[:, None] * (column.knots - 1) - np.arange(column.knots))
        )
    features = np.concatenate([(2 * unit - 1)[:, None], near], axis=1) * known[:, None]
    return np.concatenate([features, ~known[:, None]], axis=1).astype(np.float32)


def _unit(values: Float[np.ndarray, " examples"], column: Number) -> np.ndarray:
    """Within the bounds, from 0 to 1."""
    inside = np.clip(values, column.low, column.high) - column.low
    width = column.high - column.low
    return np.log1p(inside) / np.log1p(width) if column.scale == "log" else inside / width


def _one_hot(
    codes: Int32[np.ndarray, " examples"], column: Category
) -> Float32[np.ndarray, "examples features"]:
    return np.eye(len(column.categories) + 2, dtype=np.float32)[codes]


def _codes(
    column: Any, declared: Category, missing: tuple[str, ...]
) -> Int32[np.ndarray, " examples"]:
    """The place of each name among those declared; after them, that of others and of none."""
    pa = _pyarrow()
    texts = _trimmed(pa, column)
    found = pa.compute.index_in(texts, value_set=pa.array(declared.categories, pa.string()))
    count = len(declared.categories)
    known = pa.compute.fill_null(found, count).to_numpy()
    # A name that is declared is a category, even where it would stand for a missing value.
    gone = _is_missing(pa, texts, missing) & (known == count)
    return np.where(gone, count + 1, known).astype(np.int32)


def _numbers(column: Any, missing: tuple[str, ...]) -> Float[np.ndarray, " examples"]:
    """NaN where there is none."""
    pa = _pyarrow()
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values = column.cast(pa.uint8()) if pa.types.is_boolean(kind) else column
        return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    texts = _trimmed(pa, column)
    readable = pa.compute.match_substring_regex(texts, pattern=_NUMBER)
    readable = pa.compute.and_not(readable, pa.array(_is_missing(pa, texts, missing)))
    kept = pa.compute.if_else(readable, texts, None)
    return kept.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _is_missing(pa: Any, texts: Any, missing: tuple[str, ...]) -> np.ndarray:
    named = pa.compute.is_in(texts, value_set=pa.array(missing, pa.string()))
    return np.asarray(pa.compute.or_(named, pa.compute.is_null(texts)))


def _trimmed(pa: Any, column: Any) -> Any:
    try:
        return pa.compute.utf8_trim_whitespace(column.cast(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"a column of {column.type} has no texts: {error}; leave it out") from error


def _read(file: str | Path, names: list[str]) -> Table:
    pa = _pyarrow()
    try:
        if _is_parquet(file):
            table = pa.parquet.read_table(Path(file).expanduser(), columns=names)
        else:
            # As texts: what type a column seems to have would follow from the records.
            convert = pa.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string())
            )
            table = pa.csv.read_csv(
                _path(file), convert_options=convert, parse_options=_options(pa)
            )
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{str(file)!r} cannot be read as a table: {error}") from error
    if not table.num_rows:
        raise DataError(f"{str(file)!r} has no rows")
    return {name: table.column(name).combine_chunks() for name in names}


def _names(types: Any) -> list[Any]:
    return [types.is_string, types.is_large_string, types.is_dictionary, types.is_boolean]


def _options(pa: Any) -> Any:
    return pa.csv.ParseOptions(newlines_in_values=True)


def _path(file: str | Path) -> str:
    return str(Path(file).expanduser())


def _is_parquet(file: str | Path) -> bool:
    return Path(file).suffix.lower() in (".parquet", ".pq")


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError("tables need pyarrow: pip install 'hushgrad[arrow]'") from error
    return pa
