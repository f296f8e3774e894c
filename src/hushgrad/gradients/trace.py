"""From a loss of one example to a `Program`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from hushgrad.errors import InputError
from hushgrad.gradients import custom, low_rank
from hushgrad.gradients.program import Function, Kind, Loop, Node, Op, Program, Remat

__all__ = ["trace"]

# Calls whose body means the same when it is written out in place.
_INLINED = {"jit", "pjit", "closed_call", "core_call"}
_REMAT = {"checkpoint", "remat", "remat2"}


class _View(NamedTuple):
    """A value at the top, and which loops around its reader take a slice each turn."""

    top: int
    sliced: tuple[bool, ...]


@dataclasses.dataclass(eq=False)
class _Frame:
    """Where operations are being written: the top, a loop's body, a remat's body."""

    parent: _Frame | None = None
    length: int | None = None  # of a loop
    ops: list[Node] = dataclasses.field(default_factory=list)
    slices: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @property
    def loops(self) -> list[_Frame]:
        """The loops around, this one included, outermost first."""
        outer = self.parent.loops if self.parent else []
        return [*outer, self] if self.length is not None else outer


def trace(
    loss: Callable[..., Any],
    parameters: Sequence[Any],
    example: Sequence[Any],
    has_aux: bool = False,
) -> Program:
    """Traces `loss(parameters, example)`, both given as flat lists of shapes and dtypes.

    With `has_aux` the loss returns a pair: the scalar, and a flat list of arrays.

    Raises:
      InputError: if the loss does not return one real floating-point scalar, or
        writes to state that outlives it.
    """
    closed, out = jax.make_jaxpr(loss, return_shape=True)(list(parameters), list(example))
    _check_scalar(out[0] if has_aux else out)
    _check_effects(closed)
    builder = _Builder()
    top = builder.top
    split = len(parameters)
    inputs = [
        builder.value(
            var.aval,
            Kind.DATA
            if i >= split
            else (Kind.PARAMETER if _differentiable(var.aval) else Kind.CONSTANT),
            top,
        )
        for i, var in enumerate(closed.jaxpr.invars)
    ]
    result, *aux = builder.inline(top, closed.jaxpr, closed.consts, inputs)
    return Program(
        ops=tuple(top.ops),
        avals=tuple(builder.avals),
        kinds=tuple(builder.kinds),
        constants=builder.constants,
        parameters=tuple(inputs[:split]),
        data=tuple(inputs[split:]),
        loss=result,
        aux=tuple(aux),
        views={value: (view.top, view.sliced) for value, view in builder.views.items()},
    )


class _Builder:
    """Numbers the values of a jaxpr, writes calls out in place, takes parameters out of loops."""

    def __init__(self) -> None:
        self.top = _Frame()
        self.avals: list[Any] = []
        self.kinds: list[Kind] = []
        self.frames: list[_Frame] = []
        self.constants: dict[int, Any] = {}
        self.views: dict[int, _View] = {}
        self.made: dict[int, Op] = {}  # constants that a loop's body computes
        self.makers: dict[int, Op] = {}  # of values of parameters
        self.regions = 0

    def value(self, aval: Any, kind: Kind, frame: _Frame) -> int:
        self.avals.append(aval)
        self.kinds.append(kind)
        self.frames.append(frame)
        return len(self.avals) - 1

    def constant(self, aval: Any, content: Any) -> int:
        number = self.value(aval, Kind.CONSTANT, self.top)
        if isinstance(content, np.ndarray):  # some backward passes index it by a tracer
            content = jnp.asarray(content, aval.dtype)
        self.constants[number] = content
        return number

    def region(self) -> int:
        self.regions += 1
        return self.regions - 1

    def inline(
        self, frame: _Frame, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]
    ) -> list[int]:
        env = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, content in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.constant(var.aval, content)

        def read(atom: Any) -> int:
            if isinstance(atom, jex.Literal):
                return self.constant(atom.aval, atom.val)
            return env[atom]

        for eqn in jaxpr.eqns:
            outputs = self.equation(frame, eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, frame: _Frame, eqn: Any, args: list[int]) -> list[int]:
        name = eqn.primitive.name
        body = _body(eqn)
        if name in _INLINED and body is not None:
            return self.inline(frame, body.jaxpr, body.consts, args)
        kinds = {self.kinds[value] for value in args}
        if {Kind.PARAMETER, Kind.DATA} <= kinds:
            if name == "scan":
                return self.loop(frame, eqn, args)
            if name in _REMAT:
                return self.remat(frame, eqn, args)
            if name in custom.CALLS:
                outputs = self.custom(frame, eqn, args)
                if outputs is not None:
                    return outputs
            if name == "dot_general":
                outputs = self.low_rank(frame, eqn, args)
                if outputs is not None:
                    return outputs
        return self.emit(frame, eqn.primitive, eqn.params, args, [v.aval for v in eqn.outvars])

    def emit(
        self, frame: _Frame, primitive: Any, params: Any, args: Sequence[int], avals: Sequence[Any]
    ) -> list[int]:
        """Writes one operation: at the top if it reads parameters and no data."""
        kind = max((self.kinds[value] for value in args), default=Kind.CONSTANT)
        if primitive.name == "stop_gradient" and kind is Kind.PARAMETER:
            avals_kinds = [Kind.CONSTANT] * len(avals)
        else:
            avals_kinds = [
                Kind.CONSTANT if kind is Kind.PARAMETER and not _differentiable(aval) else kind
                for aval in avals
            ]
        if kind is Kind.PARAMETER and frame is not self.top:
            views = self.lift(frame, primitive, params, args, avals, avals_kinds)
            if views is not None:
                return [self.place(frame, view) for view in views]
            # It reads a constant that the loop carries from turn to turn: such a product
            # of both is treated as the example's, which is exact too.
            avals_kinds = [Kind.DATA] * len(avals)
        outputs = [self.value(a, k, frame) for a, k in zip(avals, avals_kinds, strict=True)]
        op = Op(primitive, params, tuple(args), tuple(outputs))
        frame.ops.append(op)
        if kind is Kind.PARAMETER and frame is self.top:
            self.makers.update((out, op) for out in outputs)
        if kind is Kind.CONSTANT and frame is not self.top:
            self.made.update((out, op) for out in outputs)
        return outputs

    def lift(
        self,
        frame: _Frame,
        primitive: Any,
        params: Any,
        args: Sequence[int],
        avals: Sequence[Any],
        kinds: Sequence[Kind],
    ) -> list[_View] | None:
        """Writes an operation of a loop's body at the top, over all turns at once."""
        views = [self.view(frame, value) for value in args]
        if any(view is None for view in views):
            return None
        loops = frame.loops
        sliced = [_padded(view, len(loops)) for view in views if view is not None]
        out = tuple(any(s[level] for s in sliced) for level in range(len(loops)))
        axes = tuple(loop.length for loop, used in zip(loops, out, strict=True) if used)
        outputs = tuple(
            self.value(jax.ShapeDtypeStruct((*axes, *aval.shape), aval.dtype), kind, self.top)
            for aval, kind in zip(avals, kinds, strict=True)
        )
        mapped = tuple(tuple(s[level] for s in sliced) for level in range(len(loops)) if out[level])
        inputs = tuple(view.top for view in views if view is not None)
        op = Op(primitive, params, inputs, outputs, mapped)
        self.top.ops.append(op)
        self.makers.update((value, op) for value in outputs)
        return [_View(value, out) for value in outputs]

    def view(self, frame: _Frame, value: int) -> _View | None:
        """Where at the top a value of parameters or constants is found, if it can be."""
        if value in self.views:
            return self.views[value]
        if self.frames[value] is self.top:
            return _View(value, ())
        op = self.made.get(value)
        if op is None:
            return None
        home = self.frames[value]
        avals = [self.avals[v] for v in op.outputs]
        kinds = [Kind.CONSTANT] * len(avals)
        views = self.lift(home, op.primitive, op.params, op.inputs, avals, kinds)
        if views is None:
            return None
        self.views.update(zip(op.outputs, views, strict=True))
        return self.views[value]

    def place(self, frame: _Frame, view: _View) -> int:
        """The value that stands for a slice of one at the top, in every loop on the way."""
        value = view.top
        for level, (loop, used) in enumerate(
            zip(frame.loops, _padded(view, len(frame.loops)), strict=True)
        ):
            if not used:
                continue
            known = next((inner for outer, inner in loop.slices if outer == value), None)
            if known is None:
                aval = self.avals[value]
                known = self.value(
                    jax.ShapeDtypeStruct(aval.shape[1:], aval.dtype), self.kinds[value], loop
                )
                loop.slices.append((value, known))
                self.views[known] = _View(view.top, view.sliced[: level + 1])
            value = known
        return value

    def loop(self, frame: _Frame, eqn: Any, args: list[int]) -> list[int]:
        p, body = eqn.params, eqn.params["jaxpr"]
        start, end = _loop_arguments(p)
        consts, initial, sliced = args[:start], args[start:end], args[end:]
        inner = _Frame(frame, length=p["length"])
        invars = body.jaxpr.invars
        kinds = _carry_kinds(
            body.jaxpr,
            [self.kinds[v] for v in consts],
            [self.kinds[v] for v in initial],
            [self.kinds[v] for v in sliced],
        )
        carry = [
            self.value(var.aval, kind, inner)
            for var, kind in zip(invars[start:end], kinds, strict=True)
        ]
        slices = [
            self.slice(frame, inner, value, var.aval)
            for value, var in zip(sliced, invars[end:], strict=True)
        ]
        results = self.inline(inner, body.jaxpr, body.consts, [*consts, *carry, *slices])
        stacks = [
            self.restacked(frame, inner, value, var.aval)
            for value, var in zip(results[len(carry) :], eqn.outvars[len(carry) :], strict=True)
        ]
        made = [i for i, stack in enumerate(stacks) if stack is None]
        last = [self.value(var.aval, Kind.DATA, frame) for var in eqn.outvars[: len(carry)]]
        outputs = list(last)
        for stack, var in zip(stacks, eqn.outvars[len(carry) :], strict=True):
            outputs.append(self.value(var.aval, Kind.DATA, frame) if stack is None else stack)
        frame.ops.append(
            Loop(
                number=self.region(),
                ops=tuple(inner.ops),
                initial=tuple(initial),
                carry=tuple(carry),
                after=tuple(results[: len(carry)]),
                slices=tuple(inner.slices),
                stacked=tuple(results[len(carry) + i] for i in made),
                outputs=(*last, *(outputs[len(carry) + i] for i in made)),
                length=p["length"],
                reverse=p["reverse"],
                unroll=p["unroll"],
            )
        )
        return outputs

    def restacked(self, frame: _Frame, inner: _Frame, value: int, aval: Any) -> int | None:
        """Where a loop gives back the slices of a parameter, one each turn: the whole."""
        view = self.views.get(value)
        level = len(inner.loops) - 1
        if view is None or len(view.sliced) != level + 1 or not view.sliced[level]:
            return None
        whole = self.place(frame, _View(view.top, view.sliced[:level]))
        return whole if self.avals[whole].shape == aval.shape else None

    def slice(self, frame: _Frame, inner: _Frame, value: int, aval: Any) -> int:
        """The inner value of what a loop scans over."""
        view = None if self.kinds[value] is Kind.DATA else self.view(frame, value)
        if view is not None:
            sliced = (*_padded(view, len(frame.loops)), True)
            return self.place(inner, _View(view.top, sliced))
        slice_ = self.value(aval, self.kinds[value], inner)
        inner.slices.append((value, slice_))
        return slice_

    def remat(self, frame: _Frame, eqn: Any, args: list[int]) -> list[int]:
        jaxpr = eqn.params["jaxpr"]
        inner = _Frame(frame)
        results = self.inline(
            inner, getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()), args
        )
        made = [i for i, value in enumerate(results) if self.frames[value] is inner]
        outputs = list(results)  # what is only passed through is still the same value
        for i in made:
            outputs[i] = self.value(eqn.outvars[i].aval, Kind.DATA, frame)
        frame.ops.append(
            Remat(
                number=self.region(),
                ops=tuple(inner.ops),
                inner=tuple(results[i] for i in made),
                outputs=tuple(outputs[i] for i in made),
                policy=eqn.params["policy"],
                prevent_cse=eqn.params["prevent_cse"],
            )
        )
        return outputs

    def low_rank(self, frame: _Frame, eqn: Any, args: list[int]) -> list[int] | None:
        """A contraction with a matrix that has a low-rank part, as one with each of its parts."""
        position = next(i for i, v in enumerate(args) if self.kinds[v] is Kind.PARAMETER)
        found = low_rank.find(
            args[position], position, eqn.params, self.avals, self.kinds, self.makers
        )
        if found is None:
            return None
        inputs = [args[1 - position], *found.parts]
        shapes = [jax.ShapeDtypeStruct(self.avals[v].shape, self.avals[v].dtype) for v in inputs]
        closed = jax.make_jaxpr(found.apart)(*shapes)
        return self.inline(frame, closed.jaxpr, closed.consts, inputs)

    def custom(self, frame: _Frame, eqn: Any, args: list[int]) -> list[int] | None:
        """A function with its own derivative: its value, and its derivative as a program."""
        op = Op(eqn.primitive, eqn.params, (), ())
        expanded = custom.expand(op, [self.avals[v] for v in args])
        if expanded is None:
            return None

        def apply(function: Function, *values: int) -> int:
            (out,) = self.emit(frame, function, {}, values, [self.avals[values[0]]])
            return out

        moving = [args[i] for i in expanded.moving]
        primals = list(args)
        for i in expanded.moving:
            primals[i] = apply(custom.FIXED, args[i])
        departures = [apply(custom.DEPARTURE, value) for value in moving]
        closed = expanded.jaxpr
        results = self.inline(frame, closed.jaxpr, closed.consts, [*primals, *departures])
        count = len(eqn.outvars)
        values, tangents = results[:count], results[count:]
        for i, tangent in zip(expanded.moved, tangents, strict=True):
            values[i] = apply(custom.ATTACH, values[i], tangent)
        return values


