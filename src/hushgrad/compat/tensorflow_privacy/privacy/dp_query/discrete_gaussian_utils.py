"""Exact samples of the discrete Gaussian, with whole numbers alone.

Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), algorithms 1 to 3. No float takes
part, so there is no rounding to attack, and the randomness is the operating system's. About
fifty microseconds each.
"""

from __future__ import annotations

import math
import secrets
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from hushgrad.compat.tensorflow_privacy.privacy.dp_query import _noise
from hushgrad.errors import InputError

__all__ = ["sample_discrete_gaussian"]


def sample_discrete_gaussian(
    scale: float | Fraction, shape: Any, dtype: Any = jnp.int32
) -> Int[Array, "..."]:
    """Independent samples with probabilities proportional to exp(-k^2 / (2 scale^2)).

    Args:
      scale: sigma; any number of at least 0, taken exactly as it is. (TensorFlow Privacy
        takes whole numbers.)
      shape: of the result.
      dtype: int32 or int64.

    Raises:
      InputError: if the scale is negative or not finite, or the type is another.
    """
    _noise.on_host("sample_discrete_gaussian")
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.int32), jnp.dtype(jnp.int64)):
        raise InputError(f"dtype must be int32 or int64, got {dtype!r}")
    _noise.scale("scale", scale)
    shape = tuple(int(size) for size in np.atleast_1d(np.asarray(shape, int)))
    variance = Fraction(scale) ** 2
    drawn = [_gaussian(variance) if variance else 0 for _ in range(math.prod(shape))]
    # What does not fit wraps around, as the sum it is added to does.
    return jnp.asarray(np.array(drawn, np.int64).reshape(shape).astype(jnp.dtype(dtype)))


def _gaussian(variance: Fraction) -> int:
    """Algorithm 3: a discrete Laplace sample, kept with a chance that makes up for it."""
    over, under = variance.numerator, variance.denominator
    scale = math.isqrt(over // under) + 1
    while True:
        drawn = _laplace(scale)
        off = abs(drawn) * scale * under - over
        if _happens_exp(off * off, 2 * scale * scale * over * under):
            return drawn


def _laplace(scale: int) -> int:
    """Algorithm 2: probabilities proportional to exp(-|k| / scale)."""
    while True:
        rest = secrets.randbelow(scale)
        if not _happens_exp(rest, scale):
            continue
        whole = 0
        while _happens_exp(1, 1):
            whole += 1
        size = rest + scale * whole
        negative = secrets.randbelow(2)
        if size or not negative:  # or zero would come twice as often
            return -size if negative else size


def _happens_exp(over: int, under: int) -> bool:
    """Algorithm 1: true with probability exp(-over / under)."""
    while over > under:
        if not _happens_exp(1, 1):
            return False
        over -= under
    # Of the first trial that fails, with chances over / (under k), k is odd so often.
    k = 1
    while secrets.randbelow(under * k) < over:
        k += 1
    return k % 2 == 1
