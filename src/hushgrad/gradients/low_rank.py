"""A matrix with a low-rank part (LoRA), taken apart where it meets data.

`x (W + s A B)` is `x W + s (x A) B`. In the second form no factor is multiplied with the other
before it meets the data, so each has a rule of its own and no example's gradient is ever built
in the size of W (Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from hushgrad.gradients.program import Kind, Op

__all__ = ["LowRank", "find"]


class LowRank(NamedTuple):
    """A contraction of data with a matrix that has a low-rank part.

    Attributes:
      apart: the same contraction, of data and then the values in `parts`.
      parts: the product's two factors, what it is added to where there is such, its scales.
    """

    apart: Callable[..., Any]
    parts: tuple[int, ...]


class _Product(NamedTuple):
    op: Op
    scales: tuple[int, ...]
    rest: tuple[int, ...] = ()


def find(
    matrix: int,
    position: int,
    params: Mapping[str, Any],
    avals: Sequence[Any],
    kinds: Sequence[Kind],
    makers: Mapping[int, Op],
) -> LowRank | None:
    """How a `dot_general` that reads `matrix` as operand `position` is taken apart.

    Args:
      matrix: a value of parameters alone.
      position: 0 or 1.
      params: of the `dot_general`.
      avals: shape and dtype of every value.
      kinds: of every value.
      makers: the operations at the top that values of parameters come from.

    Returns:
      None where the matrix has no such part, or the part is not of low rank.
    """
    (contracted, batch) = params["dimension_numbers"]
    found = _summed(matrix, avals, kinds, makers)
    if found is None or batch[position] or params.get("out_sharding") is not None:
        return None
    inner, outer = found.op.params["dimension_numbers"]
    if any(outer) or len(inner[0]) != 1:
        return None
    (a, b), (shared_a, shared_b) = found.op.inputs, (inner[0][0], inner[1][0])
    rows, columns = _others(avals[a], shared_a), _others(avals[b], shared_b)
    depth, width = (
        math.prod(avals[v].shape[d] for d in dims) for v, dims in ((a, rows), (b, columns))
    )
    wanted, first = contracted[position], all(d < len(rows) for d in contracted[position])
    low = avals[a].shape[shared_a] * (depth + width) < depth * width
    if not low or not wanted or not (first or all(d >= len(rows) for d in wanted)):
        return None
    meets = [(rows + columns)[d] for d in wanted]
    near, far = ((a, shared_a), (b, shared_b)) if first else ((b, shared_b), (a, shared_a))
    left = [d for d in range(len(avals[near[0]].shape)) if d not in meets]
    # Where the matrix's own dimensions are among [near's, far's].
    kept, given = len(left) - 1, len(rows) + len(columns) - len(wanted)
    order = [*range(given)] if first else [*range(kept, given), *range(kept)]
    plan = _Plan(position, params, meets, left.index(near[1]), far[1], order, bool(found.rest))
    apart = functools.partial(_apart, plan, avals[matrix].dtype)
    return LowRank(apart, (near[0], far[0], *found.rest, *found.scales))


class _Plan(NamedTuple):
    """How a contraction is taken apart.

    Attributes:
      position: of the matrix among the operands.
      params: of the contraction.
      meets: dimensions of the near factor, which meets data first, that are contracted.
      shared: which of its other dimensions the far factor shares.
      its: that dimension of the far factor.
      order: where the matrix's dimensions are among those left of the near and the far factor.
      added: whether the product is added to something else.
    """

    position: int
    params: Mapping[str, Any]
    meets: list[int]
    shared: int
    its: int
    order: list[int]
    added: bool


def _apart(plan: _Plan, dtype: Any, x: Any, near: Any, far: Any, *others: Any) -> Any:
    """The contraction, with what the product is added to and its scales among `others`."""
    precise = {name: plan.params[name] for name in ("precision", "preferred_element_type")}
    dimensions, last = plan.params["dimension_numbers"], plan.position == 1
    free = x.ndim - len(plan.meets)
    first = ((dimensions[0][1 - plan.position], plan.meets), ((), ()))
    h = lax.dot_general(x, near.astype(dtype), first, **precise).astype(dtype)
    second = (((free + plan.shared,), (plan.its,)), ((), ()))
    z = lax.dot_general(h, far.astype(dtype), second, **precise)
    own, its = range(free), [free + d for d in plan.order]
    z = lax.transpose(z, [*own, *its] if last else [*its, *own])
    for scale in others[1:] if plan.added else others:
        z = z * jnp.asarray(scale, z.dtype)
    if not plan.added:
        return z
    rest = others[0].astype(dtype)
    whole = lax.dot_general(*((x, rest) if last else (rest, x)), dimensions, **precise)
    return whole + z.astype(whole.dtype)


def _summed(
    value: int, avals: Sequence[Any], kinds: Sequence[Kind], makers: Mapping[int, Op]
) -> _Product | None:
    """The product in a value that is one, or one added to something else of its size."""
    op = _uncast(value, avals, makers)
    if op is not None and op.primitive.name == "add":
        for product, rest in (op.inputs, op.inputs[::-1]):
            found = _scaled(product, avals, kinds, makers)
            if (
                found is not None
                and avals[rest].shape == avals[value].shape == avals[product].shape
            ):
                return found._replace(rest=(rest,))
        return None
    return _scaled(value, avals, kinds, makers)


def _scaled(
    value: int, avals: Sequence[Any], kinds: Sequence[Kind], makers: Mapping[int, Op]
) -> _Product | None:
    """The product of two parameters that a value is, but for a constant factor."""
    scales: list[int] = []
    while (op := _uncast(value, avals, makers)) is not None:
        name = op.primitive.name
        if name == "dot_general":
            both = all(kinds[v] is Kind.PARAMETER for v in op.inputs)
            return _Product(op, tuple(scales)) if both else None
        if name != "mul":
            return None
        numbers = [v for v in op.inputs if kinds[v] is Kind.CONSTANT and avals[v].shape == ()]
        if len(numbers) != 1:
            return None
        scales += numbers
        value = next(v for v in op.inputs if v != numbers[0])
    return None


def _uncast(value: int, avals: Sequence[Any], makers: Mapping[int, Op]) -> Op | None:
    """What makes a value, before changes between floating-point types."""
    op = makers.get(value)
    while op is not None and op.primitive.name == "convert_element_type":
        if not jnp.issubdtype(avals[op.inputs[0]].dtype, jnp.floating):
            return None
        op = makers.get(op.inputs[0])
    # What a loop's turns share out is no matrix, but one for each.
    return None if op is not None and op.mapped else op


def _others(aval: Any, dimension: int) -> list[int]:
    return [d for d in range(len(aval.shape)) if d != dimension]
