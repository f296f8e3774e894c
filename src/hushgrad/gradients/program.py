"""The loss of one example as a flat list of operations.

The user's loss is traced once, calls are inlined, and every value is sorted by
what it depends on: the parameters alone, the example, or neither. An operation
that reads a value of the first kind and one of the second is where a parameter
meets data; everything the engine does happens there.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from hushgrad.errors import InputError

__all__ = ["Kind", "Op", "Program", "trace"]

# Calls whose body means the same when it is written out in place.
_INLINED = {"jit", "pjit", "closed_call", "core_call"}


class Kind(enum.Enum):
    """What a value depends on."""

    CONSTANT = "neither parameters nor data"
    PARAMETER = "parameters alone"
    DATA = "the example"


@dataclasses.dataclass(frozen=True)
class Op:
    """One primitive application; inputs and outputs are numbers of values."""

    primitive: jex.Primitive
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def bind(self, *args: Any, **overrides: Any) -> tuple[Any, ...]:
        """Applies the primitive; `overrides` replace entries of its params."""
        bound = self.primitive.get_bind_params({**self.params, **overrides})
        # Before JAX 0.8 the functions among the params came as a separate list.
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        out = self.primitive.bind(*functions, *args, **params)
        return tuple(out) if self.primitive.multiple_results else (out,)


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced loss: operations in order, over values numbered from zero."""

    ops: tuple[Op, ...]
    avals: tuple[Any, ...]
    kinds: tuple[Kind, ...]
    constants: Mapping[int, Any]
    parameters: tuple[int, ...]
    data: tuple[int, ...]
    loss: int

    def producer(self, value: int) -> Op | None:
        """The operation that makes `value`, or None for an input or a constant."""
        return self._producers.get(value)

    @functools.cached_property
    def _producers(self) -> dict[int, Op]:
        return {out: op for op in self.ops for out in op.outputs}

    def ancestors(self, values: Iterable[int]) -> set[int]:
        """All values that `values` are computed from, themselves included."""
        seen: set[int] = set()
        todo = list(values)
        while todo:
            value = todo.pop()
            if value not in seen:
                seen.add(value)
                op = self.producer(value)
                todo.extend(op.inputs if op else ())
        return seen

    def evaluate(
        self,
        values: Sequence[int],
        known: Mapping[int, Any],
        bind: Callable[..., tuple[Any, ...]] = Op.bind,
    ) -> list[Any]:
        """Computes `values` from the `known` ones, running only what they need."""
        env = {**self.constants, **known}
        needed = self._needed(values, env)
        for op in self.ops:
            if needed.intersection(op.outputs):
                env.update(zip(op.outputs, bind(op, *(env[i] for i in op.inputs)), strict=True))
        return [env[v] for v in values]

    def _needed(self, values: Iterable[int], known: Mapping[int, Any]) -> set[int]:
        needed: set[int] = set()
        todo = list(values)
        while todo:
            value = todo.pop()
            if value not in needed and value not in known:
                needed.add(value)
                op = self.producer(value)
                todo.extend(op.inputs if op else ())
        return needed


def trace(loss: Callable[..., Any], parameters: Sequence[Any], example: Sequence[Any]) -> Program:
    """Traces `loss(parameters, example)`, both given as flat lists of shapes and dtypes.

    Raises:
      InputError: if the loss does not return one real floating-point scalar.
    """
    closed, out = jax.make_jaxpr(loss, return_shape=True)(list(parameters), list(example))
    _check_scalar(out)
    builder = _Builder()
    inputs = [builder.value(var.aval) for var in closed.jaxpr.invars]
    (result,) = builder.inline(closed.jaxpr, closed.consts, inputs)
    split = len(parameters)
    kinds = _kinds(builder, inputs[:split], inputs[split:])
    return Program(
        ops=tuple(builder.ops),
        avals=tuple(builder.avals),
        kinds=tuple(kinds),
        constants=builder.constants,
        parameters=tuple(inputs[:split]),
        data=tuple(inputs[split:]),
        loss=result,
    )


class _Builder:
    """Numbers the values of a jaxpr and writes its calls out in place."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.avals: list[Any] = []
        self.constants: dict[int, Any] = {}

    def value(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, aval: Any, content: Any) -> int:
        number = self.value(aval)
        self.constants[number] = content
        return number

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]) -> list[int]:
        env = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, content in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.constant(var.aval, content)

        def read(atom: Any) -> int:
            if isinstance(atom, jex.Literal):
                return self.constant(atom.aval, atom.val)
            return env[atom]

        for eqn in jaxpr.eqns:
            args = [read(atom) for atom in eqn.invars]
            body = _body(eqn)
            if body is not None:
                outputs = self.inline(body.jaxpr, body.consts, args)
            else:
                outputs = [self.value(var.aval) for var in eqn.outvars]
                self.ops.append(Op(eqn.primitive, eqn.params, tuple(args), tuple(outputs)))
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def _body(eqn: Any) -> jex.ClosedJaxpr | None:
    if eqn.primitive.name not in _INLINED:
        return None
    return eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")


def _kinds(builder: _Builder, parameters: Sequence[int], data: Sequence[int]) -> list[Kind]:
    kinds = [Kind.CONSTANT] * len(builder.avals)
    for value in data:
        kinds[value] = Kind.DATA
    for value in parameters:
        if _differentiable(builder.avals[value]):
            kinds[value] = Kind.PARAMETER
    for op in builder.ops:
        read = {kinds[value] for value in op.inputs}
        for out in op.outputs:
            if Kind.DATA in read:
                kinds[out] = Kind.DATA
            elif (
                Kind.PARAMETER in read
                and _differentiable(builder.avals[out])
                and op.primitive.name != "stop_gradient"
            ):
                kinds[out] = Kind.PARAMETER
    return kinds


def _differentiable(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, np.inexact))


def _check_scalar(out: Any) -> None:
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or not jax.tree_util.all_leaves([out]):
        raise InputError(
            "loss must return one scalar for one example, got "
            f"{jax.tree.structure(out)}; return the loss alone"
        )
    shape, dtype = leaves[0].shape, leaves[0].dtype
    if shape != ():
        raise InputError(
            f"loss must return a scalar for one example, got shape {shape}: it sees ONE "
            "example, without a batch axis; reduce its output, for instance with jnp.sum"
        )
    if not jnp.issubdtype(dtype, np.floating):
        raise InputError(f"loss must return a real floating-point number, got {dtype}")
