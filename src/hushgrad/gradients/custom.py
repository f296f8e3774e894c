"""Functions with their own derivative (`jax.custom_jvp`, `jax.custom_vjp`).

Their derivative is what the user wrote, not that of the body, so the body must not
be written out in place. Instead the function `f(x, w)` becomes

    attach(f(x0, w0), T(x0, w0; x - x0, w - w0))

with `x0, w0` held fixed and `T` the linear map of tangents that the user's rule
defines. Its value is that of `f`, its derivative that of the rule, and `T` is an
ordinary program in which parameters meet data at ordinary places.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax

from hushgrad.gradients.program import Function, Op

__all__ = ["ATTACH", "CALLS", "DEPARTURE", "FIXED", "Expanded", "expand"]

CALLS = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


@jax.custom_jvp
def _departure(x: Any) -> Any:
    """`x - stop_gradient(x)`, without the arithmetic: infinity minus itself is NaN."""
    return jnp.zeros_like(x)


_departure.defjvp(lambda primals, tangents: (_departure(*primals), tangents[0]))


@jax.custom_jvp
def _attach(value: Any, tangent: Any) -> Any:
    """The first argument's value with the second's derivative."""
    del tangent
    return value


_attach.defjvp(lambda primals, tangents: (primals[0], tangents[1]))

FIXED = Function("stop_gradient", lax.stop_gradient)
DEPARTURE = Function("departure", _departure)
ATTACH = Function("attach", _attach)


@dataclasses.dataclass(frozen=True)
class Expanded:
    """A custom call as a program of values and tangents.

    Attributes:
      jaxpr: from all inputs and the tangents of `moving` to all outputs and the
        tangents of `moved`.
      moving: positions of the inputs that have tangents.
      moved: positions of the outputs that have tangents.
    """

    jaxpr: jex.ClosedJaxpr
    moving: tuple[int, ...]
    moved: tuple[int, ...]


def expand(op: Op, avals: list[Any]) -> Expanded | None:
    """The call's value and derivative, or None where the derivative is not a linear map.

    The latter are rules for the backward pass that cannot be transposed, for instance
    those that clip the gradient: they are differentiated as they are, per example.
    """
    consts = op.params.get("num_consts", 0)  # closed-over arrays: not differentiated
    moving = tuple(
        i for i, aval in enumerate(avals) if i >= consts and jnp.issubdtype(aval.dtype, np.inexact)
    )
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]

    def call(inputs: list[Any], chosen: tuple[Any, ...]) -> tuple[Any, ...]:
        args = list(inputs)
        for i, value in zip(moving, chosen, strict=True):
            args[i] = value
        return op.bind(*args)

    outputs = jax.eval_shape(lambda inputs: op.bind(*inputs), shapes)
    moved = tuple(i for i, out in enumerate(outputs) if jnp.issubdtype(out.dtype, np.inexact))
    if op.primitive.name != "custom_jvp_call" and len(moved) != len(outputs):
        return None

    def both(inputs: list[Any], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        primals = tuple(inputs[i] for i in moving)

        def f(*chosen: Any) -> tuple[Any, ...]:
            return call(inputs, chosen)

        if op.primitive.name == "custom_jvp_call":
            values, moves = jax.jvp(f, primals, tangents)
        else:
            values, pull = jax.vjp(f, *primals)
            like = tuple(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values)
            (moves,) = jax.linear_transpose(pull, like)(tangents)
        return list(values), [moves[i] for i in moved]

    try:
        jaxpr = jax.make_jaxpr(both)(shapes, tuple(shapes[i] for i in moving))
    except Exception:  # JAX raises many kinds for a backward pass that is not linear
        return None
    return Expanded(jaxpr, moving, moved)
