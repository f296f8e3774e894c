"""Checks of arguments: what passes, as which type, and what the message says."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushgrad._check import fraction, positive, whole
from hushgrad.errors import HushgradError, InputError

NEVER = [
    *(True, False, np.True_, np.False_),
    *(math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")),
    *(None, "1", b"1", "", [1], (1,), {}, object, 1 + 0j, Decimal(1), np.array(1.0), np.array([1])),
]


def assert_refused(check, value, says: str, **options) -> None:
    with pytest.raises(InputError) as caught:
        check("the_name", value, **options)
    assert str(caught.value) == f"the_name must {says}, got {value!r}"


@pytest.mark.parametrize("value", NEVER, ids=repr)
def test_never_a_number(value):
    assert_refused(positive, value, "be a positive finite number")
    assert_refused(fraction, value, "lie strictly between 0 and 1")
    assert_refused(whole, value, "be a whole number of at least 1")


@pytest.mark.parametrize(
    "value", [1, 0.5, 1e-300, 1e300, np.float32(0.5), np.int8(3), np.uint64(7), Fraction(1, 3)]
)
def test_positive_numbers_come_back_as_floats(value):
    out = positive("x", value)
    assert type(out) is float
    assert out == float(value)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1, -1e-300, np.float32(0), Fraction(-1, 3)])
def test_not_positive(value):
    assert_refused(positive, value, "be a positive finite number")


@pytest.mark.parametrize("value", [0.5, 1e-300, 1 - 2**-53, np.float32(0.25), Fraction(1, 3)])
def test_fractions_come_back_as_floats(value):
    out = fraction("x", value)
    assert type(out) is float
    assert out == float(value)


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.5, 1.5, np.int64(1), np.float32(0)])
def test_no_fraction(value):
    assert_refused(fraction, value, "lie strictly between 0 and 1")


@pytest.mark.parametrize("value", [1, 60_000, 3.0, np.int32(4), np.uint8(5), np.float64(6), 10**30])
def test_whole_numbers_come_back_as_ints(value):
    out = whole("x", value)
    assert type(out) is int
    assert out == value


@pytest.mark.parametrize("value", [0, -1, 1.5, 0.999, np.float32(2.5), Fraction(3, 2)])
def test_not_whole(value):
    assert_refused(whole, value, "be a whole number of at least 1")


@pytest.mark.parametrize("least", [0, 2, -3])
def test_at_least(least):
    assert whole("x", least, at_least=least) == least
    assert_refused(whole, least - 1, f"be a whole number of at least {least}", at_least=least)


@given(st.floats() | st.integers(-(10**20), 10**20))
def test_what_passes_is_what_the_name_says(value):
    for check, holds, kind in (
        (positive, 0 < value < math.inf, float),
        (fraction, 0 < value < 1, float),
        (whole, 1 <= value < math.inf and value == math.floor(value), int),
    ):
        if holds:
            assert check("x", value) == kind(value)
        else:
            with pytest.raises(InputError):
                check("x", value)


def test_an_input_error_is_a_value_error_and_ours():
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, HushgradError)
