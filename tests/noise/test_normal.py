"""Standard normals: the distribution, its tails, and no relation between streams.

Keys are fixed, so these tests always give the same answer. Each bound is one that
true normals would miss with probability `ALARM` or less.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hushgrad.noise import normal
from hushgrad.noise.normal import standard_normal

ALARM = 1e-6
KEY = np.frombuffer(b"thirty-two bytes, not a secret!!", "<u4").astype(np.uint32)
SIZE = 2**20
DTYPES = ["float32", "float64"]


compiled = jax.jit(standard_normal, static_argnums=(2, 3))


def draw(shape, *, key=KEY, stream=0, dtype="float32", function=compiled) -> np.ndarray:
    with jax.enable_x64(dtype == "float64"):
        out = function(jnp.asarray(key), stream, shape, jnp.dtype(dtype))
        assert out.shape == shape
        assert out.dtype == dtype
        return np.asarray(out)


@functools.cache
def sample(dtype: str = "float32", stream: int = 0) -> np.ndarray:
    out = draw((SIZE,), stream=stream, dtype=dtype).astype(np.float64)
    out.flags.writeable = False
    return out


def assert_unrelated(x: np.ndarray, y: np.ndarray) -> None:
    """Correlation of independent samples times sqrt(n) is close to standard normal.

    Also that of their squares, which finds pairs with a common radius.
    """
    bound = stats.norm.isf(ALARM / 2) / math.sqrt(x.size)
    assert abs(np.corrcoef(x, y)[0, 1]) < bound
    assert abs(np.corrcoef(x**2, y**2)[0, 1]) < bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_zero(dtype):
    # The mean of n standard normals has standard deviation 1/sqrt(n): 0.005 at this alarm.
    assert abs(sample(dtype).mean()) < stats.norm.isf(ALARM / 2) / math.sqrt(SIZE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_variance_one(dtype):
    # The sum of n squares is chi-square with n degrees of freedom: within 0.7% at this alarm.
    total = (sample(dtype) ** 2).sum()
    assert stats.chi2.ppf(ALARM / 2, SIZE) < total < stats.chi2.isf(ALARM / 2, SIZE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("half", [slice(None), slice(0, SIZE // 2), slice(SIZE // 2, None)])
def test_normality(dtype, half):
    """Kolmogorov-Smirnov, of the cosine half and of the sine half too."""
    assert stats.kstest(sample(dtype)[half], "norm").pvalue > ALARM


@pytest.mark.parametrize("beyond", [2.0, 3.0, 4.0, 4.5])
def test_the_tails_are_as_heavy_as_they_should_be(beyond):
    # Of 2^20, 7.1 are expected beyond 4.5; the counts of both tails are binomial.
    for tail in (sample() > beyond, sample() < -beyond):
        chance = stats.norm.sf(beyond)
        low, high = (
            stats.binom.ppf(ALARM / 2, SIZE, chance),
            stats.binom.isf(ALARM / 2, SIZE, chance),
        )
        assert low <= tail.sum() <= high


def words(monkeypatch, rows: list[list[int]]) -> None:
    """Makes the generator give these words: low, high, high angle, low angle of each pair."""
    content = [np.uint32(word) for row in rows for word in row]
    content += [np.uint32(0)] * (16 - len(content))

    def made(key, nonce, counter):
        assert counter.size == 1
        return [jnp.full(counter.shape, word) for word in content]

    monkeypatch.setattr(normal, "key_stream", made)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tail_reaches_beyond_what_23_bits_can(monkeypatch, dtype):
    """`jax.random.normal` stops at 5.42 in float32; here only 2^-64 cuts the tail."""
    quarter = 2**30  # of a turn
    words(monkeypatch, [[0, 0, k * quarter, 0] for k in range(4)])
    made = draw((8,), dtype=dtype, function=standard_normal)
    largest = math.sqrt(128 * math.log(2))  # 9.42
    np.testing.assert_allclose(made[::2], [largest, 0, -largest, 0], atol=1e-5)
    np.testing.assert_allclose(made[1::2], [0, largest, 0, -largest], atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", range(1, 64, 3))
def test_the_tail_has_no_gaps(monkeypatch, dtype, bits):
    """Every order of magnitude of the uniform down to 2^-64 gives its own radius."""
    high, low = divmod(2**bits - 1, 2**32)
    words(monkeypatch, [[low, high, 0, 0]])
    radius = draw((1,), dtype=dtype, function=standard_normal)[0]
    assert radius == pytest.approx(math.sqrt(-2 * math.log(2.0 ** (bits - 64))), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200, deadline=None)
@given(
    pair=st.lists(
        st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 2, 2**32 - 1]),
        min_size=4,
        max_size=4,
    )
)
def test_whatever_the_bits_the_transform_is_box_and_mullers(dtype, pair):
    with pytest.MonkeyPatch.context() as patch:
        words(patch, [pair])
        made = draw((2,), dtype=dtype, function=standard_normal)
    low, high, high_angle, low_angle = pair
    number = high * 2**32 + low + 1
    log = math.log(number / 2**64) if high < 2**31 else math.log1p((number - 2**64) / 2**64)
    radius = math.sqrt(-2 * log)
    angle = 2 * math.pi * (high_angle * 2**32 + low_angle) / 2**64
    want = [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(made, want, atol=1e-12 if dtype == "float64" else 1e-5)


def test_float64_uses_more_bits_than_float32_has():
    made = sample("float64")
    assert (made.astype(np.float32) != made).mean() > 0.999
    np.testing.assert_allclose(made, sample("float32"), atol=5e-3)


def test_the_two_of_a_pair_are_independent():
    # One array of 2^20 is one row of 2^17 blocks: first, second... of all blocks.
    one, other = np.moveaxis(sample().reshape(4, 2, -1), 1, 0).reshape(2, -1)
    assert_unrelated(one, other)


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 16, 1024, 2**17, 2**18])
def test_coordinates_are_independent(lag):
    assert_unrelated(sample()[:-lag], sample()[lag:])


@pytest.mark.parametrize("shape", [(80_000,), (400, 200), (5, 70, 300), (3, 12, 1, 2000)])
def test_in_one_piece_or_in_many(monkeypatch, shape):
    """However they are computed: row by row, at once, or together with others."""
    many = draw(shape)
    monkeypatch.setattr(normal, "_AT_ONCE", 2**30)
    one = draw(shape, function=jax.jit(lambda *a: standard_normal(*a), static_argnums=(2, 3)))
    monkeypatch.setattr(normal, "_SMALL", 2**30)
    together = draw(shape, function=jax.jit(lambda *a: standard_normal(*a), static_argnums=(2, 3)))
    np.testing.assert_allclose(one, together, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-5)
    assert len(np.unique(one)) > 0.99 * one.size


@pytest.mark.parametrize("stream", [1, 2, 255, 256, 65_536])
def test_streams_are_independent(stream):
    other = sample(stream=stream)
    assert_unrelated(sample(), other)
    assert_unrelated(sample()[1:], other[:-1])


@pytest.mark.parametrize("bit", [0, 31, 32, 100, 128, 200, 255])
def test_keys_that_differ_in_one_bit_are_independent(bit):
    key = KEY.copy()
    key[bit // 32] ^= np.uint32(1 << bit % 32)
    assert_unrelated(sample()[: 2**18], draw((2**18,), key=key).astype(np.float64))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (3,), (5, 7), (3, 0, 2), (1, 1, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_shape(shape, dtype):
    made = draw(shape, dtype=dtype)
    assert np.isfinite(made).all()
    assert len(np.unique(made)) == made.size


@pytest.mark.parametrize("shape", [(), (3,), (5, 7)])
def test_a_pure_function_compiled_or_not(shape):
    np.testing.assert_array_equal(draw(shape), draw(shape))
    plain = draw(shape, function=standard_normal)
    np.testing.assert_allclose(draw(shape), plain, rtol=1e-5, atol=1e-5)
