"""Where parameters meet data, and how each parameter's gradient norm is reached."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hushgrad.gradients import rules
from hushgrad.gradients.paths import Paths, disjoint
from hushgrad.gradients.program import Kind, Loop, Node, Op, Program, Remat, walk
from hushgrad.gradients.rules.contraction import prefers_ghost

__all__ = ["Cluster", "Plan", "Site", "Way", "make_plan"]


@dataclasses.dataclass(frozen=True)
class Site:
    """One place where a value made of parameters meets data.

    Attributes:
      value: the parameter, or what was computed from parameters alone, at the top.
      output: the operation's output where a rule holds, the parameter value itself
        where none does.
      tap: the value whose gradient is taken. It is that of the output: either the same,
        or one that the output is only added into, which several sites then share.
      rule: how the parameter's gradient follows from the tap's.
      recorded: the values that the rule needs beside it.
      within: the regions that the operation stands in, outermost first.
      loops: of those, the loops: region, length, and whether each turn has a slice of
        `value` of its own (stacked layers) or all share it (recurrent nets).
    """

    value: int
    output: int
    tap: int
    rule: rules.Rule | rules.Direct
    recorded: tuple[int, ...] = ()
    within: tuple[int, ...] = ()
    loops: tuple[tuple[int, int, bool], ...] = ()

    @property
    def slices(self) -> tuple[int, ...]:
        """Lengths of the loops that take slices of the value."""
        return tuple(length for _, length, sliced in self.loops if sliced)

    @property
    def repeats(self) -> int:
        """How often one example meets each slice of the value."""
        return math.prod(length for _, length, sliced in self.loops if not sliced)


class Way(enum.Enum):
    """How the gradient norm of a cluster is reached."""

    GHOST = "ghost norm: no gradient per example is built"
    KEPT = "built for each example, where it meets the data, and kept for the sum"
    PULLED = "built for each example and carried back to the parameters"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Sites whose gradients fall on the same entries of parameters.

    Gradients of different clusters fall on different entries, so that squared norms
    add up.

    Attributes:
      parameters: positions in the flat list of parameters.
      sites: positions in the plan's list of sites.
      swapped: for each site, whether left and right factor change places.
      way: how the norm is reached.
      part: which part of the parameters, bounded together, all of them belong to;
        -1 for several, and then the way is PULLED.
    """

    parameters: tuple[int, ...]
    sites: tuple[int, ...]
    swapped: tuple[bool, ...]
    way: Way
    part: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """All sites of a program in clusters.

    Attributes:
      program: what they were found in.
      sites: in the order in which they run.
      clusters: every site is in one.
      parts: for each parameter, the number of its part.
      paths: how the sites' values are made of parameters.
      group: how many examples are clipped as one.
      devices: among how many the examples are shared out.
    """

    program: Program
    sites: tuple[Site, ...]
    clusters: tuple[Cluster, ...]
    parts: tuple[int, ...]
    paths: Paths
    group: int
    devices: int = 1

    @functools.cached_property
    def ruled(self) -> frozenset[int]:
        """Outputs of the operations that a rule holds for."""
        return frozenset(s.output for s in self.sites if isinstance(s.rule, rules.Rule))

    @functools.cached_property
    def direct(self) -> tuple[int, ...]:
        """Values of parameters that are tapped themselves."""
        return tuple(s.value for s in self.sites if isinstance(s.rule, rules.Direct))

    @functools.cached_property
    def taps(self) -> Mapping[int, tuple[int, ...]]:
        """Lengths of the loops around each tapped value."""
        return {s.tap: tuple(length for _, length, _ in s.loops) for s in self.sites}

    @functools.cached_property
    def collected(self) -> Mapping[int, tuple[int, ...]]:
        """For each region, the inner values that it has to hand out to be recorded."""
        out: dict[int, list[int]] = {}
        for site in self.sites:
            for value in site.recorded:
                origin, _ = self.source(value)
                for region in self.program.home.get(origin, ()):
                    values = out.setdefault(region, [])
                    if origin not in values:
                        values.append(origin)
        return {region: tuple(values) for region, values in out.items()}

    def source(self, value: int) -> tuple[int, tuple[int, ...]]:
        """Where a recorded value is found, and the loops that it has an axis for.

        What a loop slices is found whole outside; all else is collected from each turn.
        """
        program = self.program
        if value in program.sliced_from:
            origin, loops = self.source(program.sliced_from[value])
            return origin, (*loops, program.home[value][-1])
        home = program.home.get(value, ())
        return value, tuple(r for r in home if isinstance(program.regions[r], Loop))


