"""Clipping by parts: which part a leaf is in, and that all parts together stay within."""

import json
import math
from collections import namedtuple
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad.clip import Flat, PerLayer
from hushgrad.errors import InputError

PARAMS = {
    "embed": jnp.zeros((3, 2)),
    "blocks": [{"w": jnp.zeros(2), "b": jnp.zeros(())}, {"w": jnp.zeros(2), "b": jnp.zeros(())}],
    "seen": jnp.zeros((), jnp.int32),
}
# In the order of jax.tree.leaves: blocks 0 b, 0 w, 1 b, 1 w, embed, seen.
MANY = st.lists(st.floats(1e-6, 1e15), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("norms", "parts"),
    [
        (1.0, (0, 0, 0, 0, 0, 0)),
        ({"embed": 1.0, "blocks": 2.0, "seen": 3.0}, (0, 0, 0, 0, 1, 2)),
        ({"embed": 1.0, "blocks": [2.0, 3.0], "seen": 1.0}, (0, 0, 1, 1, 2, 3)),
        (
            {"embed": 1.0, "blocks": [{"w": 2.0, "b": 4.0}, 3.0], "seen": 1.0},
            (0, 1, 2, 2, 3, 4),
        ),
    ],
)
def test_every_leaf_is_under_one_bound(norms, parts):
    assert PerLayer(norms).parts(PARAMS) == parts


def test_a_shared_total_makes_every_array_a_part_and_passes_integers_over():
    assert PerLayer(total=1.0).parts(PARAMS) == (0, 1, 2, 3, 4, 0)
    assert PerLayer(total=1.0).parts({"n": jnp.arange(3)}) == (0,)


def test_parts_of_shapes_alone():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert PerLayer(total=1.0).parts(shapes) == (0, 1, 2, 3, 4, 0)


