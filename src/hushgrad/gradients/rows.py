"""How many examples of a batch look up each row of a table, each example bounded.

The trace knows where a table meets data: so whoever names it cannot name rows that are not those
that the loss reads, nor forget one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hushgrad._check import positive
from hushgrad.errors import InputError
from hushgrad.gradients.execute import Tap
from hushgrad.gradients.inputs import parameter_name
from hushgrad.gradients.plan import Plan
from hushgrad.gradients.rules import Direct, Lookup

__all__ = ["RowCounts", "found", "looked_up"]


@dataclasses.dataclass(frozen=True)
class RowCounts:
    """Counts, beside a sum of gradients, of the examples that look up each row of a table.

    Formal guarantee: an example adds the same number to every row that it looks up, however
    often, and to no other: min(1, norm / sqrt(number of its rows)). So all it adds has a Euclidean
    norm of at most `norm`. One that is masked or whose gradient is not finite adds nothing.

    Attributes:
      table: the parameter, by where it stands: "embedding", "encoder.words". Rows are its
        first axis.
      norm: of all that one example adds.

    Raises:
      InputError: if `norm` is not a positive number; on use, if there is no such parameter, or
        the loss does not look up its rows, or uses it in another way too.
    """

    table: str
    norm: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", positive("norm", self.norm))


def found(params: PyTree, table: str) -> int:
    """The position of a parameter in the flat list of them.

    Raises:
      InputError: if there is none of that name.
    """
    names = [parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if table not in names:
        raise InputError(f"table must be one of the parameters {', '.join(names)}, got {table!r}")
    return names.index(table)


def looked_up(
    plan: Plan,
    taps: Sequence[Tap],
    number: int,
    counted: RowCounts,
    keep: Bool[Array, " units"],
) -> Float[Array, " rows"]:
    """The counts over a batch.

    Args:
      plan: of the loss.
      taps: what every site saw.
      number: of the table among the parameters.
      counted: which bound.
      keep: False for what adds nothing.

    Raises:
      InputError: as `RowCounts`.
    """
    rows = plan.program.avals[plan.program.parameters[number]].shape[0]
    ids = [_positions(plan, taps, site) for site in _lookups(plan, number, counted.table)]
    # An example's rows in order, so that those that it looks up again follow each other.
    each = jnp.sort(jnp.concatenate(ids, axis=1), axis=1)
    first = jnp.concatenate([jnp.ones_like(each[:, :1], bool), each[:, 1:] != each[:, :-1]], axis=1)
    # What is read out of bounds has the number -1.
    first = first & (each >= 0) & keep[:, None]
    distinct = jnp.sum(first, axis=1, dtype=jnp.float32)
    # Rounded down: the norm holds in floating point too.
    bound = counted.norm * (1 - 4 * float(jnp.finfo(jnp.float32).eps))
    share = bound / jnp.sqrt(jnp.maximum(distinct, 1))
    added = jnp.where(distinct <= counted.norm**2, 1.0, share)
    marks = jnp.where(first, added[:, None], 0)
    return jnp.zeros(rows).at[jnp.where(first, each, rows)].add(marks, mode="drop")


def _positions(plan: Plan, taps: Sequence[Tap], number: int) -> Int[Array, "units looked"]:
    """The rows that each unit reads at a site."""
    rule, (records, gradient) = plan.sites[number].rule, taps[number]
    assert isinstance(rule, Lookup)
    ids = jax.vmap(lambda seen: rule.rows_of(seen, gradient.shape[2]))(
        tuple(record[:, 0] for record in records)
    )
    return ids.reshape(len(gradient), -1)


def _lookups(plan: Plan, number: int, table: str) -> list[int]:
    """The sites of a table, all of which look up its rows.

    Raises:
      InputError: naming another use, or that there is none.
    """
    reached = [i for i, s in enumerate(plan.sites) if number in plan.paths[s.value].parameters]
    if not reached:
        raise InputError(f"table {table!r} is not used by the loss; name one whose rows it reads")
    shape = plan.program.avals[plan.program.parameters[number]].shape
    for i in reached:
        rule, path = plan.sites[i].rule, plan.paths[plan.sites[i].value]
        whole = path.frame == tuple(range(len(shape))) and all(
            region.box == tuple((0, n, 1) for n in shape) for region in path.regions
        )
        if isinstance(rule, Lookup) and rule.chosen == (0,) and whole and not plan.sites[i].slices:
            continue
        name = rule.why if isinstance(rule, Direct) else rule.op.primitive.name
        how = f"{name} on a part or another form of it" if not whole else name
        raise InputError(
            f"table {table!r} must be used in lookups of whole rows alone, as in table[ids], but "
            f"the loss also uses it in {how}: every example may then move every row, and choosing "
            "rows would lose gradients. Untie it (a read-out with weights of its own), or take "
            "hg.dp_sgd"
        )
    return reached
