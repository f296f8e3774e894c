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

from hushgrad.clip import Rule, as_rule
from hushgrad.errors import InputError
from hushgrad.gradients.execute import per_example, run_taps, totals
from hushgrad.gradients.plan import Plan, make_plan
from hushgrad.gradients.program import trace

__all__ = ["Clipped", "ClippedGrad", "clipped_grad"]

# Added to squared norms, in units of rounding: the scaled gradient is rounded too.
_HEAD_ROOM = 48.0


class Clipped(NamedTuple):
    """What `clipped_grad` returns. Only `grads`, with noise added, may be released.

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
    """

    grads: PyTree[Float[Array, "..."]]
    norms: Float[Array, " batch"]
    losses: Float[Array, " batch"]
    nonfinite: Int[Array, ""]
    centred_bits: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class ClippedGrad:
    """A function that returns a sum of bounded contributions, and its bound.

    Made by `clipped_grad`; pure, so it can be called under `jax.jit`.
    """

    loss: Callable[..., Any]
    clip: Rule

    @property
    def sensitivity(self) -> float:
        """Largest change of `grads` when one example is added or removed.

        With an adaptive clip this is the one at the start; at a later `norm` it is
        `clip.sensitivity_at(norm)`.
        """
        return self.clip.sensitivity

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
          InputError: if the arrays differ in length, the mask does not fit, a norm
            is given to a clip whose bound does not move, or the loss does not
            return a real scalar.
        """
        leaves, treedef = jax.tree.flatten(params)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        _check_parameters(params)
        data, structure = jax.tree.flatten(batch)
        data = [jnp.asarray(leaf) for leaf in data]
        size = _batch_size(batch, data)
        keep = _mask(mask, size)
        plan = self._plan(treedef, structure, leaves, data)
        if any(self.clip.parts(params)):
            raise NotImplementedError("several parts")
        coefficients = functools.partial(self.clip.coefficients, norm=self.clip.current(norm))
        return _sum(plan, coefficients, leaves, data, keep, treedef)

    def _plan(self, treedef: Any, structure: Any, leaves: list[Any], data: list[Any]) -> Plan:
        def flat(parameters: Sequence[Any], example: Sequence[Any]) -> Any:
            args = jax.tree.unflatten(structure, list(example))
            return self.loss(jax.tree.unflatten(treedef, list(parameters)), *args)

        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        example = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in data]
        return make_plan(trace(flat, shapes, example))


def clipped_grad(loss: Callable[..., Any], clip: float | Rule) -> ClippedGrad:
    """A function that sums clipped per-example gradients of `loss`.

    ```python
    def loss(params, x, y):                       # ONE example, no batch axis
        return (x @ params["w"] + params["b"] - y) ** 2

    clipped = hg.clipped_grad(loss, clip=1.0)
    out = jax.jit(clipped)(params, xs, ys)        # arrays with a leading axis B
    out.grads                                     # sum over the batch
    ```

    The loss is traced once; one backward pass gives, wherever a parameter meets
    data, the gradient there for every example. Norms and the clipped sum follow
    without building one gradient per example where that would cost more (Li et al.
    2022, arXiv 2110.05679; Bu et al. 2023, arXiv 2210.00038). Operations without
    a rule are differentiated per example for the parameters they read: exact,
    at the price of `vmap(grad)` for those parameters.

    Formal guarantee: one example adds at most `sensitivity` (of the clip) in Euclidean
    norm over all parameters together, rounding of its own gradient and norm included,
    whatever its data, NaN and infinities too. What it adds is summed in float32 or
    wider; the rounding of the sum itself is the floating-point gap that Casacuberta
    et al. 2022 (arXiv 2207.10635) describe: small beside the noise, not zero.

    Args:
      loss: `loss(params, *example) -> scalar` for one example.
      clip: bound on the Euclidean norm of one example's gradient, or a rule from
        `hushgrad.clip`.

    Raises:
      InputError: if `clip` is not positive and finite.
    """
    if not callable(loss):
        raise InputError(f"loss must be a function loss(params, *example), got {loss!r}")
    if getattr(loss, "__hash__", None) is None:  # a callable object that compares by content
        loss = functools.partial(loss)
    return ClippedGrad(loss, as_rule(clip))


def _sum(
    plan: Plan,
    coefficients_of: Callable[[Array, Array], Array],
    leaves: list[Any],
    data: list[Any],
    keep: Any,
    treedef: Any,
) -> Clipped:
    losses, taps = run_taps(plan, leaves, data)
    built, squared, slack = per_example(plan, leaves, taps, len(keep))
    slack = slack + _HEAD_ROOM * _coarsest(leaves) * squared
    # The slack is part of the bound: an example that overflows it is dropped too.
    finite = jnp.isfinite(squared + slack)
    used = finite & keep
    coefficients = coefficients_of(squared[:, None], slack[:, None])
    coefficients = jnp.where(used[:, None], coefficients, 0)
    whole = jnp.all(coefficients >= 1, axis=1)
    bits = jnp.where(whole, 0.5, -0.5).astype(squared.dtype)
    grads = totals(plan, leaves, taps, built, coefficients[:, 0])
    zeros = (
        jnp.zeros(leaf.shape, _sum_dtype(leaf.dtype)) if grad is None else grad
        for leaf, grad in zip(leaves, grads, strict=True)
    )
    return Clipped(
        grads=jax.tree.unflatten(treedef, list(zeros)),
        norms=jnp.where(keep, jnp.sqrt(squared), 0),
        losses=jnp.where(keep, losses.astype(squared.dtype), 0),
        nonfinite=jnp.sum(keep & ~finite, dtype=jnp.int32),
        centred_bits=jnp.sum(jnp.where(keep, bits, 0)),
    )


def _check_parameters(params: Any) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise InputError(f"params must hold at least one array, got {params!r}")
    for path, leaf in leaves:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise InputError(
                f"params{jax.tree_util.keystr(path)} is complex; keep real and imaginary parts as "
                "two parameters"
            )


def _coarsest(leaves: list[Any]) -> float:
    """Unit of rounding of the narrowest type that sums are held in."""
    sums = [_sum_dtype(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return max((float(jnp.finfo(dtype).eps) for dtype in sums), default=0.0)


def _sum_dtype(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, np.inexact) else dtype


def _batch_size(batch: Sequence[Any], data: list[Any]) -> int:
    if not data:
        raise InputError("batch is empty: pass the loss's data arguments after params")
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(batch)):
        name = "batch" + jax.tree_util.keystr(path)
        if jnp.ndim(leaf) == 0:
            raise InputError(f"{name} must have a leading batch axis, got a scalar")
        sizes[name] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise InputError(f"all batch arrays must have the same length, got {listed}")
    return next(iter(sizes.values()))


def _mask(mask: Any, size: int) -> Bool[Array, " batch"]:
    if mask is None:
        return jnp.ones(size, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (size,) or mask.dtype != bool:
        raise InputError(
            f"mask must be boolean of shape ({size},), got {mask.dtype} of shape {mask.shape}"
        )
    return mask
