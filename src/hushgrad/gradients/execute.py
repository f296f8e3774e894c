"""Running a plan: one backward pass that shows what every site saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Shaped

from hushgrad.gradients import lowerings
from hushgrad.gradients.plan import Plan, Site
from hushgrad.gradients.program import Kind, Loop, Node, Op, Remat, walk

__all__ = ["Tap", "run_taps"]

Values = dict[int, Any]


class Tap(NamedTuple):
    """What one site saw.

    Attributes:
      records: the rule's operands, `[batch, slices, repeats, ...]`.
      gradient: of the tapped value, likewise.
    """

    records: tuple[Shaped[Array, "batch slices repeats ..."], ...]
    gradient: Shaped[Array, "batch slices repeats ..."]


class Passed(NamedTuple):
    """One pass over a batch.

    Attributes:
      losses: of each example.
      aux: the loss's further results, of each example.
      taps: what every site saw.
    """

    losses: Array
    aux: list[Array]
    taps: list[Tap]


def run_taps(
    plan: Plan, leaves: Sequence[Any], data: Sequence[Any], keep: Bool[Array, " batch"]
) -> Passed:
    """Every example's loss, and what every site saw, from one backward pass.

    Every site's output is tapped: the gradient by the tap is that of the output.
    Parameters are constants here, so nothing is summed over examples.

    Args:
      plan: of the loss.
      leaves: the parameters.
      data: the batch.
      keep: in a group, an example that is not kept counts as one whose gradient is zero.
    """
    program = plan.program
    shared = _shared(plan, leaves)
    origins = sorted({plan.source(v)[0] for site in plan.sites for v in site.recorded})

    def forward(zeros: Values, example: list[Any]) -> tuple[Any, Any]:
        env = {**shared, **dict(zip(program.data, example, strict=True))}
        plain: Values = {}
        for value in plan.direct:
            plain[value] = env[value]
            env[value] = _tap(env[value], zeros[value])
        collected = _Run(plan, zeros, inner=False).nodes(program.ops, env, plain)
        records = {v: plain.get(v, collected.get(v, env.get(v))) for v in origins}
        return env[program.loss], (records, [env[v] for v in program.aux])

    zeros = {value: _zero(plan, value) for value in plan.taps}
    step = jax.vmap(jax.value_and_grad(forward, has_aux=True), in_axes=(None, 0))
    (losses, (records, aux)), gradients = step(zeros, list(data))
    if plan.group > 1:
        records = {v: _masked(x, keep) for v, x in records.items()}
        gradients = {v: _masked(g, keep) / plan.group for v, g in gradients.items()}
    known: dict[Any, Array] = {}

    def arranged(site: Site, value: int | None) -> Array:
        # Sites that share a tap or a record share the array.
        key = (value, site.tap if value is None else None, site.loops)
        if key not in known:
            x = gradients[site.tap] if value is None else records[plan.source(value)[0]]
            known[key] = _arranged(plan, site, x, value)
        return known[key]

    taps = [
        Tap(tuple(arranged(site, v) for v in site.recorded), arranged(site, None))
        for site in plan.sites
    ]
    return Passed(losses, aux, taps)


@jax.custom_jvp
def _tap(value: Array, zero: Array) -> Array:
    """`value`, with a second argument that has the same gradient and is never added."""
    del zero
    return value


_tap.defjvp(lambda primals, tangents: (primals[0], tangents[0] + tangents[1]))


def _zero(plan: Plan, value: int) -> Array:
    aval = plan.program.avals[value]
    return jnp.zeros((*plan.taps[value], *aval.shape), aval.dtype)


def _shared(plan: Plan, leaves: Sequence[Any]) -> Values:
    """All values at the top that do not depend on the example and are read where some do."""
    program = plan.program
    wanted = {program.loss, *program.aux, *(site.value for site in plan.sites)}
    for node, _ in walk(program.ops):
        if not isinstance(node, Op) or any(program.kinds[v] is Kind.DATA for v in node.outputs):
            wanted.update(node.inputs)
    ready = sorted(v for v in wanted if program.kinds[v] is not Kind.DATA and v not in program.home)
    known = dict(zip(program.parameters, leaves, strict=True))
    return {
        **program.constants,
        **known,
        **dict(zip(ready, program.evaluate(ready, known), strict=True)),
    }


class _Run:
    """Runs what depends on the example, adding the taps.

    Attributes:
      plan: which sites there are.
      taps: the zeros for the tapped values in reach.
    """

    def __init__(self, plan: Plan, taps: Values, inner: bool = True) -> None:
        self._plan = plan
        self._taps = taps
        self._inner = inner  # at the top, what does not depend on the example is known
        self._backend = jax.default_backend()

    def nodes(self, nodes: Sequence[Node], env: Values, plain: Values) -> Values:
        """Runs operations in order, adding what they make to `env`.

        Args:
          nodes: of the top or of one region.
          env: what is known so far; parameters without a rule are tapped.
          plain: those parameters without their taps, for operations with a rule.

        Returns:
          What regions inside handed out to be recorded.
        """
        kinds, collected = self._plan.program.kinds, {}
        for node in nodes:
            if isinstance(node, Loop):
                collected.update(self._loop(node, env, plain))
            elif isinstance(node, Remat):
                collected.update(self._remat(node, env, plain))
            elif self._inner or any(kinds[v] is Kind.DATA for v in node.outputs):
                self._op(node, env, plain)
        return collected

    def _op(self, op: Op, env: Values, plain: Values) -> None:
        program = self._plan.program
        # A rule's parameter is a constant; only operations without one see it tapped.
        seen = {**env, **plain} if op.outputs[0] in self._plan.ruled else env
        args = [seen[v] for v in op.inputs]
        lowered = lowerings.find(op, tuple(program.avals[v] for v in op.inputs), self._backend)
        out = op.bind(*args) if lowered is None else lowered(*args)
        for value, result in zip(op.outputs, out, strict=True):
            tap = self._taps.get(value)
            env[value] = result if tap is None else _tap(result, tap)

    def _inside(self, region: int) -> Values:
        """The taps of the values inside a region."""
        home = self._plan.program.home
        return {v: tap for v, tap in self._taps.items() if region in home.get(v, ())}

    def _handed_out(self, region: int, env: Values, deeper: Values) -> Values:
        wanted = self._plan.collected.get(region, ())
        return {v: deeper[v] if v in deeper else env[v] for v in wanted}

    def _loop(self, loop: Loop, env: Values, plain: Values) -> Values:
        avals = self._plan.program.avals
        sliced = (
            {inner: env[outer] for outer, inner in loop.slices},
            {inner: plain[outer] for outer, inner in loop.slices if outer in plain},
            self._inside(loop.number),
        )

        def turn(carry: list[Any], slices: Any) -> tuple[list[Any], Any]:
            mine, untapped, taps = slices
            local = {**env, **dict(zip(loop.carry, carry, strict=True)), **mine}
            deeper = _Run(self._plan, taps).nodes(loop.ops, local, {**plain, **untapped})
            handed = self._handed_out(loop.number, local, deeper)
            return [local[v] for v in loop.after], ([local[v] for v in loop.stacked], handed)

        start = [
            _strong(env[outer], avals[inner])
            for outer, inner in zip(loop.initial, loop.carry, strict=True)
        ]
        last, (stacks, handed) = lax.scan(
            turn, start, sliced, length=loop.length, reverse=loop.reverse, unroll=loop.unroll
        )
        env.update(zip(loop.outputs, [*last, *stacks], strict=True))
        return handed

    def _remat(self, remat: Remat, env: Values, plain: Values) -> Values:
        def run(taps: Values, env: Values, plain: Values) -> tuple[list[Any], Values]:
            local = dict(env)
            deeper = _Run(self._plan, taps).nodes(remat.ops, local, plain)
            handed = self._handed_out(remat.number, local, deeper)
            return [local[v] for v in remat.inner], handed

        run = jax.checkpoint(run, policy=remat.policy, prevent_cse=remat.prevent_cse)
        read = {v for node, _ in walk(remat.ops) for v in node.inputs} | set(remat.inner)
        reach = {v: x for v, x in env.items() if v in read}
        results, handed = run(
            self._inside(remat.number), reach, {v: x for v, x in plain.items() if v in read}
        )
        env.update(zip(remat.outputs, results, strict=True))
        return handed


def _strong(x: Any, aval: Any) -> Any:
    """The carry's start, in exactly its type: a weakly typed one would change in a turn."""
    return x if jnp.issubdtype(aval.dtype, jax.dtypes.extended) else jnp.asarray(x, aval.dtype)