def test_containers_of_any_kind():
    pair = namedtuple("pair", "w b")
    rule = PerLayer(pair(1.0, (2.0, 3.0)))
    assert rule.parts(pair(jnp.zeros(3), (jnp.zeros(2), jnp.zeros(1)))) == (0, 1, 2)
    assert rule.norms == pair(1.0, (2.0, 3.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=100, deadline=None)
@given(
    norms=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
    batch=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_coefficients_bring_each_part_to_its_own_bound(dtype, norms, batch, seed):
    rng = np.random.default_rng(seed)
    shape = (batch, len(norms))
    squared = (10.0 ** rng.uniform(-8, 8, shape) * rng.integers(0, 2, shape)).astype(dtype)
    slack = (squared * 10.0 ** rng.uniform(-8, 0, shape)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        got = PerLayer(norms).coefficients(jnp.asarray(squared), jnp.asarray(slack))
    assert got.dtype == squared.dtype
    length = np.sqrt(np.float64(squared) + slack)
    want = np.minimum(1, norms / np.maximum(length, 1e-300))
    np.testing.assert_allclose(got, want, rtol=20 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 100])
def test_a_total_is_shared_evenly(parts):
    squared = jnp.full((2, parts), 1e8)
    got = PerLayer(total=6.0).coefficients(squared, jnp.zeros_like(squared))
    np.testing.assert_allclose(got * 1e4, 6 / math.sqrt(parts), rtol=1e-6)


@settings(max_examples=300, deadline=None)
@given(norms=MANY)
def test_the_sensitivity_is_no_less_than_all_bounds_together(norms):
    exact = sum(Fraction(norm) ** 2 for norm in norms)
    sensitivity = Fraction(PerLayer(norms).sensitivity)
    assert exact <= sensitivity**2 <= exact * (1 + Fraction(2**-50))


@settings(max_examples=300, deadline=None)
@given(total=st.floats(1e-3, 1e15), parts=st.sampled_from([1, 2, 3, 7, 49, 300]))  # shapes compile
def test_nor_do_the_shares_of_a_total_exceed_it(total, parts):
    rule = PerLayer(total=total)
    assert rule.sensitivity == total
    squared = np.full((1, parts), 4 * total**2)
    with jax.enable_x64(True):
        got = rule.coefficients(jnp.asarray(squared), jnp.zeros(squared.shape))
    # Coefficients times norms are the bounds, but for one rounding of each factor.
    bounds = [Fraction(float(c)) * Fraction(2 * total) for c in got[0]]
    assert sum(b**2 for b in bounds) <= Fraction(total) ** 2 * (1 + Fraction(2**-50))


def test_one_bound_is_flat_clipping():
    rng = np.random.default_rng(0)
    squared = jnp.asarray(10.0 ** rng.uniform(-3, 3, (50, 1)), jnp.float32)
    want = Flat(0.7).coefficients(squared, squared / 8)
    for rule in (PerLayer(0.7), PerLayer([0.7]), PerLayer(total=0.7)):
        np.testing.assert_array_equal(rule.coefficients(squared, squared / 8), want)
        assert rule.sensitivity == 0.7


def test_a_rule_is_immutable_plain_data_equal_by_content():
    given_norms = {"w": 1, "b": [2.0, np.float32(0.5)]}
    rule = PerLayer(given_norms)
    given_norms["w"] = 100
    assert rule.norms == {"w": 1.0, "b": [2.0, 0.5]}
    rule.norms["w"] = 100
    assert rule == PerLayer({"b": [2.0, 0.5], "w": 1.0})
    assert hash(rule) == hash(PerLayer({"b": [2.0, 0.5], "w": 1.0}))
    for other in (
        PerLayer({"w": 1.0, "b": [2.0, 0.6]}),
        PerLayer({"w": 1.0, "b": (2.0, 0.5)}),
        PerLayer({"w": 1.0, "c": [2.0, 0.5]}),
        PerLayer(total=1.0),
        Flat(1.0),
    ):
        assert rule != other
    assert PerLayer(total=1) == PerLayer(total=1.0) != PerLayer(1.0)
    for name in ("norms", "total", "sensitivity", "_norms"):
        with pytest.raises(AttributeError):
            setattr(rule, name, 2.0)
    assert repr(rule) == "PerLayer({'b': [2.0, 0.5], 'w': 1.0})"
    assert repr(PerLayer(total=2)) == "PerLayer(total=2.0)"


def test_as_plain_data_and_in_words():
    rule = PerLayer({"w": 3.0, "b": [4.0]})
    data = rule.to_dict()
    assert data == {"kind": "per_layer", "norms": {"['b'][0]": 4.0, "['w']": 3.0}}
    assert json.loads(json.dumps(data)) == data
    assert PerLayer(total=2).to_dict() == {"kind": "per_layer", "total": 2.0}
    assert rule.describe() == "clipped part by part to norms 4, 3 (5 in all)"
    assert PerLayer(total=2).describe() == "clipped array by array to norm 2 in all"


def test_its_bounds_do_not_move():
    rule = PerLayer(total=1.0)
    assert rule.init() is None
    assert rule.for_batch(100) == rule
    assert rule.sum_noise_multiplier(1.1) == 1.1
    with pytest.raises(InputError, match=r"norm is the current bound of clip=Adaptive"):
        rule.current(2.0)


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        ({"embed": 1.0, "seen": 1.0}, r"no number for params\['blocks'\]\[0\]\['b'\]"),
        (
            {"embed": 1.0, "blocks": [1.0], "seen": 1.0},
            r"no number for params\['blocks'\]\[1\]\['b'\]",
        ),
        (
            {"embed": 1.0, "blocks": 1.0, "seen": 1.0, "head": 2.0},
            r"norms\['head'\] bounds nothing: there is no params\['head'\]",
        ),
        (
            {"embed": {"w": 1.0}, "blocks": 1.0, "seen": 1.0},
            r"no number for params\['embed'\]",
        ),
        ([1.0], r"no number for params\['blocks'\]"),
    ],
)
def test_norms_that_are_no_prefix(norms, message):
    with pytest.raises(InputError, match=message):
        PerLayer(norms).parts(PARAMS)


def test_a_total_too_small_for_so_many():
    with pytest.raises(InputError, match=r"share of total=2e-06 among 5 must lie between 1e-06"):
        PerLayer(total=2e-6).parts(PARAMS)


def test_other_numbers_of_parts_than_bounds_are_no_silent_broadcast():
    for parts in (1, 3):
        with pytest.raises(ValueError, match=f"{parts} parts for 2 bounds"):
            PerLayer([1.0, 2.0]).coefficients(jnp.ones((4, parts)), jnp.zeros((4, parts)))


@pytest.mark.parametrize("norm", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_no_part_without_a_positive_norm(norm):
    with pytest.raises(InputError, match=r"norms\['b'\] must be a positive finite number") as c:
        PerLayer({"w": 1.0, "b": norm})
    assert repr(norm) in str(c.value)
    if norm is not None:
        with pytest.raises(InputError, match="total must be a positive finite number"):
            PerLayer(total=norm)


def test_one_of_norms_and_total():
    for arguments in ({}, {"norms": 1.0, "total": 1.0}):
        with pytest.raises(InputError, match=r"give one of norms .* and total"):
            PerLayer(**arguments)
    with pytest.raises(InputError, match=r"norms must hold at least one number, got \{\}"):
        PerLayer({})
    with pytest.raises(InputError, match=r"norms\[0\] must lie between"):
        PerLayer([1e-9])
    with pytest.raises(InputError, match=r"total must lie between"):
        PerLayer(total=1e16)
