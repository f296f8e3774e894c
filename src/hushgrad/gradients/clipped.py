"""`clipped_grad`: the sum of clipped per-example gradients, in one backward pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from hushgrad._check import positive, whole
from hushgrad.clip import Rule, as_rule
from hushgrad.errors import InputError
from hushgrad.gradients.chunks import in_chunks
from hushgrad.gradients.execute import run_taps
from hushgrad.gradients.inputs import batch_mask, batch_size, flat_params, traced
from hushgrad.gradients.memory import chunk_size
from hushgrad.gradients.plan import Plan, make_plan
from hushgrad.gradients.rows import RowCounts, found, looked_up
from hushgrad.gradients.sums import per_example, totals

__all__ = ["Clipped", "ClippedGrad", "clipped_grad"]

# Added to squared norms, in units of rounding: the scaled gradient is rounded too.
_HEAD_ROOM = 48.0


class Clipped(NamedTuple):
    """What `clipped_grad` returns. Only `grads`, with noise added, may be released.

    Where `group` is more than one, "example" means a group: B is their number.

    Attributes:
      grads: the sum over the batch of clipped gradients, shaped like the
        parameters, in float32 or wider. Not private until noise is added.
      norms: each example's gradient norm before clipping. Not private.
      losses: each example's loss. Not private.
      nonfinite: how many examples had a gradient that is NaN or infinite; they
        contribute exactly zero. Not private.
      centred_bits: 1/2 for each example that the clip left whole, -1/2 for each
        that it scaled down or that is not finite, summed: one example changes it
        by at most 1/2. Not private until noise is added.
      aux: with `has_aux`, what the loss returned beside its value, each array with
        a leading batch axis (always one row per example); else None. Not private.
      counts: with `counts`, how many examples look up each row of the table, each bounded
        (`RowCounts`); else None. Not private until noise is added.
    """

    grads: PyTree[Float[Array, "..."]]
    norms: Float[Array, " batch"]
    losses: Float[Array, " batch"]
    nonfinite: Int[Array, ""]
    centred_bits: Float[Array, ""]
    aux: PyTree = None
    counts: Float[Array, " rows"] | None = None


@dataclasses.dataclass(frozen=True)
class ClippedGrad:
    """A function that returns a sum of bounded contributions, and its bound.

    Made by `clipped_grad`; pure, so it can be called under `jax.jit`.
    """

    loss: Callable[..., Any]
    clip: Rule
    has_aux: bool = False
    group: int = 1
    memory: int | None = None
    loss_scale: float = 1.0
    devices: int = 1
    counts: RowCounts | None = None

    @property
    def sensitivity(self) -> float:
        """Largest change of `grads` when one example is added or removed.

        With an adaptive clip this is the one at the start; at a later `norm` it is
        `clip.sensitivity_at(norm)`. With `group` it is twice the clip's: see
        `clipped_grad`.
        """
        return self.clip.sensitivity * (2 if self.group > self.clip.group else 1)

    def __call__(
        self,
        params: PyTree[Shaped[Any, "..."]],
        *batch: PyTree[Shaped[Any, "batch ..."]],
        mask: Bool[Array, " batch"] | Sequence[bool] | None = None,
        norm: Float[Any, ""] | float | None = None,
    ) -> Clipped:
        """Sums the clipped gradients of a batch.

        Args:
          params: any pytree of arrays; integer leaves get a gradient of zeros.
          *batch: the arguments of the loss after the parameters, each a pytree of
            arrays with a leading batch axis.
          mask: False marks padding: such a row contributes exactly zero to
            `grads` and is not counted; its norm and loss are reported as zero.
          norm: the current bound of an `Adaptive` clip; its initial one by default.

        Raises:
          InputError: if the arrays differ in length, the mask does not fit, the
            length is no multiple of `group`, a norm is given to a clip whose bound
            does not move, or the loss does not return a real scalar or writes to
            state that outlives it.
        """
        leaves, treedef = flat_params(params)
        data, structure = jax.tree.flatten(batch)
        data = [jnp.asarray(leaf) for leaf in data]
        size = batch_size(batch)
        if size % self.group:
            raise InputError(
                f"the batch must be a multiple of group={self.group}, got {size} examples; pad "
                "it and mask the padding"
            )
        keep = batch_mask(mask, size)
        shapes = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in data]
        example = jax.tree.unflatten(structure, shapes)
        program, aux = traced(self._scaled, params, example, self.has_aux)
        # A batch that cannot be shared out evenly is taken as if all were on one device.
        devices = self.devices if size % (self.devices * self.group) == 0 else 1
        plan = make_plan(program, self.clip.parts(params), self.group, devices)
        coefficients = functools.partial(self.clip.coefficients, norm=self.clip.current(norm))
        counted = None if self.counts is None else (self.counts, found(params, self.counts.table))

        def one(data: list[Any], keep: Any) -> Clipped:
            return _sum(plan, coefficients, leaves, data, keep, self.loss_scale, counted)

        chunk = devices * chunk_size(plan, size // devices, self.memory)
        if chunk >= size:
            out = one(data, keep)
        else:
            out = in_chunks(one, data, keep, chunk, self.group, devices)
        return out._replace(
            grads=jax.tree.unflatten(treedef, out.grads),
            aux=jax.tree.unflatten(aux, out.aux) if self.has_aux else None,
        )

    @property
    def _scaled(self) -> Callable[..., Any]:
        """The loss times its scale."""
        if self.loss_scale == 1:
            return self.loss

        def scaled(*arguments: Any) -> Any:
            out = self.loss(*arguments)
            if self.has_aux:
                return out[0] * self.loss_scale, out[1]
            return out * self.loss_scale

        return scaled


def clipped_grad(
    loss: Callable[..., Any],
    clip: float | Rule,
    *,
    has_aux: bool = False,
    group: int = 1,
    memory: int | None = None,
    loss_scale: float = 1.0,
    devices: int = 1,
    counts: RowCounts | None = None,
) -> ClippedGrad:
    """A function that sums clipped per-example gradients of `loss`.

    ```python
    def loss(params, x, y):                       # ONE example, no batch axis
        return (x @ params["w"] + params["b"] - y) ** 2

    clipped = hg.clipped_grad(loss, clip=1.0)
    out = jax.jit(clipped)(params, xs, ys)        # arrays with a leading axis B
    out.grads                                     # sum over the batch
    ```

    One backward pass gives, wherever a parameter meets data, the gradient there for
    every example. Norms and the clipped sum follow without building one gradient per
    example where that would cost more (Li et al. 2022, arXiv 2110.05679; Bu et al.
    2023, arXiv 2210.00038). Operations without a rule are differentiated per example for
    the parameters they read: exact, at the price of `vmap(grad)`; `hg.explain` says which.

    Randomness belongs to the example: pass a key for each, `loss(params, x, key)`. So does
    augmentation: a loss that is the mean over copies of its one example is clipped as one.

    Formal guarantee: one example adds at most `sensitivity` (the clip) in Euclidean
    norm over all parameters together, rounding of its own gradient and norm included,
    whatever its data, NaN and infinities too. What it adds is summed in float32 or
    wider; the rounding of the sum itself is the floating-point gap that Casacuberta
    et al. 2022 (arXiv 2207.10635) describe: small beside the noise, not zero.

    With `group=k` the mean gradient of rows `0..k-1`, of rows `k..2k-1`, and so on is
    clipped (McMahan et al. 2018, arXiv 1812.06210: "microbatches"). Every group adds
    at most the clip. An example that is replaced, or masked where it stands, changes
    one group from anything to anything: sensitivity is twice the clip, and the clip
    alone only where whole groups come and go, not where examples move between groups.

    Args:
      loss: `loss(params, *example) -> scalar` for one example; a pair with `has_aux`.
      clip: bound on the Euclidean norm of one example's gradient, or a rule from
        `hushgrad.clip`.
      has_aux: the loss returns a pair of the scalar and any pytree of arrays.
      group: how many examples, neighbours in the batch, are clipped as one.
      memory: bound on the bytes of intermediate results, as estimated from shapes, kept
        by chunks of the batch; by default about twice what the ordinary gradient needs.
      loss_scale: a factor on the loss that keeps gradients in float16 from vanishing
        (Micikevicius et al. 2018, arXiv 1710.03740); what is returned is of the loss itself.
      devices: among how many the batch is shared out; `memory` is that of each of them.
      counts: also count who looks up each row of a table, for noise that is only on rows that
        a private choice picks (`hg.noise.sparse`).

    Raises:
      InputError: if `clip`, `group`, `memory`, `loss_scale` or `devices` is not a positive
        (whole) number, or `counts` is no `RowCounts`, or given with a group.
    """
    if not callable(loss):
        raise InputError(f"loss must be a function loss(params, *example), got {loss!r}")
    if getattr(loss, "__hash__", None) is None:  # a callable object that compares by content
        loss = functools.partial(loss)
    if memory is not None:
        memory = int(positive("memory", memory))
    scale, rule, group = positive("loss_scale", loss_scale), as_rule(clip), whole("group", group)
    if rule.group > 1 and group not in (1, rule.group):
        raise InputError(f"group={group} is not that of clip={rule!r}; leave it out")
    group, devices = max(group, rule.group), whole("devices", devices)
    if counts is not None and (not isinstance(counts, RowCounts) or group > 1):
        raise InputError(
            f"counts must be hg.gradients.RowCounts(table), without a group, got {counts!r} with "
            f"group={group}"
        )
    return ClippedGrad(loss, rule, bool(has_aux), group, memory, scale, devices, counts)


def _sum(
    plan: Plan,
    coefficients_of: Callable[[Array, Array], Array],
    leaves: list[Any],
    data: list[Any],
    keep: Bool[Array, " batch"],
    scale: float,
    counted: tuple[RowCounts, int] | None,
) -> Clipped:
    passed = run_taps(plan, leaves, data, keep)
    losses, units = passed.losses / scale, keep
    if plan.group > 1:
        units = jnp.any(keep.reshape(-1, plan.group), axis=1)
        losses = jnp.mean(jnp.where(keep, losses, 0).reshape(-1, plan.group), axis=1)
    squared, slack, built = per_example(plan, leaves, passed.taps, len(units))
    squared, slack = squared / scale**2, slack / scale**2
    slack = slack + _HEAD_ROOM * _coarsest(leaves) * squared
    # The slack is part of the bound: an example that overflows it is dropped too.
    finite = jnp.all(jnp.isfinite(squared + slack), axis=1)
    coefficients = coefficients_of(squared, slack)
    whole_ones = jnp.all(coefficients >= 1, axis=1) & finite
    coefficients = jnp.where((finite & units)[:, None], coefficients, 0)
    grads = totals(plan, leaves, passed.taps, built, coefficients / scale, jnp.all(finite))
    bits = jnp.where(whole_ones, 0.5, -0.5).astype(squared.dtype)
    counts = None
    if counted is not None:
        how, number = counted
        counts = looked_up(plan, passed.taps, number, how, finite & units)
    return Clipped(
        grads=[
            jnp.zeros(leaf.shape, _sum_dtype(leaf.dtype)) if grad is None else grad
            for leaf, grad in zip(leaves, grads, strict=True)
        ],
        norms=jnp.where(units, jnp.sqrt(jnp.sum(squared, axis=1)), 0),
        losses=jnp.where(units, losses.astype(squared.dtype), 0),
        nonfinite=jnp.sum(units & ~finite, dtype=jnp.int32),
        centred_bits=jnp.sum(jnp.where(units, bits, 0)),
        aux=passed.aux,
        counts=counts,
    )


def _coarsest(leaves: list[Any]) -> float:
    """Unit of rounding of the narrowest type that sums are held in."""
    sums = [_sum_dtype(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return max((float(jnp.finfo(dtype).eps) for dtype in sums), default=0.0)


def _sum_dtype(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, np.inexact) else dtype