def make_plan(
    program: Program, parts: Sequence[int] | None = None, group: int = 1, devices: int = 1
) -> Plan:
    """Finds the sites of a program and the way to each gradient norm.

    Args:
      program: a traced loss.
      parts: for each parameter, the number of the part whose norm is bounded alone.
      group: how many examples are clipped as one.
      devices: among how many they are shared out.
    """
    parts = tuple(parts or (0,) * len(program.parameters))
    paths = Paths(program)
    sites = tuple(_sites(program))
    clusters = tuple(_clusters(sites, paths, parts, group))
    return Plan(program, sites, clusters, parts, paths, group, devices)


def _sites(program: Program) -> list[Site]:
    ruled: list[Site] = []
    readers = _readers(program)
    direct: dict[int, Site] = {}

    def fall_back(values: Sequence[int], why: str, least: bool = False) -> None:
        for value in values:
            if program.kinds[value] is Kind.PARAMETER:
                top = program.views.get(value, (value, ()))[0]
                direct.setdefault(top, Site(top, top, top, rules.Direct(top, why, least)))

    for node, within in walk(program.ops):
        if not program.live.intersection(node.outputs):
            continue
        if isinstance(node, Loop):
            start = zip(node.initial, node.carry, strict=True)
            fall_back(
                [v for v, inner in start if inner in program.live], "the start of a loop", True
            )
            carried = zip(node.after, node.carry, node.outputs, strict=False)
            results = [v for v, c, out in carried if {c, out} & program.live]
            stacks = zip(node.stacked, node.outputs[len(node.carry) :], strict=True)
            results += [v for v, out in stacks if out in program.live]
            fall_back(results, "the result of a loop", True)
        elif isinstance(node, Remat):
            fall_back(node.inner, "the result of a checkpointed part")
        elif any(program.kinds[value] is Kind.DATA for value in node.outputs):
            site = _ruled(program, node, within, readers)
            if site is not None:
                ruled.append(site)
            else:
                fall_back(node.inputs, node.primitive.name)
    fall_back([program.loss], "the loss does not depend on the example")
    return ruled + list(direct.values())


def _readers(program: Program) -> Mapping[int, list[Node]]:
    """Which operations and regions, of those that the loss depends on, read each value."""
    readers: dict[int, list[Node]] = {}
    for node, _ in walk(program.ops):
        if program.live.intersection(node.outputs):
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
    return readers


def _same_gradient(program: Program, value: int, readers: Mapping[int, list[Node]]) -> int:
    """The last value of a chain of sums that begins with `value` and goes nowhere else."""
    while value != program.loss:
        (reader, *others) = readers.get(value, [None])
        if others or not isinstance(reader, Op):
            return value
        adds = reader.primitive.name == "add" or (
            reader.primitive.name == "sub" and reader.inputs[0] == value
        )
        (out, *_) = reader.outputs
        same = program.home.get(out, ()) == program.home.get(value, ())
        before, after = program.avals[value], program.avals[out]
        if not adds or not same or (before.shape, before.dtype) != (after.shape, after.dtype):
            return value
        value = out
    return value


