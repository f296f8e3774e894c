"""Programs with loops, shared and sliced parameters, lookups and custom derivatives: exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hushgrad as hg
from hushgrad.gradients.inputs import traced
from hushgrad.gradients.plan import make_plan

fewer = settings(max_examples=4, deadline=None, derandomize=True)
few = settings(max_examples=5, deadline=None, derandomize=True)


def rand(seed: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ids(seed: int, top: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).integers(-top, top, shape), jnp.int32)


P = {"w": rand(0, 4, 4), "u": rand(1, 4, 4), "b": rand(2, 4), "o": rand(3, 4, 5)}
STACK = {"w": rand(4, 3, 4, 4), "b": rand(5, 3, 4), "s": rand(6, 3, 4)}


def recurrent(p, x):
    def cell(h, a):
        h = jnp.tanh(h @ p["w"] + a @ p["u"] + p["b"])
        return h, h

    return jnp.sum(jnp.sin(lax.scan(cell, jnp.zeros(4), x)[1] @ p["o"]))


def recurrent_backwards_with_a_learned_start(p, x):
    def cell(h, a):
        h = jnp.tanh(h @ p["w"] + a)
        return h, p["b"] * h[0]

    return jnp.sum(jnp.sin(lax.scan(cell, p["b"], x, reverse=True)[1]))


def stacked_layers(p, x):
    def layer(h, q):
        return jnp.tanh(h @ q["w"].T.astype(jnp.float32) + q["b"]) / jnp.exp(q["s"]), None

    return jnp.sum(lax.scan(layer, x, p)[0] ** 2)


def recurrent_in_stacked_layers(p, x):
    def layer(h, q):
        def cell(c, a):
            c = jnp.tanh(c @ q["w"] + a @ P["u"] * q["b"])
            return c, c

        return lax.scan(cell, jnp.zeros(4), h)[1] * jnp.exp(q["s"]), None

    return jnp.sum(lax.scan(layer, x, p)[0] ** 2)


def stacked_layers_in_a_loop(p, x):
    def again(h, _):
        return lax.scan(lambda h, q: (jnp.tanh(h @ q["w"] + q["b"]), None), h, p)[0], None

    return jnp.sum(lax.scan(again, x, None, length=2)[0] ** 2)


def checkpointed_loop(p, x):
    @jax.checkpoint
    def layer(h, q):
        return jnp.tanh(h @ q["w"] + q["b"]), None

    return jnp.sum(lax.scan(layer, x, p)[0] ** 2)


def layers_by_a_counter(p, x):
    return jnp.sum(lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["w"][i]), x))


def weights_that_leave_the_loop(p, x):
    h, ys = lax.scan(lambda h, w: (jnp.tanh(h @ w), w), x, p["w"])
    return jnp.sum(jnp.sin(ys)) * jnp.sum(h)


def checkpointed_and_shared(p, x):
    layer = jax.checkpoint(lambda h: jnp.tanh(h @ p["w"]) @ p["w"].T)
    return jnp.sum(jnp.sin(layer(layer(x)) @ p["o"]))


def standardised(p, x):
    w = p["w"]
    return jnp.sum(jnp.sin(x @ ((w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-5))))


def entry_by_entry(p, x):
    b = p["b"]
    y = x / b + jnp.where(x > 0, b, x) * jnp.maximum(x, b) + (x**2 + 1) ** b
    return jnp.sum(y - (b - x) / (x * x + 1) - jnp.minimum(p["w"][0, 0], x))


def low_rank(p, x):
    return jnp.sum(jnp.sin(x @ (P["u"] + p["w"] @ p["u"])))


@jax.custom_jvp
def _forward_rule(x, w):
    return jnp.tanh(x @ w)


_forward_rule.defjvp(lambda p, t: (_forward_rule(*p), (t[0] @ p[1] + p[0] @ t[1]) * 0.5))


def own_forward_rule(p, x):
    return jnp.sum(jnp.sin(_forward_rule(_forward_rule(x, p["w"]), p["w"])))


@jax.custom_vjp
def _backward_rule(x, w):
    return x @ w


_backward_rule.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (2 * g @ r[1].T, 3 * r[0].T @ g))


def own_backward_rule(p, x):
    return jnp.sum(jnp.sin(_backward_rule(_backward_rule(x, p["w"]), p["w"])))


@jax.custom_vjp
def _clipped_rule(x, w):
    return x @ w


_clipped_rule.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda r, g: (jnp.clip(g, -0.1, 0.1) @ r[1].T, r[0].T @ jnp.clip(g, -0.1, 0.1)),
)


def own_backward_rule_that_is_not_linear(p, x):
    return jnp.sum(jnp.sin(_clipped_rule(_clipped_rule(x, p["w"]), p["w"])))


FLAT = [
    *(recurrent, recurrent_backwards_with_a_learned_start, checkpointed_and_shared),
    *(standardised, entry_by_entry, low_rank, own_forward_rule, own_backward_rule),
    own_backward_rule_that_is_not_linear,
]
LAYERED = [
    *(stacked_layers, recurrent_in_stacked_layers, stacked_layers_in_a_loop),
    *(checkpointed_loop, layers_by_a_counter, weights_that_leave_the_loop),
]


@pytest.mark.parametrize("loss", FLAT, ids=lambda f: f.__name__)
def test_programs(check_exact, loss):
    check_exact(loss, P, rand(7, 5, 6, 4), clip=0.7)


@pytest.mark.parametrize("loss", LAYERED, ids=lambda f: f.__name__)
def test_programs_with_layers_in_a_loop(check_exact, loss):
    check_exact(loss, STACK, rand(7, 5, 6, 4), clip=0.7)


def test_lookups_of_every_form(check_exact):
    def loss(p, i):
        h = p["e"][i] + p["pos"][jnp.arange(3)] + p["pos"][:3] + p["own"][2:5]
        window = lax.dynamic_slice(p["pos"], (i[0], jnp.zeros_like(i[0])), (2, 4))
        h = h + jnp.take(p["e"], i, axis=0) + jnp.take(p["e"], i, axis=0, mode="clip")
        one = p["e"][i[0], i[1]] + jax.vmap(lambda j: p["own"].T[1, j])(i[1:2]).sum()
        filled = p["e"].at[i + 7].get(mode="fill", fill_value=0)
        return jnp.sum(jnp.sin(h)) + jnp.sum(window**2) + one + jnp.sum(filled[:, 1:3] ** 2)

    params = {"e": rand(0, 10, 4), "pos": rand(1, 9, 4), "own": rand(2, 9, 4)}
    check_exact(loss, params, ids(0, 9, 6, 3), clip=0.7)


@few
@given(
    table=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    data=st.data(),
    rows=st.integers(1, 4),
    mode=st.sampled_from(["clip", "fill"]),
)
def test_lookups_along_any_axis(check_exact, table, data, rows, mode):
    axis = data.draw(st.integers(0, len(table) - 1))

    def loss(t, i, x):
        found = jnp.take(t, i, axis=axis, mode=mode, fill_value=0.5)
        return jnp.sum(
            jnp.sin(jnp.moveaxis(found, axis, 0) * x.reshape(rows, *[1] * len(table[1:])))
        )

    check_exact(loss, rand(0, *table), ids(1, 5, 3, rows), rand(2, 3, rows), clip=0.3)


@pytest.mark.slow
@fewer
@given(
    rows=st.integers(1, 4),
    vocabulary=st.integers(5, 60),
    width=st.integers(1, 20),
    transposed=st.booleans(),
)
def test_tied_embeddings(check_exact, rows, vocabulary, width, transposed):
    def loss(p, i):
        h = jnp.tanh(p["e"][:, i].T if transposed else p["e"][i])
        logits = h @ (p["e"] if transposed else p["e"].T)
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1) * jnp.arange(1.0, rows + 1))

    shape = (width, vocabulary) if transposed else (vocabulary, width)
    check_exact(loss, {"e": rand(0, *shape)}, ids(1, 5, 4, rows), clip=0.5)


@fewer
@given(rows=st.integers(1, 3), width=st.integers(2, 24), uses=st.integers(2, 3), data=st.data())
def test_shared_layers(check_exact, rows, width, uses, data):
    turned = [data.draw(st.booleans()) for _ in range(uses)]

    def loss(w, x):
        for turn in turned:
            x = jnp.tanh(x @ (w.T if turn else w))
        return jnp.sum(x**2)

    check_exact(loss, rand(0, width, width), rand(1, 4, rows, width), clip=0.5)


def test_slices_and_concatenations(check_exact):
    def loss(p, x):
        q, k = jnp.split(p["w"], 2, axis=1)
        both = jnp.concatenate([p["a"], -p["b"]], axis=0)
        return jnp.sum(jnp.sin(x @ q) * jnp.cos(x @ k)) + jnp.sum(jnp.sin(x @ both[:, ::-1]))

    params = {"w": rand(0, 4, 8), "a": rand(1, 2, 50), "b": rand(2, 2, 50)}
    check_exact(loss, params, rand(3, 6, 4), clip=0.7)


def test_narrow_parameters_in_a_loop_are_held_in_float32():
    def loss(p, x):
        return jnp.sum(lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p)[0].astype(jnp.float32))

    w, x = rand(0, 3, 4, 4).astype(jnp.bfloat16), rand(1, 5, 4).astype(jnp.bfloat16)
    out = hg.clipped_grad(loss, 0.5)(w, x)
    assert out.grads.dtype == out.norms.dtype == jnp.float32
    grads = np.asarray(jax.vmap(jax.grad(loss), (None, 0))(w, x), np.float64)
    np.testing.assert_allclose(out.norms, np.sqrt((grads**2).sum((1, 2, 3))), rtol=0.02)


def test_parameters_beside_and_inside_data(check_exact):
    def loss(p, x, i):
        h = jnp.concatenate([p["w"][:1], x, p["b"][None]])
        h = (
            h
            + jnp.pad(p["o"][:, :4], ((1, 3), (0, 0)))
            + jnp.pad(h, ((0, 0), (1, 0)), constant_values=p["b"][0])[:, 1:]
        )
        h = h + jnp.stack([x[i], p["b"]])[1]
        h = h.at[i].set(p["b"]).at[0].add(p["u"][1])
        h = lax.dynamic_update_slice(h, p["u"][:2], (i, jnp.zeros_like(i)))
        return jnp.sum(jnp.sin(h) * jnp.arange(1.0, 5.0))

    check_exact(loss, P, rand(0, 5, 6, 4), jnp.array([0, 1, 2, 3, 7]), clip=0.7)


def test_a_parameter_that_a_checkpointed_part_returns_keeps_its_rule(check_exact):
    part = jax.checkpoint(lambda w, x: (w, jnp.tanh(x @ w), x @ w))

    def loss(p, x):
        w, h, _ = part(p["w"], x)
        return jnp.sum(h @ w)

    check_exact(loss, P, rand(0, 5, 6, 4), clip=0.7)


def test_what_the_loss_does_not_read_costs_nothing():
    def loss(p, x):
        metric = x @ p["w"]
        return jnp.sum(x @ p["u"]), metric

    program, _ = traced(loss, P, (rand(0, 6, 4),), has_aux=True)
    assert [site.value for site in make_plan(program).sites] == [program.parameters[2]]
