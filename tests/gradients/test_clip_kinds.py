"""Every kind of clip in the engine: exact, bounded part by part, and counted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hushgrad as hg
from hushgrad.clip import Adaptive, Automatic, Flat, PerLayer
from hushgrad.errors import InputError


def rand(seed: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layers(p: Any, x: Any) -> Any:
    """Rows through matrices (ghost norms and built ones), a scale, and what only adds."""
    h = jnp.tanh(x @ p["deep"]["w"] * p["deep"]["s"])
    return jnp.sum(h @ p["head"][0] + p["head"][1])


LAYERS = {
    "deep": {"w": rand(0, 40, 30), "s": rand(1, 30)},
    "head": [rand(2, 30, 2), rand(3, 2)],
    "seen": jnp.int32(3),
}
PREFIX = {"deep": 0.5, "head": [0.7, 0.2], "seen": 1.0}


def words(p: Any, ids: Any) -> Any:
    """A tied embedding with repeated ids, and a loop over weights that are used each turn."""
    rows = p["words"][ids]

    def turn(h: Any, row: Any) -> tuple[Any, Any]:
        h = jnp.tanh(h @ p["cell"]["h"] + row @ p["cell"]["x"] + p["cell"]["b"])
        return h, h

    _, states = lax.scan(turn, jnp.zeros(6), rows)
    return jnp.sum(jnp.take(states @ p["out"] @ p["words"].T, 1, axis=1) ** 2)


WORDS = {
    "words": rand(0, 9, 5),
    "cell": {"h": rand(1, 6, 6) / 3, "x": rand(2, 5, 6), "b": rand(3, 6)},
    "out": rand(4, 6, 5),
}
IDS = jnp.asarray(np.random.default_rng(5).integers(0, 9, (7, 4)))


def product(p: Any, x: Any) -> Any:
    """Two parameters that meet before they meet data, each in a part of its own."""
    return jnp.sum(jnp.tanh(x @ (p["a"] * p["b"])) @ p["c"])


PRODUCT = {"a": rand(0, 6, 3), "b": rand(1, 6, 3), "c": rand(2, 3)}

MODELS = {
    "layers": (layers, LAYERS, rand(9, 7, 3, 40) / 10, PREFIX),
    "words": (
        words,
        WORDS,
        IDS,
        {"words": 0.8, "cell": {"h": 0.3, "x": 2.0, "b": 0.1}, "out": 5.0},
    ),
    "product": (product, PRODUCT, rand(9, 7, 6), {"a": 0.6, "b": 0.1, "c": 0.3}),
}
KINDS = ["flat", "automatic", "adaptive", "adaptive at 0.3", "per layer", "total"]


def rule_of(kind: str, prefix: Any) -> tuple[Any, float | None]:
    """The rule, and the norm that it is called with."""
    if kind == "adaptive at 0.3":
        return Adaptive(initial_norm=7.0), 0.3
    rules = {
        "flat": Flat(1.3),
        "automatic": Automatic(0.05),
        "adaptive": Adaptive(initial_norm=0.9),
        "per layer": PerLayer(prefix),
        "total": PerLayer(total=0.8),
    }
    return rules[kind], None


def per_example(loss: Any, params: Any, batch: Any) -> list[np.ndarray]:
    """Each leaf's gradients in float64, one row per example; zeros for integers."""

    def widen(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    with jax.enable_x64(True):
        wide, data = jax.tree.map(widen, (params, batch))
        grad = jax.vmap(jax.grad(loss, allow_int=True), (None, 0))(wide, data)
        real = (g if g.dtype == jnp.float64 else np.zeros(g.shape) for g in jax.tree.leaves(grad))
        return [np.asarray(g).reshape(len(data), -1) for g in real]


def expected(kind: str, prefix: Any, params: Any, rows: list[np.ndarray]) -> tuple[Any, ...]:
    """The clipped sum by leaf, the norms, and the centred bits, in plain NumPy."""
    squares = np.stack([(r**2).sum(1) for r in rows], axis=1)
    norms = np.sqrt(squares.sum(1))
    joint = np.repeat(norms[:, None], len(rows), axis=1)
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params)]
    if kind == "total":
        factors = np.minimum(1, 0.8 / np.sqrt(sum(real)) / np.maximum(np.sqrt(squares), 1e-300))
    elif kind == "per layer":
        # The bound above each leaf, and the joint norm of all leaves under the same bound.
        marks = jax.tree.map(lambda _, mark: mark, prefix, _numbered(prefix))
        under = jax.tree.leaves(
            jax.tree.map(lambda mark, tree: jax.tree.map(lambda _: mark, tree), marks, params)
        )
        bounds = np.array(jax.tree.leaves(prefix))[under]
        parts = np.stack([squares[:, np.equal(under, u)].sum(1) for u in under], axis=1)
        factors = np.minimum(1, bounds / np.maximum(np.sqrt(parts), 1e-300))
    elif kind == "automatic":
        factors = 1 / (joint + 0.05)
    else:
        factors = np.minimum(
            1, {"flat": 1.3, "adaptive": 0.9}.get(kind, 0.3) / np.maximum(joint, 1e-300)
        )
    total = [(factors[:, [i]] * r).sum(0) for i, r in enumerate(rows)]
    return total, norms, np.where((factors >= 1).all(1), 0.5, -0.5)


