"""How a value is made of parameters alone, and whether that keeps a gradient's norm."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hushgrad.gradients.program import Kind, Op, Program
from hushgrad.gradients.rules.lookup import positions

__all__ = ["Path", "Paths", "Region", "disjoint"]

# They change neither the numbers nor their places, only the type.
_CASTS = frozenset(
    {
        "convert_element_type",
        "copy",
        "departure",
        "optimization_barrier",
        "reduce_precision",
        "sharding_constraint",
    }
)
_MOVES = frozenset({"reshape", "squeeze", "expand_dims", "rev", "neg"})
_LARGEST_INDEX = 1 << 22  # constant lookups with more indices are not looked into


@dataclasses.dataclass(frozen=True)
class Region:
    """The part of a parameter that a value is made of.

    Attributes:
      parameter: position in the flat list of parameters.
      box: start, limit and stride along each dimension; it holds all entries that
        the value reads, and perhaps more.
    """

    parameter: int
    box: tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Path:
    """How a value is made of parameters.

    Attributes:
      regions: what it is made of.
      shape_only: by operations that only move, repeat or negate entries, so the way
        back can run in any dtype.
      keeps_norm: each entry appears at most once, up to its sign: the norm of a
        gradient by the value is that by the parameters.
      frame: where the value is one parameter with its dimensions in another order:
        which dimension of the parameter each of its own is.
      entrywise: beside that only multiplied with constants, entry by entry.
      why: the operation that broke the rule, where not `shape_only`.
    """

    regions: tuple[Region, ...]
    shape_only: bool = True
    keeps_norm: bool = True
    frame: tuple[int, ...] | None = None
    entrywise: bool = True
    why: str = ""

    @property
    def parameters(self) -> tuple[int, ...]:
        """Positions of the parameters."""
        return tuple(sorted({region.parameter for region in self.regions}))


def disjoint(first: tuple[Region, ...], second: tuple[Region, ...]) -> bool:
    """Whether no entry of a parameter is certainly or possibly in both."""
    return all(
        a.parameter != b.parameter or any(map(_apart, a.box, b.box)) for a in first for b in second
    )


def _apart(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    (start, limit, stride), (other, end, step) = first, second
    if limit <= other or end <= start:
        return True
    # Two combs of one pitch with different offsets never meet.
    return stride == step and (start - other) % stride != 0


class Paths:
    """The paths of a program's values, each found once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._number = {value: i for i, value in enumerate(program.parameters)}
        self._known: dict[int, Path] = {}

    def __getitem__(self, value: int) -> Path:
        """The path of a value at the top that depends on parameters alone."""
        if value not in self._known:
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: int) -> Path:
        aval = self._program.avals[value]
        if value in self._number:
            box = tuple((0, n, 1) for n in aval.shape)
            frame = tuple(range(len(aval.shape)))
            return Path((Region(self._number[value], box),), frame=frame)
        op = self._program.producer(value)
        if not isinstance(op, Op):
            raise AssertionError(f"value {value} is no parameter and has no producer")
        kinds = [self._program.kinds[v] for v in op.inputs]
        sources = [self[v] for v, k in zip(op.inputs, kinds, strict=True) if k is Kind.PARAMETER]
        path = self._step(op, value, sources) if self._real(op) else None
        if path is None:
            regions = tuple(dict.fromkeys(r for source in sources for r in source.regions))
            scaled = op.primitive.name == "mul" or (
                op.primitive.name == "div" and kinds[0] is Kind.PARAMETER
            )
            entrywise = scaled and len(sources) == 1 and sources[0].entrywise
            why = (sources[0].why if entrywise else "") or op.primitive.name
            return Path(regions, False, False, None, entrywise, why)
        if not self._once_each(op):
            path = dataclasses.replace(path, keeps_norm=False)
        return path

    def _real(self, op: Op) -> bool:
        values = [v for v in op.inputs if self._program.kinds[v] is Kind.PARAMETER]
        return all(
            jnp.issubdtype(self._program.avals[v].dtype, jnp.floating)
            for v in (*values, *op.outputs)
        )

    def _once_each(self, op: Op) -> bool:
        """Whether a loop's turns take different slices, not the same value again and again."""
        parameters = [self._program.kinds[v] is Kind.PARAMETER for v in op.inputs]
        return all(
            sliced or not parameter
            for level in op.mapped
            for sliced, parameter in zip(level, parameters, strict=True)
        )

    def _step(self, op: Op, value: int, sources: list[Path]) -> Path | None:
        """The path after one operation that moves entries, or None for any other."""
        name = op.primitive.name
        if name in {"concatenate", "stack"}:
            return self._concatenated(op, sources)
        if len(sources) != 1:
            return None
        (source,) = sources
        plain = not op.mapped
        if name in _CASTS:
            return source if len(op.inputs) == 1 else None
        moved = dataclasses.replace(source, frame=None)
        if name in {"add", "sub"} and self._shifted(op, value):
            return moved if name == "sub" else source
        if name == "tile":
            return dataclasses.replace(moved, keeps_norm=False)
        if name in _MOVES:
            return moved
        if name == "transpose":
            if plain and source.frame is not None:
                order = op.params["permutation"]
                return dataclasses.replace(source, frame=tuple(source.frame[d] for d in order))
            return moved
        if name == "broadcast_in_dim":
            repeated = self._size(op.inputs[0]) != self._size(value)
            return dataclasses.replace(moved, keeps_norm=source.keeps_norm and not repeated)
        if name == "slice":
            strides = op.params["strides"] or [1] * len(op.params["start_indices"])
            limits = zip(
                op.params["start_indices"], op.params["limit_indices"], strides, strict=True
            )
            return self._boxed(source, list(limits)) if plain else moved
        if name == "split":
            return self._boxed(source, self._piece(op, value)) if plain else moved
        if name in {"gather", "dynamic_slice"}:
            return self._selected(op, moved)
        return None

    def _concatenated(self, op: Op, sources: list[Path]) -> Path | None:
        if len(sources) != len(op.inputs):
            return None
        apart = all(
            disjoint(first.regions, second.regions)
            for i, first in enumerate(sources)
            for second in sources[:i]
        )
        return Path(
            tuple(dict.fromkeys(r for source in sources for r in source.regions)),
            shape_only=all(source.shape_only for source in sources),
            keeps_norm=apart and all(source.keeps_norm for source in sources),
        )

    def _boxed(self, source: Path, cut: list[tuple[int, int, int]]) -> Path:
        """The path after a slice: its box is cut as long as dimensions can be followed."""
        if source.frame is None or len(source.regions) != 1:
            return dataclasses.replace(source, frame=None)
        (region,) = source.regions
        box = list(region.box)
        for dimension, (start, limit, stride) in zip(source.frame, cut, strict=True):
            first, _, step = box[dimension]
            box[dimension] = (first + start * step, first + (limit - 1) * step + 1, step * stride)
        return dataclasses.replace(source, regions=(Region(region.parameter, tuple(box)),))

    def _piece(self, op: Op, value: int) -> list[tuple[int, int, int]]:
        """Which slice an output of `split` is."""
        sizes, axis = op.params["sizes"], op.params["axis"]
        which = op.outputs.index(value)
        shape = self._program.avals[op.inputs[0]].shape
        cut = [(0, n, 1) for n in shape]
        start = int(sum(sizes[:which]))
        cut[axis] = (start, start + int(sizes[which]), 1)
        return cut

    def _selected(self, op: Op, moved: Path) -> Path | None:
        """A lookup whose indices are constants: it keeps norms if no entry is read twice."""
        if op.primitive.name == "dynamic_slice" and not op.mapped:
            return moved
        repeated = dataclasses.replace(moved, keeps_norm=False)
        size = sum(self._size(v) for v in op.inputs[1:])
        if op.mapped or op.inputs[0] not in self._known or size > _LARGEST_INDEX:
            return repeated
        avals = tuple(self._program.avals[v] for v in op.inputs)
        try:
            with jax.ensure_compile_time_eval():
                indices = self._program.evaluate(list(op.inputs[1:]), {})
                ids = np.asarray(positions(op, avals, tuple(indices))[0])
        except (KeyError, jax.errors.JAXTypeError):
            return repeated  # an integer parameter, or a value that an outer function traces
        ids = ids[ids >= 0]
        return moved if len(np.unique(ids)) == ids.size else repeated

    def _shifted(self, op: Op, value: int) -> bool:
        """A sum of parameters and constants, of which the former are as large as the sum."""
        kinds = [self._program.kinds[v] for v in op.inputs]
        parameter = op.inputs[kinds.index(Kind.PARAMETER)]
        return not op.mapped and self._size(parameter) == self._size(value)

    def _size(self, value: int) -> int:
        return math.prod(self._program.avals[value].shape)

    def bind(self, op: Op, *args: Any) -> tuple[Any, ...]:
        """Runs a step of a path that only moves entries, with its derivative, in any dtype.

        Casts are passed over, and constants that are added.
        """
        name = op.primitive.name
        if name in _CASTS:
            return args
        kinds = [self._program.kinds[v] for v in op.inputs]
        if name not in {"add", "sub"} or Kind.PARAMETER not in kinds:
            return op.bind(*args)
        which = kinds.index(Kind.PARAMETER)
        out = args[which].reshape(self._program.avals[op.outputs[0]].shape)
        return (-out if name == "sub" and which == 1 else out,)
