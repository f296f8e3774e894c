"""The loss of one example as operations over numbered values.

Every value is sorted by what it depends on: the parameters alone, the example, or
neither. An operation that reads a value of the first kind and one of the second is
where a parameter meets data; everything the engine does happens there.

Values made of parameters alone are always computed at the top, also those that the
loss computes inside a loop: a loop then reads them whole or one slice a turn. So a
region (a loop, a rematerialised part) holds only what depends on the example.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

__all__ = ["Function", "Kind", "Loop", "Node", "Op", "Program", "Remat", "walk"]


class Kind(enum.IntEnum):
    """What a value depends on; a value made of several takes the highest."""

    CONSTANT = 0
    PARAMETER = 1
    DATA = 2


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of arrays that stands where a JAX primitive stands."""

    name: str
    function: Callable[..., Any]
    multiple_results: bool = False

    def bind(self, *args: Any) -> Any:
        """Calls the function."""
        return self.function(*args)

    def get_bind_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """None: a function has only its arguments."""
        return params


@dataclasses.dataclass(frozen=True)
class Op:
    """One primitive application; inputs and outputs are numbers of values.

    `mapped` says, for each loop that the operation was taken out of (outermost
    first), which inputs have a leading axis with one slice for each turn.
    """

    primitive: jex.Primitive | Function
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    mapped: tuple[tuple[bool, ...], ...] = ()

    def bind(self, *args: Any, **overrides: Any) -> tuple[Any, ...]:
        """Applies the primitive; `overrides` replace entries of its params."""
        bound = self.primitive.get_bind_params({**self.params, **overrides})
        # Before JAX 0.8 the functions among the params came as a separate list.
        functions, params = bound if isinstance(bound, tuple) else ((), bound)

        def run(*args: Any) -> tuple[Any, ...]:
            out = self.primitive.bind(*functions, *args, **params)
            return tuple(out) if self.primitive.multiple_results else (out,)

        for sliced in reversed(self.mapped):
            run = jax.vmap(run, in_axes=tuple(0 if s else None for s in sliced))
        return run(*args)


@dataclasses.dataclass(frozen=True)
class Loop:
    """A `scan` whose body depends on the example.

    Attributes:
      number: which region this is.
      ops: what one turn does.
      initial: the outer values that the carry starts from.
      carry: the inner values that the carry has in a turn.
      after: the inner values that the next turn's carry is.
      slices: pairs of an outer value and the inner value that is its slice.
      stacked: the inner values of which every turn gives one slice.
      outputs: outer values: the last carry, then the stacks.
      length, reverse, unroll: as in `jax.lax.scan`.
    """

    number: int
    ops: tuple[Node, ...]
    initial: tuple[int, ...]
    carry: tuple[int, ...]
    after: tuple[int, ...]
    slices: tuple[tuple[int, int], ...]
    stacked: tuple[int, ...]
    outputs: tuple[int, ...]
    length: int
    reverse: bool
    unroll: Any

    @property
    def inputs(self) -> tuple[int, ...]:
        """Outer values that the loop starts from or slices."""
        return (*self.initial, *(outer for outer, _ in self.slices), *self.after, *self.stacked)


@dataclasses.dataclass(frozen=True)
class Remat:
    """A part that is computed again in the backward pass (`jax.checkpoint`).

    Attributes:
      number: which region this is.
      ops: what it does, on outer values.
      inner: what it returns.
      outputs: the outer values that these become.
      policy, prevent_cse: as in `jax.checkpoint`.
    """

    number: int
    ops: tuple[Node, ...]
    inner: tuple[int, ...]
    outputs: tuple[int, ...]
    policy: Any
    prevent_cse: Any

    @property
    def inputs(self) -> tuple[int, ...]:
        """What it returns; its operations name what they read."""
        return self.inner


Node = Op | Loop | Remat


