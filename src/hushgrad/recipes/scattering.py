"""Scattering features: wavelets that nobody has to learn, and so nobody pays for.

A scattering transform (Bruna and Mallat 2013, arXiv 1203.1513) is two layers of a convolutional
network whose filters are fixed Morlet wavelets. It sees one image at a time and no data set, so its
outputs cost no privacy; a linear model on them outdoes deep networks trained with privacy from
scratch on small data sets (Tramèr and Boneh 2021, arXiv 2011.11660).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from hushgrad._check import whole
from hushgrad.errors import InputError

__all__ = ["mirrored", "scattering"]

# Of the finest wavelet, in pixels and radians a pixel; coarser ones are dilated by powers of two.
_WIDTH, _FREQUENCY = 0.8, 3 * np.pi / 4
_PERIODS = range(-2, 3)


@functools.partial(jax.jit, static_argnames=("scales", "angles"))
def scattering(
    images: Float[Array, "*batch height width"], *, scales: int = 2, angles: int = 8
) -> Float[Array, "*batch channels h w"]:
    """Scattering coefficients of order 0, 1 and 2.

    ```python
    features = hg.recipes.scattering(images)  # [n, 28, 28] -> [n, 81, 7, 7]
    ```

    Each image is transformed alone: a function of one record, without parameters or statistics of
    others, so training on the features has the guarantee of training on the images.

    Args:
      images: pixels, any number of leading axes (a colour is one of them); height and width are
        multiples of 2**scales.
      scales: octaves of wavelets; height and width shrink by 2**scales.
      angles: of wavelets between 0 and half a turn.

    Returns:
      1 + scales * angles + scales * (scales - 1) / 2 * angles**2 channels, coarse average first,
      then moduli by scale and angle, then moduli of moduli; `height / 2**scales` rows.

    Raises:
      InputError: if scales or angles are not whole numbers above 0, or the sizes do not fit.
    """
    scales, angles = whole("scales", scales), whole("angles", angles)
    images, step = jnp.asarray(images, jnp.float32), 2**scales
    if images.ndim < 2:
        raise InputError(f"images must have a height and a width, got shape {images.shape}")
    height, width = images.shape[-2:]
    if height % step or width % step or min(height, width) < step:
        raise InputError(
            f"images must have sides that are multiples of 2**scales = {step}, got {height} x "
            f"{width}: pad them or take fewer scales"
        )
    # Reflected at the edges, by a whole coarse pixel at least.
    edges = [(0, 0)] * (images.ndim - 2) + [(step, step)] * 2
    mode = "reflect" if step < min(height, width) else "symmetric"
    padded = jnp.pad(images, edges, mode=mode)
    wavelets, average = _filters(*padded.shape[-2:], scales, angles)

    def smooth(spectrum: Complex[Array, "*n h w"], scale: int) -> Float[Array, "*n h w"]:
        kept = _folded(spectrum * _coarse(average, scale), 2 ** (scales - scale))
        return jnp.fft.ifft2(kept).real[..., 1:-1, 1:-1]

    def moduli(
        spectrum: Complex[Array, "*n h w"], wavelet: int, scale: int
    ) -> Complex[Array, "*n angles h w"]:
        turned = spectrum[..., None, :, :] * _coarse(wavelets[wavelet], scale)
        return jnp.fft.fft2(jnp.abs(jnp.fft.ifft2(_folded(turned, 2 ** (wavelet - scale)))))

    spectrum = jnp.fft.fft2(padded)
    found = [[smooth(spectrum, 0)[..., None, :, :]], [], []]
    for first in range(scales):
        once = moduli(spectrum, first, 0)
        found[1].append(smooth(once, first))
        # By the first angle, then the second scale, then its angle.
        twice = [smooth(moduli(once, second, first), second) for second in range(first + 1, scales)]
        if twice:
            joined = jnp.concatenate(twice, axis=-3)
            found[2].append(joined.reshape(*images.shape[:-2], -1, *joined.shape[-2:]))
    return jnp.concatenate([*found[0], *found[1], *found[2]], axis=-3)


def mirrored(
    features: Float[Any, "*batch channels h w"], *, scales: int = 2, angles: int = 8
) -> Float[Any, "*batch channels h w"]:
    """Scattering coefficients of the same images in a mirror, left for right.

    ```python
    both = (features + hg.recipes.mirrored(features)) / 2  # knows no left from right
    ```

    A wave's angle t is -t in a mirror, so channels change places; nothing is transformed again.
    It is exact up to a shift of less than a coarse pixel, as these are counted from the left.

    Args:
      features: by `scattering`, of JAX or NumPy.
      scales: as there.
      angles: as there.

    Raises:
      InputError: if the number of channels is not that of `scattering`.
    """
    # As `_filters` turns them: angle k is (angles - angles // 2 - 1 - k) / angles of half a turn.
    seen = [(2 * (angles - angles // 2 - 1) - k) % angles for k in range(angles)]
    order = [0] + [1 + scale * angles + k for scale in range(scales) for k in seen]
    start = 1 + scales * angles
    for first in range(scales):
        after = scales - first - 1
        for k in seen:
            block = start + k * after * angles
            order += [block + second * angles + other for second in range(after) for other in seen]
        start += angles * after * angles
    if features.ndim < 3 or features.shape[-3] != len(order):
        raise InputError(
            f"features must have {len(order)} channels for scales={scales} and angles={angles}, "
            f"before height and width, got shape {features.shape}"
        )
    return features[..., order, :, ::-1]


def _folded(spectrum: Complex[Array, "*n h w"], step: int) -> Complex[Array, "*n a b"]:
    """The spectrum of an image of which every `step`-th row and column is kept."""
    *rest, height, width = spectrum.shape
    parts = spectrum.reshape(*rest, step, height // step, step, width // step)
    return parts.mean(axis=(-4, -2))


def _coarse(spectrum: Complex[np.ndarray, "*n h w"], scale: int) -> Complex[np.ndarray, "*n a b"]:
    """A filter's low frequencies: the filter for an image that has 2**scale fewer rows."""
    if not scale:
        return spectrum
    for axis in (-2, -1):
        half = spectrum.shape[axis] // 2 ** (scale + 1)
        low = np.take(spectrum, np.arange(half), axis)
        # Wavelets have next to nothing beyond.
        spectrum = np.concatenate([low, np.take(spectrum, np.arange(-half, 0), axis)], axis)
    return spectrum


