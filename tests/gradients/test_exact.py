"""The clipped sum and the norms against one gradient per example, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import hushgrad as hg

few = settings(max_examples=5, deadline=None, derandomize=True)
dims = st.integers(1, 4)


def rand(seed: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@few
@given(rows=st.integers(1, 6), depth=st.integers(1, 9), columns=st.integers(1, 9), b=dims)
def test_matrix_products_of_any_shape(check_exact, rows, depth, columns, b):
    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2)

    params = {"w": rand(0, depth, columns), "b": rand(1, columns)}
    check_exact(loss, params, rand(2, b, rows, depth), clip=0.5)


@few
@given(
    batch=st.integers(0, 2),
    contract=st.integers(1, 2),
    free=st.integers(0, 2),
    weight_free=st.integers(0, 2),
    left=st.booleans(),
    seed=st.integers(0, 100),
)
def test_dot_general_in_every_dimension_number_form(
    check_exact, batch, contract, free, weight_free, left, seed
):
    rng = np.random.default_rng(seed)
    size = {name: int(n) for name, n in zip("abcdefgh", rng.integers(1, 4, 8), strict=True)}
    shared, summed = list("ab"[:batch]), list("cd"[:contract])
    data = list(rng.permutation(shared + summed + list("ef"[:free])))
    weight = list(rng.permutation(shared + summed + list("gh"[:weight_free])))
    numbers = (
        (tuple(data.index(n) for n in summed), tuple(weight.index(n) for n in summed)),
        (tuple(data.index(n) for n in shared), tuple(weight.index(n) for n in shared)),
    )

    def loss(w, x):
        pair = (w, x) if left else (x, w)
        (dc, wc), (db, wb) = numbers
        chosen = ((wc, dc), (wb, db)) if left else numbers
        return jnp.sum(jnp.sin(lax.dot_general(*pair, chosen)))

    w = rand(seed, *(size[n] for n in weight))
    x = rand(seed + 1, 3, *(size[n] for n in data))
    check_exact(loss, w, x, clip=0.3)


@st.composite
def convolutions(draw):
    """Spatial rank 1 to 3 with strides, paddings, both dilations, groups and any layout."""
    rank = draw(st.integers(1, 3))
    one = {1: st.integers(1, 3), 2: st.integers(1, 2), 3: st.integers(1, 2)}[rank]
    groups = draw(st.integers(1, 3))
    spatial = "XYZ"[:rank]
    return {
        "kernel": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "size": tuple(draw(st.integers(5, 6)) for _ in range(rank)),
        "channels": groups * draw(st.integers(1, 2)),
        "out": groups * draw(st.integers(1, 2)),
        "groups": groups,
        "strides": tuple(draw(one) for _ in range(rank)),
        "padding": tuple((draw(st.integers(-1, 2)), draw(st.integers(0, 2))) for _ in range(rank)),
        "lhs_dilation": tuple(draw(one) for _ in range(rank)),
        "rhs_dilation": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        "layout": draw(
            st.sampled_from(
                [
                    (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
                    (f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"),
                    (f"C{spatial}N", f"I{spatial}O", f"N{spatial}C"),
                ]
            )
        ),
        "images": draw(st.integers(1, 2)),
    }


@few
@given(c=convolutions())
def test_convolutions_of_every_kind(check_exact, c):
    lhs, rhs, _ = c["layout"]

    def shape(spec, named):
        space = iter(c["size"] if "N" in spec else c["kernel"])
        return tuple(named[d] if d in named else next(space) for d in spec)

    x_shape = shape(lhs, {"N": c["images"], "C": c["channels"]})
    w_shape = shape(rhs, {"I": c["channels"] // c["groups"], "O": c["out"]})

    def loss(w, x):
        y = lax.conv_general_dilated(
            x,
            w,
            c["strides"],
            c["padding"],
            lhs_dilation=c["lhs_dilation"],
            rhs_dilation=c["rhs_dilation"],
            dimension_numbers=c["layout"],
            feature_group_count=c["groups"],
        )
        return jnp.sum(jnp.sin(y))

    check_exact(loss, rand(0, *w_shape), rand(1, 3, *x_shape), clip=0.3)


def test_wide_convolution_takes_the_ghost_norm(check_exact):
    def loss(w, x):
        y = lax.conv_general_dilated(
            x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.tanh(y))

    check_exact(loss, rand(0, 3, 3, 8, 24), rand(1, 3, 2, 2, 8), clip=0.3)


def test_batch_groups(check_exact):
    def loss(w, x):
        y = lax.conv_general_dilated(
            x, w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), batch_group_count=2
        )
        return jnp.sum(jnp.tanh(y))

    check_exact(loss, rand(0, 2, 3, 4), rand(1, 3, 4, 5, 3), clip=0.3)


@few
@given(shape=st.lists(st.integers(1, 3), min_size=1, max_size=3), data=st.data())
def test_biases_of_any_broadcast(check_exact, shape, data):
    bias = [n if data.draw(st.booleans()) else 1 for n in shape]
    bias = bias[data.draw(st.integers(0, len(bias) - 1)) :]

    def loss(b, x):
        return jnp.sum(jnp.sin(x + b) * x)

    check_exact(loss, rand(0, *bias), rand(1, 4, *shape), clip=0.4)


def shared_twice(p, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]))


def tied(p, x):
    return jnp.sum(jnp.tanh(x @ p["w"]) @ p["w"].T)


def transposed_and_reshaped(p, x):
    return jnp.sum(jnp.sin(x @ p["w"].T.reshape(4, 4)[::-1]))


def sliced(p, x):
    return jnp.sum(jnp.sin(x[:2] @ p["w"][:2])) + jnp.sum(jnp.cos(x @ -p["w"]))


def nonlinear_in_parameters(p, x):
    w = p["w"] - p["w"].mean()
    return jnp.sum(jnp.sin(x @ (w / jnp.linalg.norm(w))))


def regularised(p, x):
    return jnp.sum(jnp.sin(x @ p["w"])) + 0.1 * jnp.sum(p["w"] ** 2) + jnp.sum(p["v"] ** 3)


def scaled(p, x):
    return jnp.sum(jnp.sin(x * p["v"]) / (1 + p["v"] ** 2))


def embedded(p, x):
    return jnp.sum(jnp.sin(p["w"][jnp.array([0, 2, 2])] * x))


def both_sides(p, x):
    return jnp.sum(jnp.sin((p["w"] @ p["w"]) @ x) + p["v"] * p["v"])


def in_a_scan(p, x):
    def cell(h, _):
        h = jnp.tanh(h @ p["w"] + p["v"])
        return h, h.sum()

    return jnp.sum(lax.scan(cell, x, None, length=3)[1])


def in_a_loop(p, x):
    return jnp.sum(lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["w"]), x))


def in_a_cond(p, x):
    return lax.cond(x[0] > 0, lambda: jnp.sum(x @ p["w"]), lambda: jnp.sum(p["v"] * x))


@jax.custom_jvp
def _soft(x, w):
    return jnp.log1p(jnp.exp(x * w))


_soft.defjvps(lambda t, _, x, w: t * w * 0.5, lambda t, _, x, w: t * x * 0.25)


@jax.custom_vjp
def _halved(x, w):
    return x * w


_halved.defvjp(lambda x, w: (x * w, (x, w)), lambda r, g: (g * r[1] / 2, g * r[0] / 2))


def custom_jvp(p, x):
    return jnp.sum(_soft(x, p["v"]))


def custom_vjp(p, x):
    return jnp.sum(_halved(x, p["v"]) @ p["w"])


def rematerialised(p, x):
    return jnp.sum(jax.checkpoint(lambda h: jnp.sin(h @ p["w"]))(x))


def jitted_twice(p, x):
    layer = jax.jit(lambda h, w: jnp.tanh(h @ w))
    return jnp.sum(layer(layer(x, p["w"]), p["w"]))


def stopped(p, x):
    return jnp.sum(jnp.sin(x @ lax.stop_gradient(p["w"]) + p["v"]))


def in_frequencies(p, x):
    return jnp.sum(jnp.abs(jnp.fft.fft(x) @ p["w"] + jnp.fft.fft(p["v"])) ** 2)


def scalar_bias(p, x):
    return jnp.sum(jnp.sin(lax.add(x, p["v"][0])) @ p["w"])


def integer_inputs(p, x):
    pixels = (100 * x).astype(jnp.int8)
    out = lax.dot_general(
        pixels, p["w"], (((0,), (0,)), ((), ())), preferred_element_type=p["w"].dtype
    )
    return jnp.sum(jnp.sin(out))


def empty_axis(p, x):
    return jnp.sum(x[:0] @ p["w"][:0]) + jnp.sum(x * p["v"])


def no_data(p, x):
    return jnp.sum(p["w"] ** 2)


def no_parameters(p, x):
    return jnp.sum(x)


ZOO = [
    *(shared_twice, tied, transposed_and_reshaped, sliced, nonlinear_in_parameters, regularised),
    *(scaled, embedded, both_sides, in_a_scan, in_a_loop, in_a_cond, custom_jvp, custom_vjp),
    *(rematerialised, jitted_twice, stopped, in_frequencies, scalar_bias, integer_inputs),
    *(empty_axis, no_data, no_parameters),
]


@pytest.mark.parametrize("loss", ZOO, ids=lambda f: f.__name__)
def test_programs_of_every_kind(check_exact, loss):
    params = {"w": rand(0, 4, 4), "v": rand(1, 4)}
    shape = (3, 4) if loss is embedded else (4,)
    check_exact(loss, params, rand(2, 5, *shape), clip=0.7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_narrow_parameters_are_held_in_float32(dtype):
    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]).astype(jnp.float32))

    params = {"w": rand(0, 6, 3).astype(dtype), "b": rand(1, 3).astype(dtype)}
    x = rand(2, 200, 6).astype(dtype)
    clipped = jax.jit(hg.clipped_grad(loss, 0.1))
    out = clipped(params, x)
    assert all(leaf.dtype == jnp.float32 for leaf in out.grads.values())
    assert out.norms.dtype == jnp.float32
    one = [clipped(params, x[i : i + 1]).grads for i in range(200)]
    summed = jax.tree.map(lambda *g: np.sum(np.stack(g).astype(np.float64), axis=0), *one)
    for name, want in summed.items():
        np.testing.assert_allclose(out.grads[name], want, atol=1e-5)


def test_float64_is_exact_to_1e_10():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = {"w": jnp.asarray(rng.normal(size=(7, 5))), "b": jnp.asarray(rng.normal(size=5))}
        x = jnp.asarray(rng.normal(size=(4, 3, 7)))

        def loss(p, x):
            return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2)

        out = hg.clipped_grad(loss, 0.5)(params, x)
        grads = jax.vmap(jax.grad(loss), (None, 0))(params, x)
        norms = np.sqrt(sum((np.asarray(g).reshape(4, -1) ** 2).sum(1) for g in grads.values()))
        assert out.norms.dtype == jnp.float64
        np.testing.assert_allclose(out.norms, norms, rtol=1e-10)
        for name, g in grads.items():
            want = np.einsum("b,b...->...", np.minimum(1, 0.5 / norms), np.asarray(g))
            np.testing.assert_allclose(out.grads[name], want, rtol=1e-10, atol=1e-12)


def test_integer_leaves_are_passed_over():
    def loss(p, x):
        return jnp.sum(p["w"][p["i"]] * x)

    params = {"w": rand(0, 4, 2), "i": jnp.array([1, 3])}
    out = hg.clipped_grad(loss, 1.0)(params, rand(1, 3, 2, 2))
    assert out.grads["i"].dtype == params["i"].dtype
    assert not out.grads["i"].any()
    assert out.grads["w"].any()


def test_a_random_key_per_example():
    def loss(w, x, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.sum(jnp.tanh((x * kept) @ w))

    w, x, keys = rand(0, 6, 3), rand(1, 8, 6), jax.random.split(jax.random.key(0), 8)
    out = hg.clipped_grad(loss, 0.5)(w, x, keys)
    grads = np.asarray(jax.vmap(jax.grad(loss), (None, 0, 0))(w, x, keys), np.float64)
    norms = np.sqrt((grads**2).sum((1, 2)))
    np.testing.assert_allclose(out.norms, norms, rtol=1e-5)


def test_losses_are_reported_per_example():
    def loss(w, x):
        return jnp.sum(w * x)

    w, x = rand(0, 3), rand(1, 5, 3)
    np.testing.assert_allclose(hg.clipped_grad(loss, 1.0)(w, x).losses, x @ w, rtol=1e-5)


def test_works_under_an_outer_jit_that_it_closes_over():
    w, x = rand(0, 3), rand(1, 5, 3)

    @jax.jit
    def outer(scale):
        return hg.clipped_grad(lambda w, x: scale * jnp.sum(w * x), 100.0)(w, x).grads

    np.testing.assert_allclose(outer(2.0), 2 * x.sum(0), rtol=1e-4)
