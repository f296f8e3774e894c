"""Running a plan: taps, norms, and the clipped sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as p
from jaxtyping import Array, Float

from hushgrad.gradients.plan import Group, Plan
from hushgrad.gradients.program import Kind, Op
from hushgrad.gradients.rules.contraction import sum_error

__all__ = ["Tap", "per_example", "run_taps", "totals"]


class Tap(NamedTuple):
    """What one site saw: per example, its records and its output's gradient."""

    records: tuple[Array, ...]
    gradient: Array


def run_taps(plan: Plan, leaves: list[Any], data: list[Any]) -> tuple[Array, list[Tap]]:
    """Every example's loss, and what every site saw, from one backward pass.

    A zero is added to the output of each site; its gradient is the gradient of
    the output. Parameters are constants here, so nothing is summed over examples.
    """
    program = plan.program
    shared = _shared(plan, leaves)

    def forward(zeros: list[Array], example: list[Any]) -> tuple[Any, list[tuple[Any, ...]]]:
        env = {**shared, **dict(zip(program.data, example, strict=True))}
        operands = dict(env)
        for site, zero in zip(plan.sites, zeros, strict=True):
            if site.tap == site.value:  # the direct way: the parameter itself is tapped
                operands[site.value] = env[site.value] + zero
        _replay(plan, env, operands, zeros)
        return operands[program.loss], [
            tuple(operands[v] for v in site.recorded) for site in plan.sites
        ]

    zeros = [
        jnp.zeros(program.avals[site.tap].shape, program.avals[site.tap].dtype)
        for site in plan.sites
    ]
    step = jax.vmap(jax.value_and_grad(forward, has_aux=True), in_axes=(None, 0))
    (losses, records), gradients = step(zeros, data)
    return losses, [_widen(Tap(r, g)) for r, g in zip(records, gradients, strict=True)]


def _shared(plan: Plan, leaves: list[Any]) -> dict[int, Any]:
    """All values that do not depend on the example and are read where some do."""
    program = plan.program
    wanted = {program.loss, *(site.value for site in plan.sites)}
    for op in program.ops:
        if any(program.kinds[value] is Kind.DATA for value in op.outputs):
            wanted.update(op.inputs)
    ready = [value for value in sorted(wanted) if program.kinds[value] is not Kind.DATA]
    known = dict(zip(program.parameters, leaves, strict=True))
    return {**known, **dict(zip(ready, program.evaluate(ready, known), strict=True))}


def _replay(
    plan: Plan, shared: Mapping[int, Any], operands: dict[int, Any], zeros: list[Array]
) -> None:
    """Runs the operations that depend on the example, adding the taps."""
    program, taps = plan.program, plan.taps
    for op in program.ops:
        if all(program.kinds[value] is not Kind.DATA for value in op.outputs):
            continue
        number = taps.get(op.outputs[0])
        ruled = number is not None
        # A rule's parameter is a constant; only operations without one see it tapped.
        out = op.bind(*((shared if ruled and v in shared else operands)[v] for v in op.inputs))
        if ruled:
            out = (out[0] + zeros[number],)
        operands.update(zip(op.outputs, out, strict=True))