def walk(nodes: Iterable[Node], within: tuple[int, ...] = ()) -> Iterator[tuple[Node, tuple]]:
    """All operations and regions, each with the numbers of the regions that it stands in."""
    for node in nodes:
        yield node, within
        if not isinstance(node, Op):
            yield from walk(node.ops, (*within, node.number))


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced loss.

    Attributes:
      ops: in order; what depends on parameters alone stands here, never in a region.
      avals: shape and dtype of each value, in a loop those of one turn.
      kinds: of each value.
      constants: values known at trace time.
      parameters, data: the inputs.
      loss: the loss's value.
      aux: further results.
      views: for a value of parameters or constants that a loop slices: the value at
        the top, and for each loop around it whether there is one slice for each turn.
    """

    ops: tuple[Node, ...]
    avals: tuple[Any, ...]
    kinds: tuple[Kind, ...]
    constants: Mapping[int, Any]
    parameters: tuple[int, ...]
    data: tuple[int, ...]
    loss: int
    aux: tuple[int, ...]
    views: Mapping[int, tuple[int, tuple[bool, ...]]]

    def producer(self, value: int) -> Node | None:
        """What makes `value` at the top, or None for an input, a constant, an inner value."""
        return self._producers.get(value)

    @functools.cached_property
    def _producers(self) -> dict[int, Node]:
        return {out: op for op in self.ops for out in op.outputs}

    @functools.cached_property
    def regions(self) -> Mapping[int, Loop | Remat]:
        """Every loop and rematerialised part by its number."""
        return {node.number: node for node, _ in walk(self.ops) if not isinstance(node, Op)}

    @functools.cached_property
    def home(self) -> Mapping[int, tuple[int, ...]]:
        """For every value made inside regions, their numbers, outermost first."""
        homes: dict[int, tuple[int, ...]] = {}
        for node, within in walk(self.ops):
            homes.update((out, within) for out in node.outputs if within)
            if isinstance(node, Loop):
                inner = (*node.carry, *(value for _, value in node.slices))
                homes.update((value, (*within, node.number)) for value in inner)
        return homes

    @functools.cached_property
    def sliced_from(self) -> Mapping[int, int]:
        """The outer value of every inner value that is a slice of one."""
        loops = [node for node, _ in walk(self.ops) if isinstance(node, Loop)]
        return {inner: outer for loop in loops for outer, inner in loop.slices}

    @functools.cached_property
    def live(self) -> frozenset[int]:
        """All values, in regions too, that the loss may depend on."""
        live = {self.loss}
        _mark(self.ops, live)
        return frozenset(live)

    def ancestors(self, values: Iterable[int], known: Iterable[int] = ()) -> set[int]:
        """All values at the top that `values` are computed from, themselves included.

        The search stops at `known` values, which are left out.
        """
        seen: set[int] = set()
        stop = set(known)
        todo = list(values)
        while todo:
            value = todo.pop()
            if value not in seen and value not in stop:
                seen.add(value)
                node = self.producer(value)
                todo.extend(node.inputs if node else ())
        return seen

    def evaluate(
        self,
        values: Sequence[int],
        known: Mapping[int, Any],
        bind: Callable[..., tuple[Any, ...]] = Op.bind,
    ) -> list[Any]:
        """Computes `values`, none of which depends on data, from the `known` ones."""
        env = {**self.constants, **known}
        needed = self.ancestors(values, env)
        for op in self.ops:
            if isinstance(op, Op) and needed.intersection(op.outputs):
                env.update(zip(op.outputs, bind(op, *(env[i] for i in op.inputs)), strict=True))
        return [env[v] for v in values]


def _mark(nodes: Sequence[Node], live: set[int]) -> None:
    """Adds what `live` values are computed from, going backwards."""
    for node in reversed(nodes):
        if not live.intersection(node.outputs):
            continue
        if isinstance(node, Op):
            live.update(node.inputs)
        elif isinstance(node, Remat):
            pairs = zip(node.inner, node.outputs, strict=True)
            live.update(inner for inner, outer in pairs if outer in live)
            _mark(node.ops, live)
        else:
            _mark_loop(node, live)


def _mark_loop(loop: Loop, live: set[int]) -> None:
    count = len(loop.carry)
    results = zip(loop.stacked, loop.outputs[count:], strict=True)
    live.update(inner for inner, outer in results if outer in live)
    turns = zip(loop.carry, loop.after, loop.initial, loop.outputs[:count], strict=True)
    carried = list(turns)
    live.update(after for _, after, _, outer in carried if outer in live)
    while True:
        before = len(live)
        _mark(loop.ops, live)
        live.update(after for inner, after, _, _ in carried if inner in live)
        if len(live) == before:
            break
    live.update(initial for inner, _, initial, _ in carried if inner in live)
    live.update(outer for outer, inner in loop.slices if inner in live)
