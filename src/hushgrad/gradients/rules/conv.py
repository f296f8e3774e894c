"""Convolutions, as matrix products of patches.

For one example a convolution is a matrix product: the rows are the output
positions, the depth is a patch of the input (channels x kernel positions), and
feature groups are groups of the product (Rochette et al. 2019, arXiv 1912.06015,
reach the same gradient through a grouped convolution, which runs slower).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.contraction import FULL
from hushgrad.gradients.rules.rule import Factors, Layout, Rule, computable, flat_repeats

__all__ = ["Convolution"]


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

    def apply(self, weight: Any, records: tuple[Any, ...]) -> Array:
        dtype = jnp.result_type(weight, *records)
        out = self.op.bind(*records, weight, preferred_element_type=dtype, precision=(FULL, FULL))
        return out[0]

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        # One small product per kernel position: measured faster on a CPU than one
        # product of all patches, and the patches are never held.
        spatial = "".join(chr(ord("h") + i) for i in range(len(self._kernel())))
        inputs, outputs = "ngc" + spatial, "ngp" + spatial
        x, g = self._images(records[0]), self._outputs(g)
        products = [
            jnp.einsum(f"{inputs},{outputs}->cgp", shifted, g, precision=FULL)
            for shifted in self._shifted(x)
        ]
        spec = self._numbers().rhs_spec
        out, depth, *kernel = (self.avals[1].shape[d] for d in spec)
        ordered = jnp.stack(products).reshape(*kernel, depth, out)
        # The kernel's spec lists output channels, input channels, then space.
        return jnp.transpose(ordered, _inverse((*spec[2:], spec[1], spec[0])))

    def total(self, records: tuple[Any, ...], g: Array) -> Array:
        return Rule.gradient(self, records, g)

    def factors(self, records: tuple[Any, ...], g: Array) -> Factors:
        x, g = self._images(records[0]), self._outputs(g)
        groups, depth, columns = self.sizes
        # [images, groups, channels, kernel, *positions] -> [groups, rows, depth]
        patches = jnp.stack(self._shifted(x), axis=3)
        patches = jnp.moveaxis(patches, (1, 2, 3), (0, -2, -1))
        g = jnp.moveaxis(g, (1, 2), (0, -1))
        return Factors(patches.reshape(groups, -1, depth), g.reshape(groups, -1, columns))

    def _numbers(self) -> Any:
        return self.op.params["dimension_numbers"]

    def _parts(self) -> int:
        """Feature groups or batch groups; one of both is one."""
        return self.op.params["feature_group_count"] * self.op.params["batch_group_count"]

    def _images(self, x: Array) -> Float[Array, "images groups channels ..."]:
        """The input, repeats as images, batch groups as groups of channels."""
        spec = self._numbers().lhs_spec
        x = flat_repeats(jnp.transpose(x, (0, *(d + 1 for d in spec))))
        batches = self.op.params["batch_group_count"]
        if batches > 1:  # the groups are the outer part of the images of each repeat
            per_repeat = self.avals[0].shape[spec[0]] // batches
            x = x.reshape(-1, batches, per_repeat, *x.shape[1:])
            x = jnp.moveaxis(x, 1, 2)
            return x.reshape(-1, *x.shape[2:])
        groups = self.op.params["feature_group_count"]
        return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])

    def _outputs(self, g: Array) -> Float[Array, "images groups columns ..."]:
        spec = self._numbers().out_spec
        g = flat_repeats(jnp.transpose(g, (0, *(d + 1 for d in spec))))
        return g.reshape(g.shape[0], self._parts(), g.shape[1] // self._parts(), *g.shape[2:])

    def _kernel(self) -> tuple[int, ...]:
        return tuple(self.avals[1].shape[d] for d in self._numbers().rhs_spec[2:])

    def _positions(self) -> tuple[int, ...]:
        """Output positions along each spatial dimension."""
        return tuple(self.out.shape[d] for d in self._numbers().out_spec[2:])

    def _shifted(self, x: Array) -> list[Array]:
        """The input under each kernel position: strided slices of the padded input.

        Each is laid out as images, groups, channels, output positions.
        """
        params = self.op.params
        config = [
            (low, high, grow - 1)
            for (low, high), grow in zip(params["padding"], params["lhs_dilation"], strict=True)
        ]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 3 + config)
        strides = params["window_strides"]
        spans = [t * (n - 1) + 1 for t, n in zip(strides, self._positions(), strict=True)]
        shifts = itertools.product(
            *(
                range(0, k * d, d)
                for k, d in zip(self._kernel(), params["rhs_dilation"], strict=True)
            )
        )
        return [
            lax.slice(
                x,
                (0, 0, 0, *shift),
                (*x.shape[:3], *(s + span for s, span in zip(shift, spans, strict=True))),
                (1, 1, 1, *strides),
            )
            for shift in shifts
        ]


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))