def _widen(tap: Tap) -> Tap:
    """Low-precision records and gradients in float32, where norms and sums are held."""

    def widen(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    return Tap(tuple(widen(r) for r in tap.records), widen(tap.gradient))


Built = dict[int, Float[Array, "batch ..."]]


def per_example(
    plan: Plan, leaves: list[Any], taps: list[Tap], size: int
) -> tuple[Built, Float[Array, " batch"], Float[Array, " batch"]]:
    """Per-example gradients where they are built, and everyone's squared norm.

    Returns:
      The gradients that were built, by parameter; the squared norm of each
      example's whole gradient; a bound on its rounding error.
    """
    built: Built = {}
    dtype = jnp.result_type(jnp.float32, *(tap.gradient.real.dtype for tap in taps))
    squared = slack = jnp.zeros(size, dtype)
    for group in plan.groups:
        if group.ghost:
            site, tap = plan.sites[group.sites[0]], taps[group.sites[0]]
            more, error = jax.vmap(site.rule.squared_norm)(tap.records, tap.gradient)
            squared, slack = squared + more, slack + error
        else:
            gradients = _build(plan, group, leaves, taps)
            built.update(gradients)
            for gradient in gradients.values():
                axes = tuple(range(1, gradient.ndim))
                more = jnp.sum(jnp.square(gradient), axis=axes, dtype=dtype)
                error = sum_error(gradient.size // max(1, size), gradient.dtype)
                squared, slack = squared + more, slack + error * more
    return built, squared, slack


def totals(
    plan: Plan,
    leaves: list[Any],
    taps: list[Tap],
    built: Built,
    coefficients: Float[Array, " batch"],
) -> list[Float[Array, "..."] | None]:
    """The weighted sum of the examples' gradients for every parameter.

    A coefficient of zero means exactly no contribution, whatever the example's
    numbers are: its records and gradients are replaced, since 0 * NaN is NaN.
    """
    out: list[Any] = [None] * len(leaves)
    for number, gradient in built.items():
        weighted = _scaled(gradient, coefficients)
        out[number] = jnp.sum(weighted, axis=0)
    for group in plan.groups:
        if group.ghost:
            site, tap = plan.sites[group.sites[0]], taps[group.sites[0]]
            records = tuple(_only(r, coefficients != 0) for r in tap.records)
            total = site.rule.total(records, _scaled(tap.gradient, coefficients))
            (out[group.parameters[0]],) = _pull_back(plan, group, leaves, [total]).values()
    return out


def _build(plan: Plan, group: Group, leaves: list[Any], taps: list[Tap]) -> Built:
    """One gradient per example and parameter of the group."""

    def one(seen: list[Tap]) -> dict[int, Array]:
        sites = [plan.sites[i] for i in group.sites]
        cotangents = [
            s.rule.gradient(t.records, t.gradient) for s, t in zip(sites, seen, strict=True)
        ]
        return _pull_back(plan, group, leaves, cotangents)

    return jax.vmap(one)([taps[i] for i in group.sites])


def _pull_back(
    plan: Plan, group: Group, leaves: list[Any], cotangents: list[Array]
) -> dict[int, Array]:
    """Gradients by the parameters, from those by the values at the group's sites."""
    parameters = [leaves[i] for i in group.parameters]
    if group.shape_only:
        dtype = jnp.result_type(*cotangents)
        parameters = [x.astype(dtype) for x in parameters]
        forward = _forward(plan, group, leaves, _bind_any_dtype)
    else:
        dtype = jnp.result_type(jnp.float32, *parameters)
        forward = _forward(plan, group, leaves, Op.bind)
    values, back = jax.vjp(forward, parameters)
    (gradients,) = back([c.astype(v.dtype) for c, v in zip(cotangents, values, strict=True)])
    return {
        i: g.astype(jnp.promote_types(g.dtype, dtype))
        for i, g in zip(group.parameters, gradients, strict=True)
    }


def _forward(
    plan: Plan, group: Group, leaves: list[Any], bind: Callable[..., tuple[Any, ...]]
) -> Callable[[list[Any]], list[Any]]:
    """From the group's parameters to the values at its sites."""
    program = plan.program
    values = [plan.sites[i].value for i in group.sites]
    fixed = dict(zip(program.parameters, leaves, strict=True))  # integer leaves are read too

    def forward(parameters: list[Any]) -> list[Any]:
        chosen = (program.parameters[i] for i in group.parameters)
        return program.evaluate(
            values, {**fixed, **dict(zip(chosen, parameters, strict=True))}, bind
        )

    return forward


def _bind_any_dtype(op: Op, *args: Any) -> tuple[Any, ...]:
    """Runs a shape operation in the dtype of its input: casts are passed over."""
    return args if op.primitive is p.convert_element_type_p else op.bind(*args)


def _scaled(x: Array, coefficients: Float[Array, " batch"]) -> Array:
    c = coefficients.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return jnp.where(c != 0, x * c, 0)


def _only(x: Array, keep: Array) -> Array:
    return jnp.where(keep.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))
