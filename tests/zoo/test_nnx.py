"""Flax NNX."""

import jax
import jax.numpy as jnp
import pytest
from zoo.draw import filled, ids, rand

import hushgrad as hg

nnx = pytest.importorskip("flax.nnx", reason="needs Flax: pip install flax")

B = 3


def built(make):
    """A module with numbers of the test's own; `make(rngs)` only gives the shapes."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return nnx.merge(graph, filled(state))


def of(model, value, kind=nnx.Param):
    """The loss that `value(model, *example)` is, by the model's parameters, and these."""
    graph, params, rest = nnx.split(model, kind, ...)

    def loss(p, *example):
        return value(nnx.merge(graph, p, rest, copy=True), *example)

    return loss, params


def next_word(model, i):
    logits = model(i[:-1])
    found = jnp.take_along_axis(logits, i[1:, None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - found)


def squares(model, x):
    y = model(x)
    return jnp.sum(jnp.sin(y)) + jnp.mean(y**2)


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
        self.depthwise = nnx.Conv(4, 8, (3, 3), feature_group_count=4, kernel_dilation=2, rngs=rngs)
        self.norm = nnx.GroupNorm(8, num_groups=2, rngs=rngs)
        self.back = nnx.ConvTranspose(8, 3, (2, 2), strides=(2, 2), rngs=rngs)
        self.out = nnx.Linear(48, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm(self.depthwise(nnx.relu(self.first(x)))))
        x = nnx.avg_pool(self.back(x[None]), (2, 2), strides=(2, 2))[0]
        return self.out(x.reshape(-1))


def test_cnn(check_model):
    def value(m, x, y):
        return -jax.nn.log_softmax(m(x))[y]

    check_model(*of(built(CNN), value), rand(0, B, 8, 8, 2), ids(1, 5, B))


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.before = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.middle = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.before(x), mask=mask)
        return x + self.down(nnx.silu(self.up(self.middle(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs, words=11, width=8, length=6, blocks=1):
        self.embed = nnx.Embed(words, width, rngs=rngs)
        self.places = nnx.Param(jax.random.normal(rngs.params(), (length + 2, width)))
        self.blocks = nnx.List([Block(width, rngs) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, i):
        x = self.embed(i) + self.places[: len(i)]
        for block in self.blocks:
            x = block(x, nnx.make_causal_mask(i))
        return self.embed.attend(self.norm(x))


def test_transformer_with_tied_embeddings(check_model):
    check_model(*of(built(Transformer), next_word), ids(0, 11, B, 7))


class Recurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.embed = nnx.Embed(9, 4, rngs=rngs)
        self.forward = nnx.RNN(cell(4, 6, rngs=rngs))
        self.backward = nnx.RNN(cell(6, 6, rngs=rngs), reverse=True, keep_order=True)
        self.out = nnx.Linear(6, 9, rngs=rngs)

    def __call__(self, i):
        x = self.embed(i).astype(self.out.kernel.dtype)
        start = jnp.zeros(6, x.dtype)
        if not isinstance(self.forward.cell, nnx.GRUCell):
            start = (start, start)
        for layer in (self.forward, self.backward):
            x = layer(x, initial_carry=start)
        return self.out(x)


@pytest.mark.parametrize("cell", ["LSTMCell", "OptimizedLSTMCell", "GRUCell"])
def test_recurrent(check_model, cell):
    model = built(lambda rngs: Recurrent(getattr(nnx, cell), rngs))
    check_model(*of(model, next_word), ids(0, 9, B, 6))


def stacked(rngs):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs):
        return nnx.Sequential(nnx.Linear(5, 5, rngs=rngs), nnx.tanh, nnx.LayerNorm(5, rngs=rngs))

    return make(rngs)


@pytest.mark.parametrize("rematerialised", [False, True])
def test_stacked_layers(check_model, rematerialised):
    def run(layer, h):
        return layer(h) + h

    def value(layers, x):
        one = nnx.remat(run) if rematerialised else run
        return jnp.sum(nnx.scan(one, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(layers, x) ** 2)

    loss, params = of(built(stacked), value)
    check_model(loss, params, rand(0, B, 4, 5))
    rows = hg.explain(loss, params, rand(0, 4, 5)).rows
    assert not any(row.way == "direct" for row in rows)


def test_dropout_with_a_key_for_each_example(check_model):
    def make(rngs):
        return nnx.Sequential(nnx.Linear(6, 20, rngs=rngs), nnx.relu, nnx.Linear(20, 3, rngs=rngs))

    def value(m, x, key):
        drop = nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=key))
        first, act, out = m.layers
        return jnp.sum(out(drop(act(first(x)))) ** 2)

    keys = jax.random.split(jax.random.key(0), B)
    check_model(*of(built(make), value), rand(0, B, 6), keys, narrow=True)


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.out = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.norm(self.first(x))))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_a_copy(check_model, training):
    """One example's positions are its batch, and the statistics go with the loss's own copy."""
    model = built(Normalised)
    model.train() if training else model.eval()
    check_model(*of(model, squares), rand(0, B, 5, 4))


class Reparameterised(nnx.Module):
    def __init__(self, wrap, rngs):
        self.inner = wrap(nnx.Linear(4, 6, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.inner(x)))


def test_weight_norm(check_model):
    """The kernel is divided by its own norm."""
    model = Reparameterised(nnx.WeightNorm, nnx.Rngs(0))
    check_model(*of(model, squares), rand(0, B, 4), share=1 - 24 / 44)


def test_spectral_norm(check_model):
    model = Reparameterised(nnx.SpectralNorm, nnx.Rngs(0))
    check_model(*of(model, squares), rand(0, B, 4), share=1 - 24 / 44)


@pytest.mark.parametrize("frozen", [True, False])
def test_lora(check_model, frozen):
    model = built(
        lambda rngs: nnx.LoRA(6, 2, 5, base_module=nnx.Linear(6, 5, rngs=rngs), rngs=rngs)
    )
    loss, params = of(model, squares, nnx.LoRAParam if frozen else nnx.Param)
    check_model(loss, params, rand(0, B, 6))


class Products(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.LinearGeneral((2, 3), (4, 2), axis=(-2, -1), rngs=rngs)
        self.b = nnx.Einsum("nta,hab->nthb", (2, 2, 3), (2, 3), rngs=rngs)

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


def test_general_products(check_model):
    check_model(*of(built(Products), squares), rand(0, B, 5, 2, 3))


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_in_one_and_three_dimensions(check_model, dims):
    def make(rngs):
        return nnx.Sequential(
            nnx.Conv(2, 4, (3,) * dims, rngs=rngs),
            nnx.tanh,
            nnx.ConvTranspose(4, 2, (3,) * dims, strides=(2,) * dims, rngs=rngs),
        )

    check_model(*of(built(make), squares), rand(0, B, *(3,) * dims, 2))


def test_a_module_is_its_own_parameters(check_model):
    model = built(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    check_model(squares, model, rand(0, B, 4))
