"""Convolutions, as matrix products of patches.

For one example a convolution is a matrix product: the rows are the output
positions, the depth is a patch of the input (channels x kernel positions), and
feature groups are groups of the product (Rochette et al. 2019, arXiv 1912.06015,
reach the same gradient through a grouped convolution, which runs slower).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.contraction import FULL
from hushgrad.gradients.rules.rule import Factors, Layout, Rule, computable, flat_repeats

__all__ = ["Convolution"]

# Fewer channels than this make products too small to be fast.
_FEW = 17


class Convolution(Rule):
    """`conv_general_dilated` with the parameter as its kernel."""

    name = "conv_general_dilated"

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
        # A parameter that is convolved as an image goes the direct way.
        if position != 1 or not computable(avals):
            return None
        return cls(op, position, avals, out)

    @property
    def layout(self) -> Layout | None:
        if self._parts() > 1:
            return None  # the output channels are groups and columns in one dimension
        out, *patch = self._numbers().rhs_spec
        return Layout((), tuple(patch), (out,))

    @property
    def sizes(self) -> tuple[int, int, int]:
        out, *patch = (self.avals[1].shape[d] for d in self._numbers().rhs_spec)
        return self._parts(), math.prod(patch), out // self._parts()

    @property
    def rows(self) -> int:
        return math.prod(self.out.shape) // self.avals[1].shape[self._numbers().rhs_spec[0]]

    @property
    def copied(self) -> int:
        _, patch, _ = self.sizes
        return patch if math.prod(self._kernel()) > 1 else 0

    def at_once(self, backend: str) -> int | None:
        # The shifted inputs are then made in memory that is at hand. CNN of the tutorial, batch
        # 256: 30 ms, and 17 in chunks of 32 to 64; a ResNet's step 560 ms of work, and 480.
        return 32 if backend == "cpu" and self.copied else None

    def apply(self, weight: Any, records: tuple[Any, ...]) -> Array:
        dtype = jnp.result_type(weight, *records)
        out = self.op.bind(*records, weight, preferred_element_type=dtype, precision=(FULL, FULL))
        return out[0]

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        # One product per kernel position: measured faster on a CPU than one product of all
        # patches, and the patches are never held. Few channels make products too small: then
        # one per row of the kernel (28x28x1, 8x8: 6.5 ms and 3.8; 13x13x16, 4x4: 5.2 and 3.8).
        x, g = self._padded(self._images(records[0])), self._outputs(g)
        groups, channels = x.shape[-2:]
        *kernel, last = self._kernel()
        outer = range(len(kernel))
        if groups == 1 and channels < _FEW:
            x = jnp.concatenate([self._shift(x, {len(kernel): k}) for k in range(last)], axis=-1)
            shifts = [dict(zip(outer, at, strict=True)) for at in _grid(kernel)]
        else:
            dims = range(len(kernel) + 1)
            shifts = [dict(zip(dims, at, strict=True)) for at in _grid([*kernel, last])]
        products = [_product(self._shift(x, shift), g) for shift in shifts]
        spec = self._numbers().rhs_spec
        out, depth = (self.avals[1].shape[d] for d in spec[:2])
        # [kernel..., channels, groups, columns]; the kernel's spec lists output channels, input
        # channels, then space.
        ordered = jnp.stack(products).reshape(*kernel, last, depth, out)
        return jnp.transpose(ordered, _inverse((*spec[2:], spec[1], spec[0])))

    def total(self, records: tuple[Any, ...], g: Array) -> Array:
        if math.prod(self._kernel()) == 1:
            return self.gradient(records, g)
        return Rule.gradient(self, records, g)

    def factors(self, records: tuple[Any, ...], g: Array) -> Factors:
        x, g = self._padded(self._images(records[0])), self._outputs(g)
        groups, depth, columns = self.sizes
        dims = range(len(self._kernel()))
        shifts = [dict(zip(dims, at, strict=True)) for at in _grid(self._kernel())]
        # [images, *positions, groups, channels, kernel] -> [groups, rows, depth]
        patches = jnp.stack([self._shift(x, shift) for shift in shifts], axis=-1)
        patches, g = jnp.moveaxis(patches, -3, 0), jnp.moveaxis(g, -2, 0)
        return Factors(patches.reshape(groups, -1, depth), g.reshape(groups, -1, columns))

    def _numbers(self) -> Any:
        return self.op.params["dimension_numbers"]

    def _parts(self) -> int:
        """Feature groups or batch groups; one of both is one."""
        return self.op.params["feature_group_count"] * self.op.params["batch_group_count"]

    def _images(self, x: Array) -> Float[Array, "images *space groups channels"]:
        """The input, repeats as images, batch groups as groups of channels."""
        spec = self._numbers().lhs_spec
        x = flat_repeats(jnp.transpose(x, (0, *(d + 1 for d in (spec[0], *spec[2:], spec[1])))))
        batches = self.op.params["batch_group_count"]
        if batches > 1:  # the groups are the outer part of the images of each repeat
            per_repeat = self.avals[0].shape[spec[0]] // batches
            x = x.reshape(-1, batches, per_repeat, *x.shape[1:])
            x = jnp.moveaxis(x, 1, -2)
            return x.reshape(-1, *x.shape[2:])
        groups = self.op.params["feature_group_count"]
        return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)

    def _outputs(self, g: Array) -> Float[Array, "images *space groups columns"]:
        spec = self._numbers().out_spec
        g = flat_repeats(jnp.transpose(g, (0, *(d + 1 for d in (spec[0], *spec[2:], spec[1])))))
        return g.reshape(*g.shape[:-1], self._parts(), g.shape[-1] // self._parts())

    def _kernel(self) -> tuple[int, ...]:
        return tuple(self.avals[1].shape[d] for d in self._numbers().rhs_spec[2:])

    def _padded(self, x: Array) -> Array:
        """The input with its padding and dilation."""
        params = self.op.params
        space = [
            (low, high, grow - 1)
            for (low, high), grow in zip(params["padding"], params["lhs_dilation"], strict=True)
        ]
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *space, (0, 0, 0), (0, 0, 0)])

    def _shift(self, x: Array, shift: dict[int, int]) -> Array:
        """What output positions see at one position of the kernel, along some dimensions."""
        start, stop, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
        for dim, k in shift.items():
            positions = self.out.shape[self._numbers().out_spec[2 + dim]]
            step[dim + 1] = self.op.params["window_strides"][dim]
            start[dim + 1] = k * self.op.params["rhs_dilation"][dim]
            stop[dim + 1] = start[dim + 1] + step[dim + 1] * (positions - 1) + 1
        return lax.slice(x, start, stop, step)


def _product(x: Array, g: Array) -> Float[Array, "channels groups columns"]:
    """Sum over images and positions of the products of inputs and output gradients."""
    if x.shape[-1] == 1 and x.shape[-2] > 1:  # depthwise: no matrix to multiply
        return jnp.sum(x * g, axis=tuple(range(x.ndim - 2)))[None]
    space = "".join(chr(ord("h") + i) for i in range(x.ndim - 3))
    return jnp.einsum(f"n{space}gc,n{space}gp->cgp", x, g, precision=FULL)


def _grid(sizes: Sequence[int]) -> Iterable[tuple[int, ...]]:
    return itertools.product(*(range(n) for n in sizes))


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))
