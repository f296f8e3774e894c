"""`has_aux`, `group`, `memory`, keys and copies of one example: against plain JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.gradients.inputs import traced
from hushgrad.gradients.memory import chunk_size, estimate
from hushgrad.gradients.plan import make_plan


def rand(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


P = {"w": rand(0, 6, 5), "v": rand(1, 5, 5), "b": rand(2, 5)}
X, Y = rand(3, 12, 3, 6), rand(4, 12, 5)


def loss(p, x, y):
    h = jnp.tanh(x @ p["w"] + p["b"])
    return jnp.sum((jnp.tanh(h @ p["v"]) - y) ** 2)


def grouped(p, x, y, k, clip):
    """Clipped sum of the mean gradients of k rows at a time, by vmap(grad)."""

    def mean(p, x, y):
        return jnp.mean(jax.vmap(loss, (None, 0, 0))(p, x, y))

    parts = x.reshape(-1, k, *x.shape[1:]), y.reshape(-1, k, *y.shape[1:])
    grads = jax.vmap(jax.grad(mean), (None, 0, 0))(p, *parts)
    norms = jnp.sqrt(sum(jnp.sum(g**2, tuple(range(1, g.ndim))) for g in grads.values()))
    scale = jnp.minimum(1, clip / norms)
    return {n: jnp.tensordot(scale, g, 1) for n, g in grads.items()}, norms


def close(got, want, tol=1e-5):
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=tol, atol=tol)


@pytest.mark.parametrize("k", [2, 3, 12])
def test_a_group_is_clipped_by_its_mean_gradient(k):
    clipped = hg.clipped_grad(loss, 0.5, group=k)
    out = jax.jit(clipped)(P, X, Y)
    want, norms = grouped(P, X, Y, k, 0.5)
    np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
    close(out.grads, want)
    assert out.losses.shape == (12 // k,)
    # Replacing one example moves its group from one vector of norm 0.5 to any other.
    assert clipped.sensitivity == 1.0


def test_masked_members_of_a_group_count_as_zero():
    mask = jnp.arange(12) % 4 != 1
    bad = X.at[~mask].set(jnp.nan)
    out = hg.clipped_grad(loss, 0.5, group=4)(P, bad, Y, mask=mask)
    assert int(out.nonfinite) == 0
    # The divisor stays the group's size: three of four members.
    kept = X[np.asarray(mask)], Y[np.asarray(mask)]
    want, norms = grouped(P, *kept, 3, 1e9)
    np.testing.assert_allclose(out.norms, 0.75 * norms, rtol=1e-5)
    del want
    empty = hg.clipped_grad(loss, 0.5, group=4)(P, bad, Y, mask=jnp.zeros(12, bool))
    assert not any(np.any(g) for g in jax.tree.leaves(empty.grads))


def test_one_bad_member_drops_its_group_and_no_other():
    out = hg.clipped_grad(loss, 0.5, group=3)(P, X.at[4].set(jnp.inf), Y)
    assert int(out.nonfinite) == 1
    rows = np.array([0, 1, 2, 6, 7, 8, 9, 10, 11])
    want, _ = grouped(P, X[rows], Y[rows], 3, 0.5)
    close(out.grads, want)


def test_the_batch_must_be_whole_groups():
    with pytest.raises(InputError, match="multiple of group=5, got 12"):
        hg.clipped_grad(loss, 0.5, group=5)(P, X, Y)
    with pytest.raises(InputError, match="group"):
        hg.clipped_grad(loss, 0.5, group=0)


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 12])
@pytest.mark.parametrize(("group", "devices"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_chunks_change_nothing(chunk, group, devices, monkeypatch):
    from hushgrad.gradients import clipped

    mask, bad = jnp.arange(12) != 3, X.at[6].set(jnp.nan)

    def with_aux(p, x, y):
        return loss(p, x, y), {"sum": x.sum()}

    run = hg.clipped_grad(with_aux, 0.5, has_aux=True, group=group, devices=devices)
    whole = run(P, bad, Y, mask=mask)
    monkeypatch.setattr(clipped, "chunk_size", lambda *_: min(12, chunk * group))
    parts = run(P, bad, Y, mask=mask)
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_devices_change_nothing_where_norms_are_huge():
    """Those are found again a few at a time on each device."""
    w, x = rand(0, 6, 5), rand(1, 64, 3, 6).at[jnp.array([3, 40])].multiply(1e25)

    def loss(w, x):
        return jnp.sum((x @ w) ** 2)

    one, four = (hg.clipped_grad(loss, 0.5, devices=n)(w, x) for n in (1, 4))
    assert float(jnp.max(one.norms)) > 1e40 or bool(jnp.isinf(jnp.max(one.norms)))
    jax.tree.map(np.testing.assert_array_equal, one, four)


def test_memory_bounds_the_step(monkeypatch):
    from hushgrad.gradients import clipped

    params = [rand(i, 128, 128) for i in range(4)]
    x = rand(9, 256, 16, 128)

    def deep(p, x):
        for w in p:
            x = jnp.tanh(x @ w)
        return jnp.sum(x**2)

    def temporary(memory):
        step = jax.jit(lambda p, x: hg.clipped_grad(deep, 1.0, memory=memory)(p, x).grads)
        return step.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    free, bound = temporary(None), 8_000_000
    assert free > 2 * bound
    assert temporary(bound) <= bound
    plan = make_plan(traced(deep, params, (x[0],))[0])
    assert chunk_size(plan, 256, None) == 256
    assert chunk_size(plan, 256, 1) == 1
    # A bound on each of four devices leaves room for as many examples on each.
    monkeypatch.setattr(clipped, "in_chunks", lambda *arguments: sizes.append(arguments[3:]))
    sizes = []
    for devices in (1, 4):
        with pytest.raises(AttributeError):  # of what in_chunks gives
            hg.clipped_grad(deep, 1.0, memory=bound, devices=devices)(params, x)
    each = chunk_size(plan, 64, bound)
    assert sizes == [(each, 1, 1), (4 * each, 1, 4)]
    assert estimate(plan).parameters == 4 * 128 * 128 * 4
    with pytest.raises(InputError, match="memory"):
        hg.clipped_grad(deep, 1.0, memory=0)


def test_gradients_that_must_be_built_are_built_a_few_at_a_time():
    w, x = rand(0, 256, 256), rand(1, 256, 256)

    def unusual(w, x):
        return jnp.sum(jnp.sin(x @ jnp.tanh(w)))

    step = jax.jit(lambda w, x: hg.clipped_grad(unusual, 1.0)(w, x).grads)
    compiled = step.lower(w, x).compile()
    # All at once would take 2 x 67 MB.
    assert compiled.memory_analysis().temp_size_in_bytes < 20e6


def test_auxiliary_results_of_each_example():
    def with_aux(p, x, y):
        return loss(p, x, y), (x.sum(), {"hit": jnp.argmax(x[0]) == 1, "const": jnp.arange(2)})

    clipped = hg.clipped_grad(with_aux, 0.5, has_aux=True)
    out = jax.jit(clipped)(P, X, Y)
    total, rest = out.aux
    np.testing.assert_allclose(total, X.sum((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(rest["hit"], jnp.argmax(X[:, 0], -1) == 1)
    assert rest["const"].shape == (12, 2)
    close(out.grads, hg.clipped_grad(loss, 0.5)(P, X, Y).grads)
    assert hg.clipped_grad(loss, 0.5)(P, X, Y).aux is None
    with pytest.raises(InputError, match="pair"):
        hg.clipped_grad(loss, 0.5, has_aux=True)(P, X, Y)
    with pytest.raises(InputError, match="has_aux=True"):
        hg.clipped_grad(with_aux, 0.5)(P, X, Y)


def test_copies_of_one_example_are_clipped_as_one():
    keys = jax.random.split(jax.random.key(0), 12)

    def augmented(p, x, y, key):
        noise = jax.random.normal(key, (4, *x.shape))
        return jnp.mean(jax.vmap(loss, (None, 0, None))(p, x + noise, y))

    out = jax.jit(hg.clipped_grad(augmented, 0.5))(P, X, Y, keys)
    grads = jax.vmap(jax.grad(augmented), (None, 0, 0, 0))(P, X, Y, keys)
    norms = jnp.sqrt(sum(jnp.sum(g**2, tuple(range(1, g.ndim))) for g in grads.values()))
    np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
    want = {n: jnp.tensordot(jnp.minimum(1, 0.5 / norms), g, 1) for n, g in grads.items()}
    close(out.grads, want)


@pytest.mark.parametrize("clip", [0.7, hg.clip.PerLayer(total=0.7), hg.clip.Automatic()])
def test_a_scaled_loss_gives_the_same(clip):
    """A power of two changes no digit of what is clipped, and all is told of the loss itself."""
    plain = jax.jit(hg.clipped_grad(loss, clip))(P, X, Y)
    scaled = jax.jit(hg.clipped_grad(loss, clip, loss_scale=2.0**10))(P, X, Y)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(scaled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_scale_keeps_small_gradients_of_float16():
    """The gradient, 1e-9, is below the smallest number that float16 has."""

    def tiny(p, x):
        return jnp.sum(1e-9 * (p["w"] * x).astype(jnp.float16).astype(jnp.float32))

    p, x = {"w": jnp.ones(4, jnp.float16)}, jnp.ones((2, 4), jnp.float16)
    assert not hg.clipped_grad(tiny, 1.0)(p, x).norms.any()
    norms = hg.clipped_grad(tiny, 1.0, loss_scale=2.0**20)(p, x).norms
    np.testing.assert_allclose(norms, 2e-9, rtol=1e-2)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), "2"])
def test_a_scale_that_is_none(wrong):
    with pytest.raises(InputError, match="loss_scale must be a positive finite number"):
        hg.clipped_grad(loss, 1.0, loss_scale=wrong)
