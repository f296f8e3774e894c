"""What is declared of a table's columns: public facts, in a TOML file.

```toml
label = "income"
missing = ["", "?"]

[columns.age]
kind = "number"
bounds = [17, 90]

[columns.sex]
kind = "category"
categories = ["Female", "Male"]
```
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hushgrad._check import whole
from hushgrad.errors import DataError, InputError

__all__ = ["FILL_IN", "KNOTS", "Category", "Number", "Schema"]

FILL_IN = "FILL IN"
KNOTS = 16
_KINDS = ("number", "category", "ignored")
_SCALES = ("linear", "log")
_TOP = ("label", "missing", "columns", "spent")


@dataclasses.dataclass(frozen=True)
class Number:
    """A column of numbers.

    Attributes:
      name: of the column.
      low: least value; what is below counts as that.
      high: largest value, likewise.
      scale: "linear", or "log" where most values are near `low` and few far above it.
      knots: a model may bend at so many places within the bounds; 0 for a straight line.
    """

    name: str
    low: float
    high: float
    scale: str = "linear"
    knots: int = KNOTS

    def __post_init__(self) -> None:
        name = f"columns.{self.name}"
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"{name}.bounds must be two finite numbers, the least first, got "
                f"{[self.low, self.high]}"
            )
        if self.scale not in _SCALES:
            raise InputError(f"{name}.scale must be one of {_SCALES}, got {self.scale!r}")
        if whole(f"{name}.knots", self.knots, at_least=0) == 1:
            raise InputError(f"{name}.knots must be 0, or at least 2, got 1")


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of names.

    Attributes:
      name: of the column.
      categories: the names that can occur, in order; any other counts as "other".
    """

    name: str
    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise InputError(
                f"columns.{self.name}.categories must be different names, one at least, got "
                f"{list(self.categories)}"
            )


@dataclasses.dataclass(frozen=True)
class Schema:
    """What is declared of a table.

    ```python
    schema = hg.datasets.Schema.read("adult.toml")
    x = hg.datasets.encode_table(hg.datasets.read_table("adult.csv", schema), schema)
    ```

    Nothing in it may come from looking at the records, or what is promised does not hold: bounds
    and categories are what is publicly known of a column, or `spent` says what it cost to
    estimate them.

    Attributes:
      columns: those that a model sees, in order.
      label: what it predicts: a class if it is a `Category`, else a number.
      ignored: columns of the file that are not used.
      missing: texts that stand for a value that is not there; empty cells do anyway.
      spent: what the estimate of bounds and categories was, as plain data, or None.
    """

    columns: tuple[Number | Category, ...]
    label: Number | Category
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("",)
    spent: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.columns:
            raise InputError("columns must hold at least one that is not the label, nor ignored")
        if isinstance(self.label, Category) and len(self.label.categories) < 2:
            raise InputError(
                f"columns.{self.label.name}.categories must be at least two, since it is the "
                f"label, got {list(self.label.categories)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns in use, the label last."""
        return (*(column.name for column in self.columns), self.label.name)

    @classmethod
    def read(cls, file: str | Path) -> Schema:
        """The schema in a TOML file.

        Raises:
          DataError: if the file cannot be read.
          InputError: if something is missing in it, or not yet filled in; it is named.
        """
        file = Path(file).expanduser()
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DataError(f"{str(file)!r} cannot be read as a schema: {error}") from error
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """The schema from what its TOML file holds.

        Raises:
          InputError: as `read` does.
        """
        if unknown := [name for name in content if name not in _TOP]:
            raise InputError(f"a schema has {', '.join(_TOP)}, got {unknown}")
        label, found = content.get("label"), content.get("columns")
        if not isinstance(found, Mapping) or label not in found:
            raise InputError(
                f"label must be one of the columns, {list(found or {})}, got {label!r}"
            )
        columns = {name: _column(name, facts) for name, facts in found.items()}
        target = columns[label]
        if target is None:
            raise InputError(f"columns.{label}.kind must not be 'ignored': it is the label")
        spent = content.get("spent")
        if spent is not None:
            spent = {**spent, "mechanism": json.loads(spent["mechanism"])}
        return cls(
            tuple(c for name, c in columns.items() if c is not None and name != label),
            target,
            tuple(name for name, c in columns.items() if c is None),
            tuple(dict.fromkeys(["", *_texts("missing", content.get("missing", []))])),
            spent,
        )


def _column(name: str, facts: Any) -> Number | Category | None:
    if not isinstance(facts, Mapping) or facts.get("kind") not in _KINDS:
        kind = facts.get("kind") if isinstance(facts, Mapping) else facts
        raise InputError(f"columns.{name}.kind must be one of {_KINDS}, got {kind!r}")
    kind = facts["kind"]
    known = {"number": ("bounds", "scale", "knots"), "category": ("categories",), "ignored": ()}
    if unknown := [fact for fact in facts if fact not in ("kind", *known[kind])]:
        raise InputError(f"columns.{name} is a {kind} and cannot have {unknown}")
    if kind == "ignored":
        return None
    if kind == "category":
        return Category(name, _texts(f"columns.{name}.categories", facts.get("categories")))
    low, high = _bounds(name, facts.get("bounds"))
    return Number(name, low, high, facts.get("scale", "linear"), facts.get("knots", KNOTS))


def _bounds(name: str, bounds: Any) -> tuple[float, float]:
    pair = bounds if isinstance(bounds, list) and len(bounds) == 2 else ["", ""]
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in pair):
        raise InputError(
            f"columns.{name}.bounds must be two numbers, such as [0, 100], got {bounds!r}: fill in "
            "what is publicly known, not the least and the largest of the records"
        )
    return float(pair[0]), float(pair[1])


def _texts(name: str, texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list) or any(str(text).startswith(FILL_IN) for text in texts):
        raise InputError(
            f"{name} must be a list of names, such as ['no', 'yes'], got {texts!r}: fill in what "
            "is publicly known, not what occurs in the records"
        )
    return tuple(str(text) for text in texts)