def _numbered(tree: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, range(len(leaves)))


@functools.cache
def compiled(model: str, kind: str) -> Any:
    loss, _, _, prefix = MODELS[model]
    clipped = hg.clipped_grad(loss, rule_of(kind, prefix)[0])
    return jax.jit(lambda p, x, mask, norm: clipped(p, x, mask=mask, norm=norm))


def run(model: str, kind: str, params: Any, x: Any, mask: Any = None) -> Any:
    norm = rule_of(kind, MODELS[model][3])[1]
    norm = None if norm is None else jnp.float32(norm)
    return compiled(model, kind)(params, x, jnp.ones(len(x), bool) if mask is None else mask, norm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_the_sum_is_that_of_a_plain_reference(model, kind):
    loss, params, x, prefix = MODELS[model]
    rows = per_example(loss, params, x)
    total, norms, bits = expected(kind, prefix, params, rows)
    out = run(model, kind, params, x)
    np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
    assert float(out.centred_bits) == bits.sum()
    scale = max(np.abs(t).max() for t in total)
    for got, want in zip(jax.tree.leaves(out.grads), total, strict=True):
        np.testing.assert_allclose(np.ravel(got), want, rtol=0, atol=2e-5 * scale)
    assert int(out.nonfinite) == 0


def size(leaves: Any) -> float:
    wide = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(leaves))
    return float(np.sqrt(sum((leaf**2).sum() for leaf in wide)))


def assert_bounded(kind: str, prefix: Any, grads: Any) -> None:
    """In all, and by every part that has a bound of its own."""
    rule, norm = rule_of(kind, prefix)
    # Numbers that end in float32 are compared with the bound in float32.
    assert size(grads) <= np.float32(rule.sensitivity_at(norm))
    if kind == "per layer":
        parts = jax.tree.map(lambda bound, tree: (bound, size(tree)), prefix, grads)
        pairs = jax.tree.leaves(parts, is_leaf=lambda x: isinstance(x, tuple))
        assert all(length <= np.float32(bound) for bound, length in pairs)
    if kind == "total":
        share = np.float32(rule.sensitivity / np.sqrt(4))
        assert all(size(leaf) <= share for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    magnitude=st.floats(-30, 30),
    spread=st.floats(0, 12),
    seed=st.integers(0, 2**32 - 1),
    bad=st.sampled_from([None, None, np.nan, np.inf, -np.inf, 3e38]),
)
def test_no_example_adds_more_than_the_sensitivity(kind, magnitude, spread, seed, bad):
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        x = rng.normal(size=(1, 3, 40)) * 10.0 ** (magnitude + spread * rng.normal(size=(1, 1, 40)))
        x = x.astype(np.float32)
    if bad is not None:
        x[0, rng.integers(3), rng.integers(40)] = bad
    scale = 10.0 ** rng.uniform(-3, 3)
    params = jax.tree.map(lambda p: p * np.float32(scale) if p.dtype == jnp.float32 else p, LAYERS)
    out = run("layers", kind, params, jnp.asarray(x))
    assert_bounded(kind, PREFIX, out.grads)
    assert abs(float(out.centred_bits)) == 0.5
    if int(out.nonfinite):
        assert size(out.grads) == 0
        assert float(out.centred_bits) == -0.5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_nor_with_narrow_parameters(kind, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype) if p.dtype == jnp.float32 else p, LAYERS)
    for seed in range(4):
        out = run("layers", kind, params, rand(seed, 1, 3, 40).astype(dtype))
        assert int(out.nonfinite) == 0
        assert_bounded(kind, PREFIX, out.grads)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    examples=st.integers(1, 6),
    rows=st.integers(1, 5),
    width=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    power=st.floats(-3, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_is_that_of_a_plain_reference(examples, rows, width, kind, power, seed):
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jnp.ndarray:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"w": normal(width, 4), "rest": [normal(4), normal(4, 2)]}
    prefix = {"w": 0.5, "rest": 0.25}
    x = normal(examples, rows, width) * 10.0**power

    def loss(p: Any, x: Any) -> Any:
        return jnp.sum(jnp.tanh(x @ p["w"] + p["rest"][0]) @ p["rest"][1])

    rule, norm = rule_of(kind, prefix)
    out = hg.clipped_grad(loss, rule)(params, x, norm=norm)
    total, norms, bits = expected(kind, prefix, params, per_example(loss, params, x))
    np.testing.assert_allclose(out.norms, norms, rtol=1e-4)
    for got, want in zip(jax.tree.leaves(out.grads), total, strict=True):
        np.testing.assert_allclose(np.ravel(got), want, atol=1e-4)
    assert float(out.centred_bits) == bits.sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_record_adds_nothing_to_any_part_and_counts_as_clipped(kind, bad):
    x = np.array(MODELS["layers"][2])
    without = run("layers", kind, LAYERS, jnp.asarray(x), jnp.arange(7) != 2)
    x[2, 1, 5] = bad
    # Infinity leaves the gradient by what only adds finite: the example is dropped whole.
    out = run("layers", kind, LAYERS, jnp.asarray(x))
    assert int(out.nonfinite) == 1
    assert not np.isfinite(out.norms[2])
    jax.tree.map(np.testing.assert_array_equal, out.grads, without.grads)
    assert float(out.centred_bits) == float(without.centred_bits) - 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_one_example_changes_the_bits_by_a_half(kind):
    """Added or removed: by masking, which adds exactly nothing."""
    x = MODELS["layers"][2] * (10.0 ** jnp.linspace(-3, 3, 7))[:, None, None]
    everyone = float(run("layers", kind, LAYERS, x).centred_bits)
    singles = [
        float(run("layers", kind, LAYERS, x, jnp.arange(7) == i).centred_bits) for i in range(7)
    ]
    assert {abs(bit) for bit in singles} == {0.5}
    assert everyone == sum(singles)
    for i in range(7):
        without = run("layers", kind, LAYERS, x, jnp.arange(7) != i)
        assert float(without.centred_bits) == everyone - singles[i]
    assert float(run("layers", kind, LAYERS, x, jnp.zeros(7, bool)).centred_bits) == 0