def _ruled(
    program: Program, op: Op, within: tuple[int, ...], readers: Mapping[int, list[Node]]
) -> Site | None:
    positions = [i for i, v in enumerate(op.inputs) if program.kinds[v] is Kind.PARAMETER]
    if len(positions) != 1:
        return None
    avals = tuple(program.avals[value] for value in op.inputs)
    rule = rules.find(op, positions[0], avals, program.avals[op.outputs[0]])
    if rule is None:
        return None
    value, sliced = program.views.get(op.inputs[positions[0]], (op.inputs[positions[0]], ()))
    around = [program.regions[r] for r in within]
    loops = [region for region in around if isinstance(region, Loop)]
    sliced = (*sliced, *(False for _ in range(len(loops) - len(sliced))))
    return Site(
        value=value,
        output=op.outputs[0],
        tap=_same_gradient(program, op.outputs[0], readers),
        rule=rule,
        recorded=tuple(op.inputs[i] for i in rule.recorded),
        within=within,
        loops=tuple((r.number, r.length, s) for r, s in zip(loops, sliced, strict=True)),
    )


def _clusters(
    sites: Sequence[Site], paths: Paths, parts: tuple[int, ...], group: int
) -> list[Cluster]:
    found: list[list[int]] = []
    for number, site in enumerate(sites):
        regions = paths[site.value].regions
        touching = [
            members
            for members in found
            if any(not disjoint(paths[sites[i].value].regions, regions) for i in members)
        ]
        found = [members for members in found if members not in touching]
        found.append(sorted([number, *(i for members in touching for i in members)]))
    return [_cluster(sites, members, paths, parts, group) for members in found]


def _cluster(
    sites: Sequence[Site], members: list[int], paths: Paths, parts: tuple[int, ...], group: int
) -> Cluster:
    chosen = [sites[i] for i in members]
    touched = sorted({p for site in chosen for p in paths[site.value].parameters})
    bounded = {parts[p] for p in touched}
    swapped = _swapped(chosen, paths) if len(chosen) > 1 else (False,)
    ghost = swapped is not None and _ghost(chosen, group)
    if len(bounded) > 1 or not all(paths[site.value].keeps_norm for site in chosen):
        way = Way.PULLED
    elif ghost:
        way = Way.GHOST
    else:
        way = Way.KEPT if len(chosen) == 1 else Way.PULLED
    return Cluster(
        parameters=tuple(touched),
        sites=tuple(members),
        swapped=swapped or (False,) * len(members),
        way=way,
        part=bounded.pop() if len(bounded) == 1 else -1,
    )


def _ghost(sites: list[Site], group: int) -> bool:
    """Whether the norm of the sum over these sites is better had without building it."""
    rows, held, built, copied = 0, 0, 0, 0
    for site in sites:
        if not isinstance(site.rule, rules.Rule) or site.rule.sizes is None:
            return False
        _, depth, columns = site.rule.sizes
        more = site.rule.rows * site.repeats * group
        rows, held, built = rows + more, held + more * site.rule.held, depth * columns
        copied += more * site.rule.copied
    return prefers_ghost(rows, built, held, copied)


def _swapped(sites: list[Site], paths: Paths) -> tuple[bool, ...] | None:
    """How factors of several sites of one parameter fit together; None: they do not."""
    keys: list[Any] = []
    for site in sites:
        path = paths[site.value]
        layout = site.rule.layout
        if layout is None or path.frame is None or not path.keeps_norm:
            return None
        lead = len(site.slices)
        dims = [tuple(path.frame[d + lead] for d in part) for part in layout]
        keys.append((path.regions, site.slices, path.frame[:lead], dims[0], dims[1:]))
    lookups = [i for i, site in enumerate(sites) if isinstance(site.rule, rules.Lookup)]
    *same, wanted = keys[lookups[0] if lookups else 0]
    out = []
    for i, (*head, found) in enumerate(keys):
        swap = found != wanted
        if head != same or (swap and (found[::-1] != wanted or i in lookups)):
            return None
        out.append(swap)
    return tuple(out)
