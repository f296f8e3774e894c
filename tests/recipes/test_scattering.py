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


def test_a_mirrored_image_has_mirrored_angles(waves):
    # A wave at angle t, seen in a mirror, is one at -t; angles are t_k = (3 - k) pi / 8.
    made = np.asarray(recipes.scattering(waves)).mean(axis=(1, 2))
    mirrored = np.asarray(recipes.scattering(waves[:, ::-1].copy())).mean(axis=(1, 2))
    other = [(6 - k) % 8 for k in range(8)]
    for scale in range(2):
        first, seen = (m[1 + 8 * scale : 9 + 8 * scale] for m in (made, mirrored))
        # Coarse places are every fourth column from the left: from the right, other ones.
        np.testing.assert_allclose(seen, first[other], rtol=0.1)
        assert np.linalg.norm(seen - first) > 0.3 * np.linalg.norm(first)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((30, 28), {}, "multiples of 2\\*\\*scales = 4"),
        ((28, 28), {"scales": 3}, "pad them or take fewer scales"),
        ((28, 28), {"scales": 0}, "scales must be"),
        ((28, 28), {"angles": -1}, "angles must be"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, given, said):
    with pytest.raises(InputError, match=said):
        recipes.scattering(np.zeros(shape, np.float32), **given)