def test_bits_say_whose_norm_is_within_the_bound():
    def loss(w, x):
        return jnp.sum(w * x)

    x = jnp.array([[0.1, 0.0], [3.0, 4.0], [0.0, 0.0], [0.6, 0.79], [jnp.nan, 0.0]])
    clipped = hg.clipped_grad(loss, Adaptive(initial_norm=1.0))
    for norm, want in ((None, 0.5), (4.9, 0.5), (5.1, 1.5), (0.2, -0.5), (0.05, -1.5)):
        out = clipped(jnp.zeros(2), x, norm=norm)
        assert float(out.centred_bits) == want
        assert int(out.nonfinite) == 1


def test_an_adaptive_clip_is_flat_at_its_current_norm():
    loss, params, x, _ = MODELS["layers"]
    adaptive = hg.clipped_grad(loss, Adaptive(initial_norm=0.4))
    for norm in (0.1, 0.4, 2.0):
        want = hg.clipped_grad(loss, norm)(params, x)
        for given_norm in (norm, np.float32(norm), jnp.float32(norm)):
            out = adaptive(params, x, norm=given_norm)
            jax.tree.map(np.testing.assert_array_equal, out.grads, want.grads)
        assert adaptive.clip.sensitivity_at(norm) == np.float32(norm)
    want = hg.clipped_grad(loss, 0.4)(params, x)
    jax.tree.map(np.testing.assert_array_equal, adaptive(params, x).grads, want.grads)
    assert adaptive.sensitivity == 0.4


@pytest.mark.parametrize("kind", ["flat", "automatic", "per layer", "total"])
def test_a_norm_goes_with_no_other_kind(kind):
    loss, params, x, prefix = MODELS["layers"]
    clipped = hg.clipped_grad(loss, rule_of(kind, prefix)[0])
    with pytest.raises(InputError, match=r"norm is the current bound of clip=Adaptive.*got norm=2"):
        clipped(params, x, norm=2.0)


@pytest.mark.parametrize("norm", [0.0, -1.0, np.nan, np.inf, 1e-9])
def test_a_norm_that_cannot_be_used(norm):
    loss, params, x, _ = MODELS["layers"]
    clipped = hg.clipped_grad(loss, Adaptive(initial_norm=1.0))
    with pytest.raises(InputError, match=r"^norm must "):
        clipped(params, x, norm=norm)
    out = run("layers", "adaptive", params, x)
    assert size(out.grads) > 0
    late = compiled("layers", "adaptive")(params, x, jnp.ones(7, bool), jnp.float32(norm))
    assert size(late.grads) == 0


def test_norms_that_do_not_fit_the_parameters():
    with pytest.raises(InputError, match=r"no number for params\['head'\]\[0\]"):
        hg.clipped_grad(layers, PerLayer({"deep": 1.0, "seen": 1.0}))(LAYERS, MODELS["layers"][2])


@pytest.mark.parametrize("kind", ["per layer", "total", "adaptive", "automatic"])
def test_chunks_make_the_same_sum_and_count(kind):
    loss, params, x, prefix = MODELS["layers"]
    rule, norm = rule_of(kind, prefix)
    want = hg.clipped_grad(loss, rule)(params, x, norm=norm)
    out = hg.clipped_grad(loss, rule, memory=1)(params, x, norm=norm)
    for got, whole in zip(jax.tree.leaves(out.grads), jax.tree.leaves(want.grads), strict=True):
        np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-6)
    assert float(out.centred_bits) == float(want.centred_bits)