@functools.lru_cache(maxsize=8)
def _filters(
    height: int, width: int, scales: int, angles: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Spectra of the wavelets, [angles, height, width] for each scale, and of the average."""
    slant, wavelets = 4 / angles, []
    for scale in range(scales):
        made = []
        for angle in range(angles):
            # Down from a quarter turn, as in the literature's software.
            theta = (angles - angles // 2 - 1 - angle) * np.pi / angles
            given = (height, width, _WIDTH * 2**scale, theta, slant)
            wave, bump = _gabor(*given, _FREQUENCY / 2**scale), _gabor(*given, 0.0)
            # Morlet's: the wave less what makes its mean zero.
            made.append(np.fft.fft2(wave - wave.sum() / bump.sum() * bump).real)
        wavelets.append(np.stack(made).astype(np.float32))
    average = _gabor(height, width, _WIDTH * 2 ** (scales - 1), 0.0, 1.0, 0.0)
    return wavelets, np.fft.fft2(average).real.astype(np.float32)


def _gabor(
    height: int, width: int, spread: float, theta: float, slant: float, frequency: float
) -> Complex[np.ndarray, "height width"]:
    """A wave under a bell, added up over the periods of a torus."""
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    curve = turn @ np.diag([1.0, slant**2]) @ turn.T / (2 * spread**2)
    total = np.zeros((height, width), complex)
    for row, column in itertools.product(_PERIODS, _PERIODS):
        x, y = np.mgrid[row * height : (row + 1) * height, column * width : (column + 1) * width]
        bell = -(curve[0, 0] * x * x + 2 * curve[0, 1] * x * y + curve[1, 1] * y * y)
        total += np.exp(bell + 1j * frequency * (x * np.cos(theta) + y * np.sin(theta)))
    return total / (2 * np.pi * spread**2 / slant)
