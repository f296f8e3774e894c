"""Convolutions with strides in forms that run faster.

XLA's own 3x3 convolutions of 16 channels and more with stride 1 run at the speed of
its matrix products, and nothing here is faster; its strided ones are not always.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from hushgrad.gradients.lowerings.lowering import Lowering

__all__ = ["PHASES", "POINTWISE"]


def _match_pointwise(
    params: Mapping[str, Any], avals: tuple[Any, ...]
) -> Callable[..., Any] | None:
    """A kernel of one position with strides: a slice and a matrix product.

    Batch 64, 32x32, 16 to 32 channels, stride 2, one core: 0.56 ms and 0.34, its gradient
    by the input 0.62 and 0.30.
    """
    spec = params["dimension_numbers"]
    kernel = [avals[1].shape[d] for d in spec.rhs_spec[2:]]
    simple = _simple(params, avals) and not any(map(any, params["padding"]))
    if not simple or max(kernel) != 1 or max(params["window_strides"]) == 1:
        return None
    return functools.partial(_pointwise, params=params)


def _pointwise(x: Array, kernel: Array, *, params: Mapping[str, Any]) -> Array:
    spec = params["dimension_numbers"]
    steps = [1] * x.ndim
    for d, stride in zip(spec.lhs_spec[2:], params["window_strides"], strict=True):
        steps[d] = stride
    x = lax.slice(x, (0,) * x.ndim, x.shape, steps)
    weights = kernel.reshape([kernel.shape[d] for d in sorted(spec.rhs_spec[:2])])
    inputs = int(spec.rhs_spec[1] > spec.rhs_spec[0])
    out = lax.dot_general(
        x,
        weights,
        (((spec.lhs_spec[1],), (inputs,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    # The product has the channels last; `order` lists its images, channels, then space.
    kept = [d for d in range(x.ndim) if d != spec.lhs_spec[1]]
    order = [kept.index(d) for d in spec.lhs_spec if d != spec.lhs_spec[1]]
    order = [order[0], x.ndim - 1, *order[1:]]
    return jnp.transpose(out, [order[spec.out_spec.index(d)] for d in range(x.ndim)])


def _match_phases(params: Mapping[str, Any], avals: tuple[Any, ...]) -> Callable[..., Any] | None:
    """Few channels and strides: the phases of the image become channels.

    A kernel of 8x8 and stride 2 on one channel is one of 4x4 and stride 1 on four: the same
    products in another order. Batch 256, 28x28x1, 8x8 stride 2, 16 channels, one core:
    10.9 ms and 3.0. With three channels XLA's own way is faster (7x7 stride 2: 9.9 and 34).
    """
    x, kernel = avals
    spec = params["dimension_numbers"]
    sizes = [kernel.shape[d] for d in spec.rhs_spec[2:]]
    strides = params["window_strides"]
    large = all(k >= 2 * s for k, s in zip(sizes, strides, strict=True))
    if not (
        _simple(params, avals)
        and x.shape[spec.lhs_spec[1]] == 1
        and 4 <= math.prod(strides) <= 16
        and large
    ):
        return None
    return functools.partial(_phases, params=params)


def _phases(x: Array, kernel: Array, *, params: Mapping[str, Any]) -> Array:
    spec = params["dimension_numbers"]
    strides = params["window_strides"]
    rank = len(strides)
    x, kernel = jnp.transpose(x, spec.lhs_spec), jnp.transpose(kernel, spec.rhs_spec)
    zero = jnp.zeros((), x.dtype)
    frame, grow = [(0, 0, 0)] * 2, [(0, 0, 0)] * 2
    for d, (stride, (low, high)) in enumerate(zip(strides, params["padding"], strict=True), 2):
        taps = -(-kernel.shape[d] // stride)
        positions = (x.shape[d] + low + high - kernel.shape[d]) // stride + 1
        length = (positions - 1 + taps) * stride
        frame.append((low, length - low - x.shape[d], 0))
        grow.append((0, taps * stride - kernel.shape[d], 0))
    out = lax.conv_general_dilated(
        _split(lax.pad(x, zero, frame), strides),
        _split(lax.pad(kernel, jnp.zeros((), kernel.dtype), grow), strides),
        (1,) * rank,
        "VALID",
        dimension_numbers=_channels_last(rank),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return jnp.transpose(out, _to_layout(spec.out_spec))


def _split(x: Array, strides: tuple[int, ...]) -> Array:
    """[n, c, *space] -> [n, *space / stride, c * phases], channels last."""
    rank = len(strides)
    blocks = [n for d, s in zip(x.shape[2:], strides, strict=True) for n in (d // s, s)]
    x = x.reshape(*x.shape[:2], *blocks)
    coarse = [2 + 2 * d for d in range(rank)]
    fine = [3 + 2 * d for d in range(rank)]
    x = jnp.transpose(x, (0, *coarse, 1, *fine))
    return x.reshape(*x.shape[: rank + 1], -1)


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    space = tuple(range(1, rank + 1))
    images = (0, rank + 1, *space)
    return lax.ConvDimensionNumbers(images, (0, rank + 1, *space), images)


def _to_layout(out_spec: tuple[int, ...]) -> list[int]:
    """The permutation from channels last to where `out_spec` wants images, channels, space."""
    rank = len(out_spec) - 2
    source = [0, rank + 1, *range(1, rank + 1)]
    return [source[out_spec.index(d)] for d in range(rank + 2)]


def _simple(params: Mapping[str, Any], avals: tuple[Any, ...]) -> bool:
    """One group, no dilation, no negative padding, floating point, and not empty."""
    dilation = (*params["lhs_dilation"], *params["rhs_dilation"])
    groups = params["feature_group_count"], params["batch_group_count"]
    spec, padding = params["dimension_numbers"], params["padding"]
    if not padding or set(dilation) != {1} or groups != (1, 1) or min(map(min, padding)) < 0:
        return False
    fits = all(
        avals[0].shape[i] + low + high >= avals[1].shape[k]
        for i, k, (low, high) in zip(spec.lhs_spec[2:], spec.rhs_spec[2:], padding, strict=True)
    )
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) and a.size for a in avals)
    return fits and floating and avals[0].dtype == avals[1].dtype


PHASES = Lowering(_match_phases)
POINTWISE = Lowering(_match_pointwise)
