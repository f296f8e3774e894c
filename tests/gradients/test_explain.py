"""`explain` says what the plan does; `check` finds an engine that is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.gradients import sums


def rand(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


P = {
    "embedding": rand(0, 90, 8),
    "cell": {"w": rand(1, 8, 8), "b": rand(2, 8)},
    "scale": rand(3, 8),
    "odd": rand(4, 8),
    "frozen": jnp.arange(3),
    "unused": rand(5, 2),
}


def loss(p, ids):
    def cell(h, x):
        return jnp.tanh(x + h @ p["cell"]["w"] + p["cell"]["b"]), None

    h, _ = lax.scan(cell, jnp.zeros(8), p["embedding"][ids])
    h = h * p["scale"] + jnp.arctan2(h, p["odd"]) + p["embedding"][0]
    return jnp.sum((h @ p["embedding"].T) ** 2)


def test_every_parameter_has_a_row():
    found = {row.name: row for row in hg.explain(loss, P, jnp.zeros(5, int)).rows}
    assert list(found) == [
        *("cell.b", "cell.w", "embedding", "frozen", "odd", "scale", "unused"),
    ]
    w = found["cell.w"]
    assert (w.shape, w.sites, w.way, w.fast) == ((8, 8), ("dot_general x5",), "ghost norm", True)
    # Five turns, 64 products each; the ghost norm: 5 x 5 x 16, and the sum's own 5 x 64.
    assert w.built_flops == 2 * 5 * 64 + 2 * 64
    assert w.ghost_flops == 2 * 25 * 16 + 2 * 5 * 64
    assert (w.built_bytes, w.ghost_bytes) == (4 * 64, 4 * (5 * 16 + 2 * 25))
    assert found["frozen"].way == "frozen"
    assert found["unused"].way == "unused"
    odd = found["odd"]
    assert (odd.way, odd.fast, odd.why) == ("direct", False, "read by atan2")
    assert set(found["embedding"].sites) == {"lookup", "add", "dot_general"}


def test_the_share_of_fast_entries():
    explanation = hg.explain(loss, P, jnp.zeros(5, int))
    total = 90 * 8 + 64 + 8 * 3 + 2
    assert explanation.fast_share == pytest.approx(1 - 8 / total)


def test_why_a_value_is_carried_back():
    def standardised(w, x):
        return jnp.sum(x @ (w / jnp.linalg.norm(w)))

    (row,) = hg.explain(standardised, jnp.ones((3, 3)), jnp.ones(3)).rows
    assert not row.fast
    assert row.why == "computed by div"


def test_the_table_is_readable_at_80_columns():
    text = str(hg.explain(loss, P, jnp.zeros(5, int)))
    assert max(map(len, text.splitlines())) <= 100
    for word in ("cell.w", "dot_general x5", "direct: read by", "need no fallback"):
        assert word in text


def test_check_agrees_on_a_good_model():
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 90, (9, 5)))
    result = hg.check(loss, P, (ids,))
    assert result.examples == 9
    assert 0 < result.largest < 1e-4
    assert set(result.sums) == set(["cell.b", "cell.w", "embedding", "odd", "scale", "unused"])
    assert "9 examples" in str(result)


def test_check_finds_a_wrong_engine(monkeypatch):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 90, (9, 5)))
    right = sums.per_example

    def wrong(*args):
        return right(*args)._replace(squared=right(*args).squared / 4)

    monkeypatch.setattr("hushgrad.gradients.clipped.per_example", wrong)
    assert hg.check(loss, P, (ids,)).norms == pytest.approx(0.5, rel=1e-3)


def test_check_refuses_what_it_cannot_compare():
    with pytest.raises(InputError, match="finite"):
        hg.check(lambda w, x: jnp.sum(w * x), jnp.ones(2), (jnp.full((3, 2), jnp.nan),))
    with pytest.raises(InputError, match="finite"):
        hg.check(lambda w, x: jnp.sum(w * x), jnp.ones(2), (jnp.zeros((3, 2)),))


def test_explain_takes_shapes():
    shapes = jax.eval_shape(lambda: P)
    assert hg.explain(loss, shapes, jax.ShapeDtypeStruct((5,), int)).rows
