"""How many examples at a time keep a bound on memory.

Estimates from shapes, for one example: `values`, everything that the loss computes
from it, of which an ordinary gradient holds about half at its peak (measured: 0.4 to
0.8 on the models in `benchmarks/`); `seen`, what sites record and their gradients;
`built`, gradients that are built for each example.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from hushgrad.gradients.plan import Plan, Way
from hushgrad.gradients.program import Kind, Loop, Op, walk

__all__ = ["Estimate", "chunk_size", "estimate"]

# What XLA holds beside that, for copies in other layouts: measured 0.9 to 2.1.
_SLACK = 2.2
# On a CPU, chunks whose intermediate results stay near the caches are faster, although they
# come one after the other: fresh memory has to be mapped on every call. Whole batch and
# chunks of this size, in ms: transformer 206 and 173, LSTM 107 and 89. Convolutions run
# several times slower inside a loop there, so programs that have any are left whole.
_NEAR = {"cpu": 2e7}
# Twice the ordinary gradient's memory, in units of `values`.
_TWICE = 1.5


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes that one example needs, and the parameters.

    Attributes:
      values: what the loss computes from the example.
      seen: records of all sites, and the gradients of their outputs.
      built: gradients by parameters that are built for each example.
      parameters: all parameters together.
    """

    values: int
    seen: int
    built: int
    parameters: int

    @property
    def private(self) -> int:
        """What a clipped gradient needs for one example."""
        return self.seen + self.built


def chunk_size(plan: Plan, size: int, bound: int | None) -> int:
    """How many of `size` examples to process at a time; a multiple of the group.

    Without a bound about twice what the ordinary gradient of the whole batch needs, or
    less where less is faster.
    """
    found = estimate(plan)
    if bound is None:
        room = math.ceil(_TWICE * size * found.values) + 2 * found.parameters
        room, each = min(room, _near(plan, found)), found.private
    else:
        room = bound - 2 * found.parameters
        each = math.ceil(_SLACK * max(found.private, found.values // 2))
    if size * each <= room:
        return size
    groups = max(1, int(room // max(1, each * plan.group)))
    return min(size, groups * plan.group)


def _near(plan: Plan, found: Estimate) -> float:
    """The most bytes that are fast to work on; more where sums of large parameters are kept."""
    names = {node.primitive.name for node, _ in walk(plan.program.ops) if isinstance(node, Op)}
    most = _NEAR.get(jax.default_backend(), math.inf)
    if "conv_general_dilated" in names:
        return math.inf
    return max(most, 2.0 * found.parameters)


def estimate(plan: Plan) -> Estimate:
    """Bytes for one example, from shapes."""
    program = plan.program
    values = 0
    for node, within in walk(program.ops):
        if isinstance(node, Op) and any(program.kinds[v] is Kind.DATA for v in node.outputs):
            values += _turns(plan, within) * sum(_bytes(plan, v) for v in node.outputs)
    seen = sum(math.prod(turns) * _bytes(plan, tap) for tap, turns in plan.taps.items())
    for value in {plan.source(v)[0] for site in plan.sites for v in site.recorded}:
        seen += _turns(plan, program.home.get(value, ())) * _bytes(plan, value)
    built = 0
    for cluster in plan.clusters:
        if cluster.way is not Way.GHOST:
            built += sum(_bytes(plan, plan.sites[i].value) for i in cluster.sites)
        if cluster.way is Way.PULLED:
            built += sum(_bytes(plan, program.parameters[p]) for p in cluster.parameters)
    parameters = sum(_bytes(plan, v) for v in program.parameters)
    return Estimate(values, seen, built // plan.group, parameters)


def _turns(plan: Plan, within: tuple[int, ...]) -> int:
    around = [plan.program.regions[r] for r in within]
    return math.prod(region.length for region in around if isinstance(region, Loop))


def _bytes(plan: Plan, value: int) -> int:
    aval = plan.program.avals[value]
    try:
        width = np.dtype(aval.dtype).itemsize
    except TypeError:  # random keys
        width = 16
    return math.prod(aval.shape) * width
