"""Where parameters meet data, and how each parameter's gradient norm is reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as p

from hushgrad.gradients import rules
from hushgrad.gradients.program import Kind, Op, Program

__all__ = ["Group", "Plan", "Site", "make_plan"]

# Linear maps that only move, repeat or negate entries and do the same in any dtype.
_SHAPE_OPS = frozenset(
    {
        p.reshape_p,
        p.transpose_p,
        p.squeeze_p,
        p.broadcast_in_dim_p,
        p.slice_p,
        p.rev_p,
        p.neg_p,
        p.copy_p,
        p.convert_element_type_p,
    }
)


@dataclasses.dataclass(frozen=True)
class Site:
    """One place where a value made of parameters meets data.

    Attributes:
      value: the parameter, or what was computed from parameters alone.
      tap: the value whose gradient is taken: the operation's output where a rule
        holds, the parameter value itself where none does.
      rule: how the parameter's gradient follows from the tap's.
      recorded: the values that the rule needs beside it.
    """

    value: int
    tap: int
    rule: rules.Rule | rules.Direct
    recorded: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that share sites, directly or through others, and those sites.

    Attributes:
      parameters: positions in the flat list of parameters.
      sites: positions in the plan's list of sites.
      ghost: the norm is reached without building per-example gradients.
      shape_only: the parameters reach their sites through operations that only
        move, repeat or negate entries, so the way back can run in any dtype.
    """

    parameters: tuple[int, ...]
    sites: tuple[int, ...]
    ghost: bool
    shape_only: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """All sites of a program, and its parameters in groups."""

    program: Program
    sites: tuple[Site, ...]
    groups: tuple[Group, ...]

    @property
    def taps(self) -> Mapping[int, int]:
        """The site at each tapped value."""
        return {site.tap: number for number, site in enumerate(self.sites)}


def make_plan(program: Program) -> Plan:
    """Finds the sites of a program and groups the parameters that meet there."""
    sites = tuple(_sites(program))
    return Plan(program, sites, tuple(_groups(program, sites)))


def _sites(program: Program) -> list[Site]:
    sites: list[Site] = []
    direct: dict[int, Site] = {}

    def fall_back(value: int, why: str) -> None:
        if value not in direct:
            direct[value] = Site(value, value, rules.Direct(value, why), ())

    for op in program.ops:
        kinds = [program.kinds[value] for value in op.inputs]
        if Kind.DATA not in kinds or Kind.PARAMETER not in kinds:
            continue
        positions = [i for i, kind in enumerate(kinds) if kind is Kind.PARAMETER]
        site = _ruled(program, op, positions[0]) if len(positions) == 1 else None
        if site is not None:
            sites.append(site)
        else:
            for position in positions:
                fall_back(op.inputs[position], op.primitive.name)
    if program.kinds[program.loss] is Kind.PARAMETER:
        fall_back(program.loss, "the loss does not depend on the example")
    return sites + list(direct.values())


def _ruled(program: Program, op: Op, position: int) -> Site | None:
    avals = tuple(program.avals[value] for value in op.inputs)
    rule = rules.find(op, position, avals)
    if rule is None:
        return None
    recorded = tuple(op.inputs[i] for i in rule.recorded)
    return Site(op.inputs[position], op.outputs[0], rule, recorded)


def _groups(program: Program, sites: tuple[Site, ...]) -> list[Group]:
    number = {value: position for position, value in enumerate(program.parameters)}
    reached = [
        {number[value] for value in program.ancestors([site.value]) if value in number}
        for site in sites
    ]
    groups: list[tuple[set[int], set[int]]] = []
    for position, parameters in enumerate(reached):
        parameters = {
            i for i in parameters if program.kinds[program.parameters[i]] is Kind.PARAMETER
        }
        touching = [group for group in groups if group[0] & parameters]
        groups = [group for group in groups if not group[0] & parameters]
        merged = (set(parameters), {position})
        for group in touching:
            merged = (merged[0] | group[0], merged[1] | group[1])
        groups.append(merged)
    return [_group(program, sites, sorted(ps), sorted(ss)) for ps, ss in groups]


def _group(
    program: Program, sites: tuple[Site, ...], parameters: list[int], members: list[int]
) -> Group:
    paths = [_path(program, sites[i].value) for i in members]
    shape_only = all(path is not None for path in paths)
    only = sites[members[0]]
    ghost = (
        len(members) == len(parameters) == 1
        and only.rule.ghost
        and paths[0] is not None
        and all(_keeps_norm(program, op) for op in paths[0])
    )
    return Group(tuple(parameters), tuple(members), ghost, shape_only)


def _path(program: Program, value: int) -> list[Op] | None:
    """The chain of shape operations from one parameter to `value`, or None."""
    path: list[Op] = []
    while (op := program.producer(value)) is not None:
        real = jnp.issubdtype(program.avals[value].dtype, jnp.floating)
        if op.primitive not in _SHAPE_OPS or len(op.inputs) != 1 or not real:
            return None
        path.append(op)
        (value,) = op.inputs
    return path


def _keeps_norm(program: Program, op: Op) -> bool:
    """Whether the operation's transpose keeps the norm of a gradient."""
    if op.primitive is not p.broadcast_in_dim_p:
        return True
    shape = jax.ShapeDtypeStruct(program.avals[op.inputs[0]].shape, "float32")
    return shape.size == program.avals[op.outputs[0]].size
