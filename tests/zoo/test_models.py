"""Models written in plain JAX: experts, adapters, state spaces, graphs, layers of other shapes."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from zoo.draw import ids, rand

B = 3
ALL: list = []  # loss, parameters, batch, share


def model(params, *batch, share=1.0):
    """Adds a loss to the list, with the share of its parameters on the fast path."""

    def add(loss):
        ALL.append(pytest.param(loss, params, batch, share, id=loss.__name__))
        return loss

    return add


EXPERTS = {"gate": rand(0, 5, 4), "w": rand(1, 4, 5, 6) / 3, "v": rand(2, 4, 6, 5) / 3}
LOW = {"w": rand(0, 6, 5), "a": rand(1, 6, 2), "b": rand(2, 2, 5)}
HEADS = {"q": rand(0, 4, 4, 3), "k": rand(1, 4, 2, 3), "v": rand(2, 4, 2, 3), "o": rand(3, 4, 3, 4)}
STATES = {"a": rand(0, 4), "b": rand(1, 4, 3), "c": rand(2, 3, 4), "dt": rand(3, 3, 4)}
LAYER = {"w": rand(0, 4, 4) / 2, "b": rand(1, 4), "s": rand(2)}


@model(EXPERTS, rand(3, B, 4, 5))
def experts_by_dispatch(p, x):
    gates, chosen = lax.top_k(jax.nn.softmax(x @ p["gate"]), 2)
    sent = jax.nn.one_hot(chosen, 4, dtype=x.dtype)
    h = jax.nn.relu(jnp.einsum("nd,nke,edh->nekh", x, sent, p["w"]))
    y = jnp.einsum("nekh,ehd->nekd", h, p["v"])
    return jnp.sum(jnp.sin(jnp.einsum("nekd,nke,nk->nd", y, sent, gates)))


@model(EXPERTS, rand(3, B, 4, 5))
def experts_by_lookup(p, x):
    gates, chosen = lax.top_k(jax.nn.softmax(x @ p["gate"]), 2)
    h = jax.nn.relu(jnp.einsum("nd,nkdh->nkh", x, p["w"][chosen]))
    y = jnp.einsum("nkh,nkhd->nkd", h, p["v"][chosen])
    return jnp.sum(jnp.sin(jnp.einsum("nkd,nk->nd", y, gates)))


@model(EXPERTS, rand(3, B, 5), share=20 / 260)
def experts_by_switch(p, x):
    """A branch of a `switch` reads its weights: differentiated per example."""
    gates = jax.nn.softmax(x @ p["gate"])
    run = [lambda x, i=i: jax.nn.relu(x @ p["w"][i]) @ p["v"][i] for i in range(4)]
    return jnp.sum(jnp.sin(lax.switch(jnp.argmax(gates), run, x))) * jnp.max(gates)


@model(
    {"k": rand(0, 3, 3, 2, 4), "g": rand(1, 4), "o": rand(2, 4, 9)},
    rand(3, B, 5, 5, 2),
    share=36 / 112,
)
def weight_standardisation(p, x):
    k = p["k"] - jnp.mean(p["k"], (0, 1, 2))
    k = p["g"] * k / jnp.sqrt(jnp.var(k, (0, 1, 2)) + 1e-5)
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x[None], k, (1, 1), "SAME", dimension_numbers=numbers)
    return jnp.sum(jnp.sin(jax.nn.relu(y[0]).mean((0, 1)) @ p["o"]))


@model(LOW, rand(3, B, 4, 6))
def adapter_with_its_base(p, x):
    return jnp.sum(jnp.sin(x @ p["w"] + 0.5 * (x @ p["a"] @ p["b"])))


@model(LOW, rand(3, B, 4, 6))
def adapter_on_a_stopped_base(p, x):
    return jnp.sum(jnp.sin(x @ lax.stop_gradient(p["w"]) + 0.5 * (x @ p["a"] @ p["b"])))


@model({"a": LOW["a"], "b": LOW["b"]}, rand(3, B, 4, 6))
def adapter_on_a_frozen_base(p, x):
    return jnp.sum(jnp.sin(x @ LOW["w"] + 0.5 * (x @ p["a"] @ p["b"])))


@model({"a": LOW["a"], "b": LOW["b"]}, rand(3, B, 4, 6))
def adapter_merged_into_a_frozen_base(p, x):
    return jnp.sum(jnp.sin(x @ (LOW["w"] + 0.5 * (p["a"] @ p["b"]))))


@model(STATES, rand(4, B, 6, 3), share=36 / 40)
def selective_state_space(p, x):
    """Of the weights only the decay goes through a nonlinearity."""
    dt = jax.nn.softplus(x @ p["dt"])
    turns = (jnp.exp(-dt * jnp.exp(p["a"])), dt * (x @ p["b"].T))
    h = lax.associative_scan(lambda r, s: (r[0] * s[0], s[0] * r[1] + s[1]), turns)[1]
    return jnp.sum(jnp.sin(h @ p["c"].T))


@model(HEADS, rand(4, B, 5, 4), jnp.asarray([2, 5, 3]))
def attention_with_shared_keys_and_lengths(p, x, length):
    q, k, v = (jnp.einsum("td,dhk->thk", x, p[name]) for name in "qkv")
    q = q.reshape(5, 2, 2, 3)
    seen = (jnp.arange(5)[:, None] >= jnp.arange(5)) & (jnp.arange(5) < length)
    scores = jnp.where(seen, jnp.einsum("tgrk,sgk->grts", q, k), -1e9)
    y = jnp.einsum("grts,sgk->tgrk", jax.nn.softmax(scores), v).reshape(5, 4, 3)
    y = jnp.einsum("thk,hkd->td", y, p["o"])
    return jnp.sum(jnp.sin(y) * (jnp.arange(5) < length)[:, None])


@model(HEADS, rand(4, B, 5, 4))
def attention_by_cumulative_sums(p, x):
    q, k, v = (jnp.einsum("td,dhk->thk", x, p[name]) for name in "qkv")
    q, k = jax.nn.elu(q[:, :2]) + 1, jax.nn.elu(k) + 1
    pairs = jnp.cumsum(k[..., None] * v[..., None, :], 0)
    y = jnp.einsum("thk,thkv->thv", q, pairs)
    y = y / jnp.einsum("thk,thk->th", q, jnp.cumsum(k, 0))[..., None]
    return jnp.sum(jnp.einsum("thv,hvd->td", jnp.sin(y), p["o"][:2]))


@model({"e": rand(0, 9, 4), "w": rand(1, 4, 4)}, ids(3, 9, B, 7), jnp.sort(ids(4, 3, B, 7), axis=1))
def ragged_segments(p, i, segment):
    h = jax.ops.segment_sum(jnp.tanh(p["e"][i] @ p["w"]), segment, 3)
    return jnp.sum(jnp.sin(h))


@model({"w": rand(1, 4, 4), "v": rand(2, 4, 4)}, rand(0, B, 5, 4), ids(3, 5, B, 2, 8))
def graph(p, x, edges):
    for w in (p["w"], p["v"]):
        x = jnp.tanh(jax.ops.segment_sum((x @ w)[edges[0]], edges[1], 5)) + x
    return jnp.sum(x**2)


@model({"t": rand(0, 4, 4), "s": rand(1, 4), "w": rand(2, 3, 4)}, rand(3, B, 6, 3), ids(4, 4, B, 6))
def random_field(p, x, y):
    fit = x @ p["w"]

    def turn(a, e):
        return jax.nn.logsumexp(a[:, None] + p["t"], axis=0) + e, None

    total = jax.nn.logsumexp(lax.scan(turn, p["s"] + fit[0], fit[1:])[0])
    found = p["s"][y[0]] + jnp.sum(p["t"][y[:-1], y[1:]])
    return total - found - jnp.sum(jnp.take_along_axis(fit, y[:, None], 1))


@model(LAYER, rand(3, B, 5, 4))
def vmap_in_the_loss(p, x):
    return jnp.mean(jax.vmap(lambda r: jnp.sum(jnp.sin(r @ p["w"] + p["b"]) * p["s"]))(x))


@model(LAYER, rand(3, B, 5, 4))
def nested_and_checkpointed_scans(p, x):
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    inner = jax.checkpoint(lambda h, a: jnp.tanh(h @ p["w"] + a * p["b"]), policy=policy)

    @jax.checkpoint
    def outer(h, a):
        return lax.scan(lambda g, _: (inner(g, a), None), h, None, length=2)[0], a * p["s"]

    h, ys = lax.scan(outer, jnp.zeros(4, x.dtype), x)
    return jnp.sum(h) + jnp.sum(ys**2)


@model(LAYER, rand(3, B, 5, 4))
def checkpoint_that_returns_its_weights(p, x):
    layer = jax.checkpoint(lambda p, x: (p, jnp.tanh(x @ p["w"] + p["b"])))
    p, h = layer(p, x)
    return jnp.sum(layer(p, h)[1]) * p["s"]


@model(LAYER, rand(3, B, 5, 4))
def learned_start(p, x):
    return jnp.sum(lax.scan(lambda h, a: (jnp.tanh(h @ p["w"] + a), None), p["b"], x)[0]) * p["s"]


@model({"a": rand(0, 4, 4), "b": rand(1, 4, 4)}, rand(3, B, 5, 4))
def layers_that_are_stacked(p, x):
    layers = jnp.stack([p["a"], p["b"]])
    return jnp.sum(lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, layers)[0])


@model({"t": rand(1, 4, 4, 4)}, rand(3, B, 4), rand(4, B, 4), share=0)
def repeated_letters(p, x, y):
    one = jnp.sin(jnp.einsum("iij,j->", p["t"], y))
    return one + jnp.sum(jnp.einsum("ijk,i,j->k", p["t"], x, y) ** 2)


@model(LAYER, rand(3, B, 4), share=5 / 21)
def linear_algebra(p, x):
    """Factorised, solved with, inverted: no rule, exact all the same."""
    root = jnp.linalg.cholesky(p["w"] @ p["w"].T + jnp.eye(4))
    y = jnp.linalg.solve(p["w"] + 2 * jnp.eye(4), x + p["b"]) + jnp.tril(p["w"]) @ x
    return jnp.sum((root @ y) ** 2) * p["s"] + jnp.linalg.slogdet(p["w"] + 3 * jnp.eye(4))[1] * x[0]


@model(LAYER, rand(3, B, 4, 4), rand(4, B, 4, 4))
def gradient_step_in_the_loss(p, x, y):
    def inner(p, x):
        return jnp.mean((jnp.tanh(x @ p["w"] + p["b"]) * p["s"] - y) ** 2)

    step = jax.grad(inner)(p, x)
    return 10 * inner(jax.tree.map(lambda a, g: a - 0.1 * g, p, step), x)


@model(LAYER, rand(3, B, 4), share=4 / 21)
def gradient_penalty(p, x):
    """The gradient by the data multiplies weights with weights."""

    def value(x):
        return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T) * p["s"]

    return value(x) + jnp.sum(jax.grad(value)(x) ** 2)


@model(ravel_pytree(LAYER)[0], rand(3, B, 4))
def one_flat_vector(flat, x):
    p = ravel_pytree(LAYER)[1](flat)
    return jnp.sum(jnp.sin(x @ p["w"] + p["b"])) * p["s"]


@model(
    {"token": rand(0, 4), "place": rand(1, 6, 4), "w": rand(2, 4, 4)},
    rand(3, B, 5, 4),
)
def class_token(p, x):
    h = jnp.concatenate([p["token"][None], x]) + p["place"]
    return jnp.sum(jnp.sin((jax.nn.softmax(h @ p["w"] @ h.T) @ h)[0]))


@model({"w": rand(0, 4, 4)}, rand(3, B, 4), share=0.0)
def scaled_weights(p, x):
    return jnp.sum(jnp.sin(x @ (p["w"] * 0.5)))


@model({"w": rand(0, 4, 4)}, rand(3, B, 4))
def straight_through_rounding(p, x):
    w = p["w"] + lax.stop_gradient(jnp.round(4 * p["w"]) / 4 - p["w"])
    return jnp.sum(jnp.sin(x @ w))


@model({"w": rand(0, 4, 4)}, rand(3, B, 4), share=0.0)
def weight_decay_in_the_loss(p, x):
    return jnp.sum(jnp.sin(x @ p["w"])) + 0.1 * jnp.sum(p["w"] ** 2)


@model({"k": rand(0, 3, 3, 2, 2)}, rand(3, B, 5, 5, 2))
def rotated_kernels(p, x):
    k = jnp.concatenate([jnp.rot90(p["k"], i) for i in range(4)], axis=-1)
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x[None], k, (1, 1), "SAME", dimension_numbers=numbers)
    return jnp.sum(jnp.sin(y))


@model({"r": rand(0, 9), "q": rand(1, 4, 4)}, rand(3, B, 5, 4))
def relative_positions(p, x):
    apart = jnp.arange(5)[:, None] - jnp.arange(5) + 4
    return jnp.sum(jnp.sin(jax.nn.softmax(x @ p["q"] @ x.T + p["r"][apart]) @ x))


@model({"re": rand(0, 4, 2, 3), "im": rand(1, 4, 2, 3)}, rand(3, B, 6, 2), share=0.0)
def fourier_layer(p, x):
    y = jnp.einsum("ki,kio->ko", jnp.fft.rfft(x, axis=0), p["re"] + 1j * p["im"])
    return jnp.sum(jnp.sin(jnp.fft.irfft(y, 6, axis=0)))


@pytest.mark.parametrize(("loss", "params", "batch", "share"), ALL)
def test_model(check_model, loss, params, batch, share):
    check_model(loss, params, *batch, share=share)


def test_own_derivative_that_reads_a_constant(check_model):
    scale = jax.device_get(rand(9, 4))

    @jax.custom_vjp
    def layer(x, w):
        return jnp.tanh(x @ w) * scale

    def back(seen, g):
        x, w = seen
        return (g * scale) @ w.T, jnp.outer(x, g * scale)

    layer.defvjp(lambda x, w: (layer(x, w), (x, w)), back)
    check_model(lambda w, x: jnp.sum(jnp.sin(layer(x, w))), LAYER["w"], rand(3, B, 4))


def test_differential_equation(check_model):
    from jax.experimental.ode import odeint

    def loss(p, x):
        ends = jnp.asarray([0.0, 1.0], x.dtype)
        found = odeint(lambda h, t, w, b: jnp.tanh(h @ w + b), x, ends, p["w"], p["b"])
        return jnp.sum(found[-1]) * p["s"]

    # The solver chooses its steps to 1.5e-8 in float64, and cannot in float32.
    check_model(loss, LAYER, rand(3, B, 4), narrow=True, share=1 / 21)
