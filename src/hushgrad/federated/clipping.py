"""One client's update, bounded; and the sum over a block of clients, one after the other."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree

from hushgrad.clip import Rule
from hushgrad.federated.work import Done, Work
from hushgrad.gradients import Clipped
from hushgrad.gradients.rules.contraction import sum_error

__all__ = ["Bounded", "ClippedUpdates", "bounded"]

# Added to squared norms, in units of rounding: the scaled update is rounded too.
_HEAD_ROOM = 48.0


class Bounded(NamedTuple):
    """One client's share of a sum.

    Attributes:
      update: clipped; zero where it was not finite.
      norm: before clipping.
      finite: whether all of it was, and its squared norm.
      centred_bit: 1/2 if the clip left it whole, else -1/2.
    """

    update: PyTree[Float[Array, "..."]]
    norm: Float[Array, ""]
    finite: Bool[Array, ""]
    centred_bit: Float[Array, ""]


def bounded(update: PyTree[Array], clip: Rule, norm: Float[Array, ""] | None = None) -> Bounded:
    """Clips an update.

    Formal guarantee: what is returned has a norm of at most the clip's sensitivity at `norm`,
    rounding included, whatever the update is. Where it holds NaN or infinity, or its squared
    norm overflows float32, it is exactly zero.

    Args:
      update: shaped like the parameters; leaves without a fraction (integers) become zeros.
      clip: the rule.
      norm: the current bound, where the rule's moves.
    """
    leaves, structure = jax.tree.flatten(update)
    parts = clip.parts(update)
    leaves = [_sized(leaf) for leaf in leaves]
    squared: list[Any] = [jnp.zeros((), jnp.float32)] * (1 + max(parts, default=0))
    slack = list(squared)
    for part, leaf in zip(parts, leaves, strict=True):
        if not _counts(leaf):
            continue
        more = jnp.sum(jnp.square(leaf))
        error = sum_error(leaf.size, leaf.dtype) + _HEAD_ROOM * float(jnp.finfo(leaf.dtype).eps)
        squared[part] = squared[part] + more
        slack[part] = slack[part] + error * more
    norms, room = jnp.stack(squared), jnp.stack(slack)
    finite = jnp.all(jnp.isfinite(norms + room))
    coefficients = clip.coefficients(norms[None], room[None], norm)[0]
    whole = finite & jnp.all(coefficients >= 1)
    made = [
        # A product with zero would not do away with NaN.
        jnp.where(finite, leaf * coefficients[part].astype(leaf.dtype), 0)
        if _counts(leaf)
        else jnp.zeros_like(leaf)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return Bounded(
        jax.tree.unflatten(structure, made),
        jnp.sqrt(jnp.sum(norms)),
        finite,
        jnp.where(whole, 0.5, -0.5),
    )


@dataclasses.dataclass(frozen=True)
class ClippedUpdates:
    """A function that sums the clipped updates of a block of clients.

    Clients are worked through one group of `lanes` after the other, each group at once; never
    are more updates in memory than a group's, however large the block. On a mesh each device
    works through its own part of the block.

    Attributes:
      work: what each client does.
      clip: how its update is bounded.
      lanes: how many clients work at once on a device.
      mesh: of devices that the block is shared out over, or None for one device.
      axis: its axis.
    """

    work: Work
    clip: Rule
    lanes: int = 1
    mesh: Mesh | None = None
    axis: str = ""

    def __call__(
        self,
        params: PyTree[Array],
        *batch: PyTree[Array],
        mask: Bool[Array, " block"],
        norm: Float[Array, ""] | None = None,
    ) -> Clipped:
        """Sums a block.

        Args:
          params: that the server sent.
          *batch: the arguments of `Work` after them, with a leading axis of clients.
          mask: which clients count; the others are padding.
          norm: the current bound, where the clip's moves.
        """
        if self.mesh is None:
            return self._sum(params, batch, mask, norm)
        here, everywhere = PartitionSpec(self.axis), PartitionSpec()

        def part(params: Any, batch: Any, mask: Any, norm: Any) -> Clipped:
            out = self._sum(params, batch, mask, norm)
            summed = jax.tree.map(
                lambda x: lax.psum(x, self.axis), (out.grads, out.nonfinite, out.centred_bits)
            )
            grads, nonfinite, bits = summed
            return out._replace(grads=grads, nonfinite=nonfinite, centred_bits=bits)

        out = Clipped(everywhere, here, here, everywhere, everywhere, everywhere)  # pyright: ignore[reportArgumentType]
        return jax.shard_map(
            part,
            mesh=self.mesh,
            in_specs=(everywhere, here, here, everywhere),
            out_specs=out,
            check_vma=False,
        )(params, batch, mask, norm)

    def _sum(self, params: Any, batch: Any, mask: Any, norm: Any) -> Clipped:
        def client(one: tuple[Any, Any]) -> tuple[Bounded, Array]:
            arguments, keep = one
            examples, order, steps, words = arguments
            done: Done = self.work(params, examples, order, jnp.where(keep, steps, 0), words)
            return bounded(done.update, self.clip, norm), done.loss

        def group(sums: Any, some: tuple[Any, Any]) -> tuple[Any, Any]:
            keep = some[1]
            if self.lanes == 1:
                some = jax.tree.map(lambda x: x[0], some)
                made = jax.tree.map(lambda x: x[None], client(some))
            else:
                made = jax.vmap(client)(some)
            one, losses = made
            grads, bits, bad = sums
            added = jax.tree.map(lambda s, u: s + _total(u, keep), grads, one.update)
            bits = bits + jnp.sum(jnp.where(keep, one.centred_bit, 0))
            bad = bad + jnp.sum(keep & ~one.finite, dtype=jnp.int32)
            seen = (jnp.where(keep, one.norm, 0), jnp.where(keep, losses, 0))
            return (added, bits, bad), seen

        rows = len(mask)
        grouped = jax.tree.map(
            lambda x: x.reshape(rows // self.lanes, self.lanes, *x.shape[1:]), (batch, mask)
        )
        nothing = jax.tree.map(lambda p: jnp.zeros_like(_sized(p)), params)
        start = (nothing, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))
        (grads, bits, bad), (norms, losses) = lax.scan(group, start, grouped)
        return Clipped(grads, norms.reshape(rows), losses.reshape(rows), bad, bits)


def _total(updates: Array, keep: Bool[Array, " lanes"]) -> Array:
    shape = (len(keep),) + (1,) * (updates.ndim - 1)
    return jnp.sum(jnp.where(keep.reshape(shape), updates, 0), axis=0, dtype=updates.dtype)


def _sized(leaf: Any) -> Array:
    """A leaf as it is summed: in float32 or wider; what has no fraction stays."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if _counts(leaf) else leaf


def _counts(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
