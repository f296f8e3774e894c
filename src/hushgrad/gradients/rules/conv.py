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
from hushgrad.gradients.rules.contraction import FULL, ghost_norm, prefers_ghost
from hushgrad.gradients.rules.rule import Rule, computable

__all__ = ["Convolution"]


class Convolution(Rule):
    """`conv_general_dilated` with the parameter as its kernel."""

    name = "conv_general_dilated"

    @classmethod
    def match(cls, op: Op, position: int, avals: tuple[Any, ...]) -> Rule | None:
        # A parameter that is convolved as an image, and batch groups, go the direct way.
        if position != 1 or op.params["batch_group_count"] != 1 or not computable(avals):
            return None
        return cls(op, position, avals)

    def apply(self, weight: Any, records: tuple[Any, ...]) -> Array:
        dtype = jnp.result_type(weight, *records)
        out = self.op.bind(*records, weight, preferred_element_type=dtype, precision=(FULL, FULL))
        return out[0]

    @property
    def ghost(self) -> bool:
        return prefers_ghost(*self._sizes()[1:])

    def gradient(self, records: tuple[Any, ...], g: Array) -> Array:
        # One small product per kernel position: measured faster on a CPU than one
        # product of all patches, and the patches are never held.
        spec = self.op.params["dimension_numbers"]
        spatial = "".join(chr(ord("h") + i) for i in range(len(self._kernel())))
        inputs, outputs = "ngc" + spatial, "ngp" + spatial
        g = self._split_channels(jnp.transpose(g, spec.out_spec))
        products = [
            jnp.einsum(f"{inputs},{outputs}->cgp", self._split_channels(x), g)
            for x in self._shifted(records[0])
        ]
        out, depth, *kernel = (self.avals[1].shape[d] for d in spec.rhs_spec)
        ordered = jnp.stack(products).reshape(*kernel, depth, out)
        # The kernel's spec lists output channels, input channels, then space.
        return jnp.transpose(
            ordered, _inverse((*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]))
        )

    def squared_norm(
        self, records: tuple[Any, ...], g: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return ghost_norm(self._patches(records[0]), self._outputs(g))

    def _sizes(self) -> tuple[int, int, int, int]:
        """Groups, rows (output positions), depth (patch), columns (output channels)."""
        groups = self.op.params["feature_group_count"]
        out_channels, *patch = (
            self.avals[1].shape[d] for d in self.op.params["dimension_numbers"].rhs_spec
        )
        rows = self._images() * math.prod(self._positions())
        return groups, rows, math.prod(patch), out_channels // groups

    def _images(self) -> int:
        return self.avals[0].shape[self.op.params["dimension_numbers"].lhs_spec[0]]

    def _kernel(self) -> tuple[int, ...]:
        spec = self.op.params["dimension_numbers"].rhs_spec
        return tuple(self.avals[1].shape[d] for d in spec[2:])

    def _positions(self) -> tuple[int, ...]:
        """Output positions along each spatial dimension."""
        params, spec = self.op.params, self.op.params["dimension_numbers"].lhs_spec
        sizes = (self.avals[0].shape[d] for d in spec[2:])
        return tuple(
            max(0, ((n - 1) * grow + 1 + low + high - (k - 1) * spread - 1) // stride + 1)
            for n, k, (low, high), stride, grow, spread in zip(
                sizes,
                self._kernel(),
                params["padding"],
                params["window_strides"],
                params["lhs_dilation"],
                params["rhs_dilation"],
                strict=True,
            )
        )

    def _shifted(self, x: Array) -> list[Array]:
        """The input under each kernel position: strided slices of the padded input.

        Each is laid out as images, channels, output positions.
        """
        params = self.op.params
        x = jnp.transpose(x, params["dimension_numbers"].lhs_spec)
        config = [
            (low, high, grow - 1)
            for (low, high), grow in zip(params["padding"], params["lhs_dilation"], strict=True)
        ]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *config])
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
                (0, 0, *shift),
                (*x.shape[:2], *(s + span for s, span in zip(shift, spans, strict=True))),
                (1, 1, *strides),
            )
            for shift in shifts
        ]

    def _split_channels(self, x: Array) -> Array:
        groups = self.op.params["feature_group_count"]
        return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])

    def _patches(self, x: Array) -> Float[Array, "groups rows depth"]:
        groups, rows, depth, _ = self._sizes()
        # [images, channels, kernel, positions] -> [groups, rows, depth]
        stacked = jnp.stack(self._shifted(x), axis=2)
        stacked = stacked.reshape(self._images(), groups, depth, -1)
        return jnp.transpose(stacked, (1, 0, 3, 2)).reshape(groups, rows, depth)

    def _outputs(self, g: Array) -> Float[Array, "groups rows columns"]:
        groups, rows, _, columns = self._sizes()
        spec = self.op.params["dimension_numbers"].out_spec
        g = jnp.transpose(g, spec).reshape(self._images(), groups, columns, -1)
        return jnp.transpose(g, (1, 0, 3, 2)).reshape(groups, rows, columns)


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))
