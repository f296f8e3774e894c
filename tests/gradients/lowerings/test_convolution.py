"""Strided convolutions in other forms against `conv_general_dilated`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

few = settings(max_examples=8, deadline=None, derandomize=True)


def layouts(rank: int) -> list[tuple[str, str, str]]:
    space = "DHW"[3 - rank :]
    images = [f"N{space}C", f"NC{space}", f"{space}NC", f"C{space}N"]
    kernels = [f"{space}IO", f"OI{space}", f"O{space}I", f"I{space}O"]
    return list(itertools.product(images, kernels, images))


def shaped(layout: str, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[letter] for letter in layout)


def case(rank, layout, image, kernel, channels, seed):
    rng = np.random.default_rng(seed)
    images, outputs = 2, 3
    space = dict(zip("DHW"[3 - rank :], image, strict=True))
    window = dict(zip("DHW"[3 - rank :], kernel, strict=True))
    x = shaped(layout[0], {"N": images, "C": channels, **space})
    w = shaped(layout[1], {"I": channels, "O": outputs, **window})
    # Small integers: sums are exact in any order.
    return tuple(jnp.asarray(rng.integers(-3, 4, shape), jnp.float32) for shape in ((2, *x), w))


@few
@given(
    rank=st.integers(1, 3),
    layout=st.integers(0, 63),
    sizes=st.lists(st.integers(4, 9), min_size=3, max_size=3),
    strides=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    channels=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_one_position_with_strides(check, rank, layout, sizes, strides, channels, seed):
    strides = (*strides[: rank - 1], 2)
    layout = layouts(rank)[layout]
    x, w = case(rank, layout, sizes[:rank], (1,) * rank, channels, seed)

    def plain(x, w):
        return lax.conv_general_dilated(x, w, strides, "VALID", dimension_numbers=layout)

    check(plain, x, shared=(w,))


@few
@given(
    rank=st.integers(1, 2),
    layout=st.integers(0, 63),
    sizes=st.lists(st.integers(9, 14), min_size=2, max_size=2),
    extra=st.lists(st.integers(0, 4), min_size=2, max_size=2),
    padding=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_phases_of_one_channel(check, rank, layout, sizes, extra, padding, seed):
    strides = (4,) if rank == 1 else (2, 3)
    layout = layouts(rank)[layout]
    kernel = [2 * s + e for s, e in zip(strides, extra, strict=False)]
    x, w = case(rank, layout, sizes[:rank], [min(9, k) for k in kernel], 1, seed)
    pads = [(padding[2 * d], padding[2 * d + 1]) for d in range(rank)]

    def plain(x, w):
        return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=layout)

    check(plain, x, shared=(w,))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
@pytest.mark.parametrize("size", [1, 4])
def test_dtypes(check, dtype, size):
    with jax.enable_x64(True):
        layout = ("NHWC", "HWIO", "NHWC")
        x, w = (a.astype(dtype) for a in case(2, layout, (9, 9), (size, size), 1, 0))

        def plain(x, w):
            return lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=layout)

        check(plain, x, shared=(w,))


@pytest.mark.parametrize(
    "changes",
    [
        {"window_strides": (1, 1)},
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 2)},
        {"padding": ((-1, 0), (0, 0))},
    ],
)
@pytest.mark.parametrize("size", [1, 4])
def test_what_is_left_to_xla(lowered, changes, size):
    options = {"window_strides": (2, 2), "padding": ((0, 0), (0, 0)), **changes}

    def plain(x, w):
        return lax.conv_general_dilated(x, w, **options)

    assert lowered(plain, jnp.zeros((1, 1, 9, 9)), jnp.zeros((3, 1, size, size))) is None


def test_only_where_it_was_measured():
    from hushgrad.gradients import lowerings

    op = type("op", (), {"primitive": lax.reduce_window_max_p, "params": {}})
    assert lowerings.find(op, (jax.ShapeDtypeStruct((4,), "float32"),), "gpu") is None
