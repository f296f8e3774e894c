"""Matrices with a low-rank part: exact, and never built for each example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hushgrad as hg


def rand(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


W = rand(0, 12, 10)
P = {"a": rand(1, 12, 2), "b": rand(2, 2, 10), "w": rand(3, 12, 10)}
HEADS = {"a": rand(4, 12, 3, 2), "b": rand(5, 2, 4)}
BASE = rand(6, 12, 3, 4)


def adapted(p):
    return W + 0.5 * (p["a"] @ p["b"])


def frozen(p, x):
    return jnp.sum(jnp.sin(x @ adapted(p)))


def trained(p, x):
    return jnp.sum(jnp.sin(x @ (p["w"] + p["a"] @ p["b"] * 2.0)))


def alone(p, x):
    return jnp.sum(jnp.sin(x @ (p["a"] @ p["b"])))


def other_side(p, x):
    return jnp.sum(jnp.sin(jnp.einsum("io,ti->ot", adapted(p), x)))


def contracted_in_the_second_factor(p, x):
    h = jnp.tanh(x[:, :10] @ adapted(p).T) @ W
    return jnp.sum(h**2) + jnp.sum(jnp.sin(jnp.einsum("tj,ij->ti", x[:, :10], adapted(p))))


def used_twice(p, x):
    w = adapted(p)
    return jnp.sum(jnp.sin(jnp.tanh(x @ w) @ w.T))


def two_adapters(p, x):
    return jnp.sum(jnp.sin(x @ (adapted(p) + 3.0 * (p["w"][:, :1] @ p["b"][:1]))))


def checkpointed(p, x):
    return jnp.sum(jnp.sin(jax.checkpoint(lambda x: x @ adapted(p))(x)))


def in_a_loop(p, x):
    def turn(h, row):
        h = jnp.tanh(row @ adapted(p) + h)
        return h, h

    return jnp.sum(lax.scan(turn, jnp.zeros(10), x)[1] ** 2)


LOSSES = [frozen, trained, alone, other_side, two_adapters, checkpointed, in_a_loop]
REUSED = [used_twice, contracted_in_the_second_factor]


@pytest.mark.parametrize("loss", [*LOSSES, *REUSED], ids=lambda f: f.__name__)
def test_sums_and_norms_are_exact(check_exact, loss):
    check_exact(loss, P, rand(7, 5, 6, 12), clip=0.7)


@pytest.mark.parametrize("equation", ["tc,chd->thd", "thd,chd->tc", "td,chd->tch", "hc,chd->hd"])
def test_heads(check_exact, equation):
    inputs = {"t": 6, "c": 12, "h": 3, "d": 4}
    shape = [inputs[letter] for letter in equation.partition(",")[0]]

    def loss(p, x):
        return jnp.sum(jnp.sin(jnp.einsum(equation, x, BASE + p["a"] @ p["b"])))

    check_exact(loss, HEADS, rand(8, 5, *shape), clip=0.7)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_no_gradient_of_the_whole_matrix_is_built(loss):
    params = {k: v for k, v in P.items() if loss in (trained, two_adapters) or k != "w"}
    rows = hg.explain(loss, params, rand(7, 6, 12)).rows
    assert all(row.fast for row in rows), rows
    if loss is not trained:
        # 13 is nobody's size: an array of 13 x 12 x 10 would be a matrix for each example.
        text = str(jax.make_jaxpr(hg.clipped_grad(loss, 1.0))(params, rand(9, 13, 6, 12)))
        assert "f32[13,6,12]" in text
        assert "f32[13,12,10]" not in text


@pytest.mark.parametrize("rank", [2, 6])
def test_only_a_low_rank_is_taken_apart(rank):
    params = {"a": rand(1, 12, rank), "b": rand(2, rank, 10)}
    rows = hg.explain(frozen, params, rand(7, 6, 12)).rows
    assert [row.fast for row in rows] == [rank == 2] * 2


@pytest.mark.parametrize("mixed", [False, True])
def test_half_precision(mixed):
    half = jnp.float32 if mixed else jnp.bfloat16
    narrow = jax.tree.map(lambda leaf: leaf.astype(half), P)

    def loss(p, x):
        whole = (W.astype(half) + (p["a"] @ p["b"]).astype(half)).astype(jnp.bfloat16)
        return jnp.sum(jnp.sin((x.astype(jnp.bfloat16) @ whole).astype(jnp.float32)))

    x = rand(7, 5, 6, 12)
    exact = jax.vmap(jax.grad(lambda p, x: jnp.sum(jnp.sin(x @ (W + p["a"] @ p["b"])))), (None, 0))
    norms = jnp.sqrt(sum(jnp.sum(g**2, axis=(1, 2)) for g in jax.tree.leaves(exact(P, x))))
    out = hg.clipped_grad(loss, 1.0)(narrow, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(out.grads))
    np.testing.assert_allclose(out.norms, norms, rtol=0.2)
    whole = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(out.grads)))
    assert float(whole) <= 5.0