def _loop_arguments(params: dict[str, Any]) -> tuple[int, int]:
    """Where a scan's arguments begin that are carried on, and where they end."""
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    # From JAX 0.11 on.
    consts, carry, _ = (len(list(part)) for part in params["ft_in"].unpack())
    return consts, consts + carry


def _padded(view: _View, levels: int) -> tuple[bool, ...]:
    return (*view.sliced, *(False for _ in range(levels - len(view.sliced))))


def _body(eqn: Any) -> jex.ClosedJaxpr | None:
    return eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")


def _carry_kinds(
    jaxpr: Any, consts: list[Kind], initial: list[Kind], slices: list[Kind]
) -> list[Kind]:
    """Constant where neither the start nor any turn brings in parameters or data."""
    carry = list(initial)
    while True:
        after = _flow(jaxpr, [*consts, *carry, *slices])[: len(carry)]
        joined = [max(a, b) for a, b in zip(carry, after, strict=True)]
        if joined == carry:
            break
        carry = joined
    # What is made of parameters alone, turn by turn, is treated as the example's.
    return [Kind.CONSTANT if kind is Kind.CONSTANT else Kind.DATA for kind in carry]


def _flow(jaxpr: Any, inputs: Sequence[Kind]) -> list[Kind]:
    kinds: dict[Any, Kind] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Kind:
        return Kind.CONSTANT if isinstance(atom, jex.Literal) else kinds.get(atom, Kind.CONSTANT)

    for eqn in jaxpr.eqns:
        read_kinds = [read(atom) for atom in eqn.invars]
        body = _body(eqn)
        if eqn.primitive.name in _INLINED and body is not None:
            outputs = _flow(body.jaxpr, read_kinds)
        else:
            outputs = [max(read_kinds, default=Kind.CONSTANT)] * len(eqn.outvars)
        kinds.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _differentiable(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, np.inexact))


def _check_scalar(out: Any) -> None:
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or not jax.tree_util.all_leaves([out]):
        raise InputError(
            "loss must return one scalar for one example, got "
            f"{jax.tree.structure(out)}; return the loss alone, or a pair with has_aux=True"
        )
    shape, dtype = leaves[0].shape, leaves[0].dtype
    if shape != ():
        raise InputError(
            f"loss must return a scalar for one example, got shape {shape}: it sees ONE "
            "example, without a batch axis; reduce its output, for instance with jnp.sum"
        )
    if not jnp.issubdtype(dtype, np.floating):
        raise InputError(f"loss must return a real floating-point number, got {dtype}")


def _check_effects(closed: Any) -> None:
    effects = sorted(str(effect) for effect in closed.effects)
    if effects:
        raise InputError(
            f"loss must have no side effects, got {', '.join(effects)}: what it writes would "
            "mix examples and leave without noise; return it with has_aux=True, or leave it out"
        )
