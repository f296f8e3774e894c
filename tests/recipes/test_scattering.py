"""Scattering features: against another implementation's numbers, and what must hold of them."""

import numpy as np
import pytest

from hushgrad import recipes
from hushgrad.errors import InputError

# Of `waves` below, by kymatio 0.3.0 (Scattering2D, NumPy, default settings): channel -> the
# coefficients at (0, 0), (3, 5), (7, 2) for two scales and eight angles, and at (0, 0), (1, 2),
# (3, 1) for three scales and four.
_TWO = {
    0: [0.845755, 0.267537, 0.533628],
    1: [0.019658, 0.028557, 0.036865],
    4: [0.064247, 0.051296, 0.041423],
    8: [0.013264, 0.009176, 0.01517],
    9: [0.019658, 0.020398, 0.042575],
    13: [0.045229, 0.023112, 0.051374],
    17: [0.001757, 0.001059, 0.002042],
    30: [0.003456, 0.000421, 0.001782],
    64: [0.0026, 0.000155, 0.000688],
    80: [0.001589, 0.000156, 0.00069],
}
_THREE = {
    0: [0.662811, 0.525892, 0.467283],
    1: [0.041561, 0.041731, 0.053104],
    6: [0.112376, 0.074984, 0.080149],
    12: [0.038215, 0.015795, 0.010395],
    13: [0.006082, 0.004925, 0.00516],
    30: [0.006369, 0.00209, 0.004211],
    45: [0.018842, 0.015843, 0.010898],
    60: [0.00509, 0.001104, 0.000891],
}


@pytest.fixture(scope="module")
def waves():
    row, column = np.mgrid[:32, :32]
    image = 0.5 + 0.5 * np.sin(0.7 * row + 0.3 * column) * np.cos(0.05 * row * column / 4)
    return image.astype(np.float32)


def test_two_scales_are_those_of_kymatio(waves):
    made = np.asarray(recipes.scattering(waves))
    assert made.shape == (81, 8, 8)
    for channel, told in _TWO.items():
        here = [made[channel, 0, 0], made[channel, 3, 5], made[channel, 7, 2]]
        # Padding and the coarse wavelets' highest frequencies are treated otherwise there.
        np.testing.assert_allclose(here, told, rtol=2e-3, atol=2e-6, err_msg=str(channel))


def test_three_scales_are_those_of_kymatio(waves):
    made = np.asarray(recipes.scattering(waves, scales=3, angles=4))
    assert made.shape == (61, 4, 4)
    for channel, told in _THREE.items():
        here = [made[channel, 0, 0], made[channel, 1, 2], made[channel, 3, 1]]
        np.testing.assert_allclose(here, told, rtol=2e-3, atol=2e-6, err_msg=str(channel))


def test_images_are_transformed_alone(waves):
    many = np.stack([waves, 1 - waves, waves.T, np.zeros_like(waves)]).reshape(2, 2, 32, 32)
    together = np.asarray(recipes.scattering(many))
    assert together.shape == (2, 2, 81, 8, 8)
    for place in np.ndindex(2, 2):
        alone = np.asarray(recipes.scattering(many[place]))
        np.testing.assert_allclose(together[place], alone, atol=1e-6)


def test_a_plain_image_has_its_grey_and_no_waves():
    made = np.asarray(recipes.scattering(np.full((28, 28), 0.3, np.float32)))
    assert made.shape == (81, 7, 7)
    np.testing.assert_allclose(made[0], 0.3, rtol=1e-4)
    np.testing.assert_allclose(made[1:], 0, atol=1e-5)


@pytest.mark.parametrize(("scales", "angles"), [(2, 8), (3, 4), (2, 5)])
def test_mirrored_features_are_those_of_the_mirrored_image(waves, scales, angles):
    row, column = np.mgrid[:32, :32]
    # All in the middle, so that means do not see where the coarse places are.
    spot = waves * np.exp(-((row - 17) ** 2 + (column - 15) ** 2) / 32).astype(np.float32)
    made = np.asarray(recipes.scattering(spot, scales=scales, angles=angles))
    told = np.asarray(recipes.scattering(spot[:, ::-1].copy(), scales=scales, angles=angles))
    ours = recipes.mirrored(made, scales=scales, angles=angles)
    np.testing.assert_allclose(ours.mean(axis=(1, 2)), told.mean(axis=(1, 2)), rtol=0.05, atol=1e-5)
    ours, plain, told = (m[1 : 1 + scales * angles].mean(axis=(1, 2)) for m in (ours, made, told))
    assert np.linalg.norm(ours - told) < 0.1 * np.linalg.norm(plain - told)
    assert np.all(
        recipes.mirrored(
            recipes.mirrored(made, scales=scales, angles=angles), scales=scales, angles=angles
        )
        == made
    )


def test_features_of_another_transform_are_not_mirrored():
    with pytest.raises(InputError, match="must have 81 channels"):
        recipes.mirrored(np.zeros((61, 4, 4)))
    with pytest.raises(InputError, match="before height and width"):
        recipes.mirrored(np.zeros(81))


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((30, 28), {}, "multiples of 2\\*\\*scales = 4"),
        ((28, 28), {"scales": 3}, "pad them or take fewer scales"),
        ((28, 28), {"scales": 0}, "scales must be"),
        ((28,), {}, "must have a height and a width"),
        ((28, 28), {"angles": -1}, "angles must be"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, given, said):
    with pytest.raises(InputError, match=said):
        recipes.scattering(np.zeros(shape, np.float32), **given)
