"""From what every site saw to norms, and to the clipped sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from hushgrad.gradients.execute import Tap
from hushgrad.gradients.plan import Cluster, Plan, Site, Way
from hushgrad.gradients.program import Op
from hushgrad.gradients.rules import Factors, Rule
from hushgrad.gradients.rules.contraction import (
    FULL,
    SAFE,
    balanced,
    ghost_norm,
    sum_error,
)

__all__ = ["Norms", "per_example", "totals"]

_FEW = 8


class Norms(NamedTuple):
    """Every unit's norm; a unit is what is clipped as one.

    Attributes:
      squared: squared norms, by part of the parameters.
      slack: bounds on their rounding errors.
      built: gradients that were built on the way, by cluster: at its site, or for
        each of its parameters.
    """

    squared: Float[Array, "units parts"]
    slack: Float[Array, "units parts"]
    built: dict[int, list[Float[Array, "units ..."]]]


def per_example(plan: Plan, leaves: Sequence[Any], taps: Sequence[Tap], units: int) -> Norms:
    """Every unit's squared gradient norm, by part."""
    dtype = jnp.result_type(jnp.float32, *(tap.gradient.real.dtype for tap in taps))
    count = 1 + max(plan.parts, default=0)
    squared = [jnp.zeros(units, dtype) for _ in range(count)]
    slack = list(squared)
    built: dict[int, list[Array]] = {}

    def add(part: int, more: Array, error: Array | float) -> None:
        squared[part] = squared[part] + more.astype(dtype)
        slack[part] = slack[part] + jnp.asarray(error).astype(dtype)

    for number, cluster in enumerate(plan.clusters):
        if cluster.way is Way.GHOST:
            add(cluster.part, *_ghost(plan, cluster, taps))
            continue
        if cluster.way is Way.KEPT:
            built[number] = [_at_site(plan, cluster.sites[0], taps)]
            parts: Sequence[int] = [cluster.part]
        else:
            built[number] = _pulled(plan, cluster, leaves, taps)
            parts = [plan.parts[p] for p in cluster.parameters]
        for part, gradient in zip(parts, built[number], strict=True):
            more = jnp.sum(jnp.square(gradient), axis=tuple(range(1, gradient.ndim)), dtype=dtype)
            add(part, more, sum_error(gradient.size // max(1, units), gradient.dtype) * more)
    return Norms(jnp.stack(squared, axis=1), jnp.stack(slack, axis=1), built)


def totals(
    plan: Plan,
    leaves: Sequence[Any],
    taps: Sequence[Tap],
    built: dict[int, list[Array]],
    coefficients: Float[Array, "units parts"],
    clean: Bool[Array, ""],
) -> list[Float[Array, "..."] | None]:
    """The weighted sum of the units' gradients for every parameter.

    A coefficient of zero means exactly no contribution, whatever the unit's numbers
    are. Where some are not finite, records and gradients are replaced, since 0 * NaN
    is NaN; where all are (`clean`), that costs nothing. Finite norms mean that there is
    no NaN or infinity in what they were made from either.
    """
    keep = jnp.all(coefficients != 0, axis=1)
    ghosts = [i for c in plan.clusters if c.way is Way.GHOST for i in c.sites]
    seen, built = _cleaned(clean, keep, ({i: taps[i] for i in ghosts}, built))
    out: dict[int, Array] = {}
    sites: list[int] = []
    cotangents: list[Array] = []
    for number, cluster in enumerate(plan.clusters):
        if cluster.way is Way.PULLED:
            for parameter, gradient in zip(cluster.parameters, built[number], strict=True):
                c = coefficients[:, plan.parts[parameter]]
                _add(out, parameter, _weighted(gradient, c))
            continue
        c = coefficients[:, cluster.part]
        sites.extend(cluster.sites)
        if cluster.way is Way.KEPT:
            cotangents.append(_weighted(built[number][0], c))
        else:
            cotangents.extend(_total(plan.sites[i], seen[i], c) for i in cluster.sites)
    parameters = sorted({p for i in sites for p in plan.paths[plan.sites[i].value].parameters})
    gradients = _pull_back(plan, sites, parameters, leaves, cotangents)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        _add(out, parameter, gradient)
    return [out.get(parameter) for parameter in range(len(leaves))]


def _add(sums: dict[int, Array], parameter: int, more: Array) -> None:
    sums[parameter] = sums[parameter] + more if parameter in sums else more


def _weighted(
    gradients: Float[Array, "units ..."], coefficients: Float[Array, " units"]
) -> Float[Array, "..."]:
    """The weighted sum of gradients that are there."""
    return jnp.tensordot(coefficients.astype(gradients.dtype), gradients, 1, precision=FULL)


def _ghost(plan: Plan, cluster: Cluster, taps: Sequence[Tap]) -> tuple[Array, Array]:
    """Squared norms, and bounds on their errors, without building a gradient."""
    sites = [plan.sites[i] for i in cluster.sites]
    seen = [taps[i] for i in cluster.sites]

    def factors(seen: list[Tap]) -> list[Factors]:
        return [
            _factors(site, tap, swap)
            for site, tap, swap in zip(sites, seen, cluster.swapped, strict=True)
        ]

    def rescaled(seen: list[Tap]) -> tuple[Array, Array]:
        uses, scale = balanced(factors(seen))
        squared, slack, _ = ghost_norm(uses)
        return scale * squared, scale * slack

    found = jax.vmap(jax.vmap(lambda seen: ghost_norm(factors(seen))))(seen)
    # NaN does not count: nothing helps it.
    huge = found.size > SAFE

    def rescue(known: tuple[Array, Array], seen: list[Tap]) -> tuple[Array, Array]:
        # Rare, so only memory matters: a few units at a time. The others keep their
        # numbers to the bit: what one unit adds never depends on another.
        better = _few_at_once(jax.vmap(rescaled), seen, _FEW, plan.devices)
        return jax.tree.map(lambda new, old: jnp.where(huge, new, old), better, known)

    norms = (found.squared, found.slack)
    squared, slack = lax.cond(jnp.any(huge), rescue, lambda known, _: known, norms, seen)
    return jnp.sum(squared, axis=1), jnp.sum(slack, axis=1)


def _few_at_once(one: Callable[[Any], Any], units: Any, few: int, devices: int) -> Any:
    """`one` of each unit, few at a time on each of the devices that they are shared out over."""
    count = len(jax.tree.leaves(units)[0])
    if devices == 1 or count % devices:
        return lax.map(one, units, batch_size=few)
    own = jax.tree.map(lambda x: x.reshape(devices, count // devices, *x.shape[1:]), units)
    made = jax.vmap(lambda part: lax.map(one, part, batch_size=few))(own)
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), made)


def _factors(site: Site, tap: Tap, swap: bool) -> Factors:
    assert isinstance(site.rule, Rule)
    left, right = site.rule.factors(tap.records, tap.gradient)
    return Factors(right, left) if swap else Factors(left, right)


def _at_site(plan: Plan, number: int, taps: Sequence[Tap]) -> Float[Array, "units ..."]:
    """One gradient per unit by the value at a site."""
    site, tap = plan.sites[number], taps[number]
    build = jax.vmap(site.rule.gradient)
    few = site.rule.at_once(jax.default_backend())
    if few is None or few * plan.devices >= len(tap.gradient):
        gradient = jax.vmap(build)(tap.records, tap.gradient)
    else:
        gradient = _few_at_once(lambda seen: build(*seen), tuple(tap), few, plan.devices)
    return gradient.reshape(gradient.shape[0], *plan.program.avals[site.value].shape)


def _pulled(
    plan: Plan, cluster: Cluster, leaves: Sequence[Any], taps: Sequence[Tap]
) -> list[Float[Array, "units ..."]]:
    """One gradient per unit by each parameter of the cluster, summed over its sites."""
    at_sites = [_at_site(plan, i, taps) for i in cluster.sites]
    return jax.vmap(
        lambda cotangents: _pull_back(plan, cluster.sites, cluster.parameters, leaves, cotangents)
    )(at_sites)


def _total(site: Site, tap: Tap, coefficients: Float[Array, " units"]) -> Float[Array, "..."]:
    """The weighted sum of all gradients by the value at a site."""
    records, gradient = tap
    # The product is scaled by scaling its smaller factor.
    if records and records[0].size < gradient.size and not _integers(records[0]):
        records = (_scaled(records[0], coefficients), *records[1:])
    else:
        gradient = _scaled(gradient, coefficients)

    def total(records: tuple[Array, ...], gradient: Array) -> Array:
        flat = [x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in (*records, gradient)]
        return site.rule.total(tuple(flat[:-1]), flat[-1])

    out = jax.vmap(total, in_axes=(1, 1))(records, gradient)
    return out.reshape(*site.slices, *out.shape[1:])


def _cleaned(clean: Any, keep: Bool[Array, " units"], arrays: Any) -> Any:
    """Zeros in place of the units that are not kept, unless all is clean.

    A loop of no turns or one: it works in place and costs nothing where it has none,
    while a conditional would copy what it passes on, and products in its branches would
    run several times slower on XLA's CPU backend.
    """
    leaves, tree = jax.tree.flatten(arrays)
    chosen = {id(x): x for x in leaves if not _integers(x)}

    def turn(state: tuple[Any, list[Array]]) -> tuple[Any, list[Array]]:
        return jnp.ones((), bool), [_only(x, keep) for x in state[1]]

    start = (clean, list(chosen.values()))
    _, cleaned = lax.while_loop(lambda state: ~state[0], turn, start)
    found = dict(zip(chosen, cleaned, strict=True))
    return jax.tree.unflatten(tree, [found.get(id(x), x) for x in leaves])


def _pull_back(
    plan: Plan,
    sites: Sequence[int],
    parameters: Sequence[int],
    leaves: Sequence[Any],
    cotangents: Sequence[Array],
) -> list[Array]:
    """Gradients by parameters, from those by the values at some sites."""
    if not sites:
        return []
    values = [plan.sites[i].value for i in sites]
    chosen = [leaves[i] for i in parameters]
    if all(plan.paths[value].shape_only for value in values):
        dtype = jnp.result_type(*cotangents)
        chosen = [x.astype(dtype) for x in chosen]
        forward = _forward(plan, values, parameters, leaves, plan.paths.bind)
    else:
        dtype = jnp.result_type(jnp.float32, *chosen)
        forward = _forward(plan, values, parameters, leaves, Op.bind)
    reached, back = jax.vjp(forward, chosen)
    (gradients,) = back([c.astype(v.dtype) for c, v in zip(cotangents, reached, strict=True)])
    return [g.astype(jnp.promote_types(g.dtype, dtype)) for g in gradients]


def _forward(
    plan: Plan,
    values: Sequence[int],
    parameters: Sequence[int],
    leaves: Sequence[Any],
    bind: Callable[..., tuple[Any, ...]],
) -> Callable[[list[Any]], list[Any]]:
    """From some parameters to the values at some sites."""
    program = plan.program
    fixed = dict(zip(program.parameters, leaves, strict=True))  # integer leaves are read too
    numbers = [program.parameters[i] for i in parameters]

    def forward(chosen: list[Any]) -> list[Any]:
        known = {**fixed, **dict(zip(numbers, chosen, strict=True))}
        return program.evaluate(values, known, bind)

    return forward


def _scaled(x: Array, coefficients: Float[Array, " units"]) -> Array:
    return x * coefficients.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


def _only(x: Array, keep: Array) -> Array:
    return jnp.where(keep.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))


def _integers(x: Array) -> bool:
    return not jnp.issubdtype(x.dtype, jnp.floating)
