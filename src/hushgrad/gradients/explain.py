"""`explain`: which rule each parameter goes by, and what that costs."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from hushgrad.gradients import rules
from hushgrad.gradients.inputs import parameter_name, traced
from hushgrad.gradients.plan import Cluster, Plan, Site, Way, make_plan
from hushgrad.gradients.program import Kind

__all__ = ["Explained", "Explanation", "explain"]

_WAYS = {Way.GHOST: "ghost norm", Way.KEPT: "built", Way.PULLED: "built"}


@dataclasses.dataclass(frozen=True)
class Explained:
    """One parameter. Costs are for one example: its norm, and its share of the sum.

    Attributes:
      name: where it stands in the parameters.
      shape: its shape.
      sites: where it meets data: an operation each, with how often one example goes
        through it in a loop.
      way: "ghost norm", "built" (its gradient, for each example), "direct" (the exact
        fallback), "unused", or "frozen" for what has no gradient.
      fast: no fallback was needed.
      ghost_flops, built_flops: floating-point operations by either way; None where
        there is no such way.
      ghost_bytes, built_bytes: memory by either way, likewise.
      why: why a fallback was needed; empty where none was.
    """

    name: str
    shape: tuple[int, ...]
    sites: tuple[str, ...]
    way: str
    fast: bool
    ghost_flops: int | None
    built_flops: int | None
    ghost_bytes: int | None
    built_bytes: int | None
    why: str

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A table for people (`print` it) and plain data (`rows`)."""

    rows: tuple[Explained, ...]

    @property
    def fast_share(self) -> float:
        """Share of the trained parameters' entries that need no fallback."""
        trained = [row for row in self.rows if row.way != "frozen"]
        total = sum(row.size for row in trained)
        return sum(row.size for row in trained if row.fast) / total if total else 1.0

    def __rich__(self) -> Any:
        """The table, for rich."""
        from rich import box
        from rich.table import Table

        caption = f"{self.fast_share:.1%} of the trained entries need no fallback"
        table = Table(caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
        for name in ("parameter", "shape", "meets data in", "way"):
            table.add_column(name, overflow="fold", vertical="bottom")
        for name in ("flops\nghost", "\nbuilt", "bytes\nghost", "\nbuilt"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            costs = (row.ghost_flops, row.built_flops, row.ghost_bytes, row.built_bytes)
            way = f"{row.way}: {row.why}" if row.why else row.way
            shape = "x".join(map(str, row.shape)) or "scalar"
            table.add_row(row.name, shape, ", ".join(row.sites), way, *map(_short, costs))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=100)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]


def explain(loss: Callable[..., Any], params: PyTree, *example: Any, group: int = 1) -> Explanation:
    """Which rule each parameter goes by in `clipped_grad`, and what that costs.

    ```python
    print(hg.explain(loss, params, x[0], y[0]))
    ```

    Nothing is computed: the loss is traced. Where a way costs more than it should, the
    last column says which operation asked for it.

    Args:
      loss: `loss(params, *example) -> scalar` for one example.
      params: arrays, or their shapes and dtypes.
      *example: the loss's other arguments for one example, without a batch axis;
        likewise.
      group: as in `clipped_grad`.

    Raises:
      InputError: if the loss cannot be used in `clipped_grad`.
    """
    program, _ = traced(loss, params, example)
    plan = make_plan(program, group=group)
    named = jax.tree_util.tree_leaves_with_path(params)
    return Explanation(
        tuple(
            _row(plan, number, parameter_name(path), tuple(leaf.shape))
            for number, (path, leaf) in enumerate(named)
        )
    )


def _row(plan: Plan, number: int, name: str, shape: tuple[int, ...]) -> Explained:
    program = plan.program
    clusters = [cluster for cluster in plan.clusters if number in cluster.parameters]
    if not clusters:
        frozen = program.kinds[program.parameters[number]] is not Kind.PARAMETER
        way = "frozen" if frozen else "unused"
        return Explained(name, shape, (), way, True, None, None, None, None, "")
    reached = [
        (cluster, plan.sites[i])
        for cluster in clusters
        for i in cluster.sites
        if number in plan.paths[plan.sites[i].value].parameters
    ]
    sites = [site for _, site in reached]
    why = ", ".join(dict.fromkeys(filter(None, (_why(plan, c, site) for c, site in reached))))
    direct = any(isinstance(site.rule, rules.Direct) for site in sites)
    ways = {_WAYS[cluster.way] for cluster in clusters}
    costs = [_costs(plan, cluster) for cluster in clusters]
    return Explained(
        name,
        shape,
        tuple(_labels(sites)),
        "direct" if direct else " and ".join(sorted(ways)),
        not why,
        *(_sum([cost[i] for cost in costs]) for i in range(4)),
        why=why,
    )


def _why(plan: Plan, cluster: Cluster, site: Site) -> str:
    """Which operation keeps a site from a rule; empty where it costs no more than a rule."""
    path = plan.paths[site.value]
    if isinstance(site.rule, rules.Direct):
        alone = len(cluster.sites) == 1
        return "" if site.rule.least and alone else f"read by {site.rule.why}"
    seen = site.repeats * sum(
        math.prod(plan.program.avals[v].shape) for v in (site.tap, *site.recorded)
    )
    if path.shape_only or (
        path.entrywise and math.prod(plan.program.avals[site.value].shape) <= seen
    ):
        return ""
    return f"computed by {path.why}"


def _labels(sites: list[Site]) -> list[str]:
    labels = []
    for site in sites:
        times = "".join(f" x{n}" for _, n, _ in site.loops)
        labels.append(site.rule.name + times)
    return [
        label if labels.count(label) == 1 else f"{labels.count(label)} of {label}"
        for label in dict.fromkeys(labels)
    ]


def _costs(plan: Plan, cluster: Cluster) -> tuple[int | None, int, int | None, int]:
    """Flops and bytes of the ghost norm and of built gradients: ghost, built, ghost, built."""
    sites = [plan.sites[i] for i in cluster.sites]
    built = max(math.prod(plan.program.avals[site.value].shape) for site in sites)
    width = 4
    products = rows = held = 0
    ghost = cluster.way is Way.GHOST or len(sites) == 1
    for site in sites:
        sizes = site.rule.sizes if isinstance(site.rule, rules.Rule) else None
        turns = site.repeats * plan.group
        if sizes is None or not isinstance(site.rule, rules.Rule):
            ghost = False
            products += built * turns
            continue
        groups, depth, columns = sizes
        groups *= math.prod(site.slices)
        more = site.rule.rows * turns
        products += (
            groups * more * (columns if isinstance(site.rule, rules.Lookup) else depth * columns)
        )
        rows, held = rows + more, held + groups * more * site.rule.held
    built_flops = 2 * products + 2 * built
    if not ghost:
        return None, built_flops, None, width * built
    # The norm, then the sum's own contraction.
    flops = 2 * rows * held + 2 * products
    return flops, built_flops, width * (held + 2 * rows * rows), width * built


def _sum(numbers: list[int | None]) -> int | None:
    known = [n for n in numbers if n is not None]
    return sum(known) if len(known) == len(numbers) else None


def _short(number: int | None) -> str:
    if number is None:
        return "-"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