def _arranged(plan: Plan, site: Site, x: Array, recorded: int | None = None) -> Array:
    """An array `[batch, loops..., ...]` as `[units, slices, repeats, ...]`.

    A unit is what is clipped as one: an example, or the members of a group, which are
    repeats of it. What a loop leaves alone is repeated for each turn.
    """
    own = [region for region, _, _ in site.loops]
    present = own if recorded is None else [r for r in plan.source(recorded)[1] if r in own]
    shape = [n if r in present else 1 for r, n, _ in site.loops]
    rest = x.shape[1 + len(present) :]
    x = x.reshape(x.shape[0] // plan.group, plan.group, *shape, *rest)
    full = [n for _, n, _ in site.loops]
    x = jnp.broadcast_to(x, (*x.shape[:2], *full, *rest))
    sliced = [2 + i for i, (_, _, s) in enumerate(site.loops) if s]
    shared = [2 + i for i, (_, _, s) in enumerate(site.loops) if not s]
    others = range(2 + len(full), x.ndim)
    x = jnp.transpose(x, [0, *sliced, 1, *shared, *others])
    x = x.reshape(x.shape[0], math.prod(site.slices), plan.group * site.repeats, *rest)
    return _wide(x)


def _masked(x: Array, keep: Bool[Array, " batch"]) -> Array:
    return jnp.where(keep.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))


def _wide(x: Array) -> Array:
    """Low-precision numbers in float32, where norms and sums are held."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
