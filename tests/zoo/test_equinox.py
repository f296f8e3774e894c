"""Equinox."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from zoo.draw import filled, ids, rand

eqx = pytest.importorskip("equinox", reason="needs Equinox: pip install equinox")

B = 3


def of(make, value=None, frozen=lambda leaf: False):
    """The loss by a module's arrays, and these; `make(key)` only gives the shapes."""
    model = eqx.filter_eval_shape(make, jax.random.key(0))
    arrays, static = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    params, rest = eqx.partition(filled(arrays), eqx.is_inexact_array)

    def loss(p, *example):
        m = eqx.combine(p, rest, static)
        y = value(m, *example) if value else m(*example)
        return jnp.sum(jnp.sin(y)) + jnp.mean(y**2)

    return loss, params


def test_mlp(check_model):
    check_model(*of(lambda key: eqx.nn.MLP(4, 3, 8, 2, key=key)), rand(0, B, 4))


class CNN(eqx.Module):
    layers: list

    def __init__(self, key):
        a, b, c, d = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(2, 4, 3, stride=2, padding=1, key=a),
            eqx.nn.GroupNorm(2, 4),
            eqx.nn.PReLU(0.2),
            eqx.nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2, use_bias=False, key=b),
            eqx.nn.LayerNorm((8, 4, 4)),
            eqx.nn.ConvTranspose2d(8, 3, 2, stride=2, key=c),
            eqx.nn.MaxPool2d(2, 2),
            jnp.ravel,
            eqx.nn.Linear(48, 5, key=d),
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_cnn(check_model):
    check_model(*of(CNN), rand(0, B, 2, 8, 8))


class Transformer(eqx.Module):
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    rope: eqx.nn.RotaryPositionalEmbedding
    norm: eqx.nn.LayerNorm
    out: eqx.nn.RMSNorm

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.embed = eqx.nn.Embedding(11, 8, key=a)
        self.attention = eqx.nn.MultiheadAttention(2, 8, use_query_bias=True, key=b)
        self.rope = eqx.nn.RotaryPositionalEmbedding(4)
        self.norm, self.out = eqx.nn.LayerNorm(8), eqx.nn.RMSNorm(8)

    def turned(self, q, k, v):
        turn = jax.vmap(self.rope, in_axes=1, out_axes=1)
        return turn(q), turn(k), v

    def __call__(self, i):
        x = jax.vmap(self.embed)(i)
        h = jax.vmap(self.norm)(x)
        mask = jnp.tril(jnp.ones((len(i), len(i)), bool))
        x = x + self.attention(h, h, h, mask=mask, process_heads=self.turned)
        return jax.vmap(self.out)(x) @ self.embed.weight.T


def test_attention_with_tied_embeddings(check_model):
    check_model(*of(Transformer), ids(0, 11, B, 6))


class Recurrent(eqx.Module):
    cell: eqx.Module
    out: eqx.nn.Linear

    def __init__(self, kind, key):
        a, b = jax.random.split(key)
        self.cell = kind(3, 4, key=a)
        self.out = eqx.nn.Linear(4, 2, key=b)

    def __call__(self, x):
        h = jnp.zeros(4, x.dtype)
        start = (h, h) if isinstance(self.cell, eqx.nn.LSTMCell) else h

        def turn(carry, x):
            carry = self.cell(x, carry)
            return carry, self.out(jax.tree.leaves(carry)[0])

        return lax.scan(turn, start, x)[1]


@pytest.mark.parametrize("cell", ["GRUCell", "LSTMCell"])
def test_recurrent(check_model, cell):
    kind = getattr(eqx.nn, cell)
    check_model(*of(lambda key: Recurrent(kind, key)), rand(0, B, 5, 3))


def test_stacked_layers(check_model):
    """Layers made by `filter_vmap`, run by a checkpointed `scan` over their arrays."""

    def make(key):
        return eqx.filter_vmap(lambda k: eqx.nn.Linear(5, 5, key=k))(jax.random.split(key, 3))

    def value(layers, x):
        arrays, static = eqx.partition(layers, eqx.is_array)

        @jax.checkpoint
        def turn(h, arrays):
            return h + jnp.tanh(jax.vmap(eqx.combine(arrays, static))(h)), None

        return lax.scan(turn, x, arrays)[0]

    check_model(*of(make, value), rand(0, B, 4, 5))


def test_weight_norm(check_model):
    def make(key):
        a, b = jax.random.split(key)
        normed = eqx.nn.WeightNorm(eqx.nn.Linear(4, 6, key=a))
        return eqx.nn.Sequential([normed, eqx.nn.Lambda(jnp.tanh), eqx.nn.Linear(6, 2, key=b)])

    check_model(*of(make), rand(0, B, 4), share=1 - 30 / 50)


def test_dropout_with_a_key_for_each_example(check_model):
    def make(key):
        a, b = jax.random.split(key)
        return eqx.nn.Sequential(
            [eqx.nn.Linear(6, 20, key=a), eqx.nn.Dropout(0.5), eqx.nn.Linear(20, 3, key=b)]
        )

    keys = jax.random.split(jax.random.key(0), B)
    value = lambda m, x, key: m(x, key=key)  # noqa: E731
    check_model(*of(make, value), rand(0, B, 6), keys, narrow=True)


def test_convolutions_in_one_and_three_dimensions(check_model):
    def make(key):
        a, b, c = jax.random.split(key, 3)
        return [
            eqx.nn.Conv1d(2, 4, 3, padding=1, key=a),
            eqx.nn.Conv3d(1, 2, 2, key=b),
            eqx.nn.ConvTranspose1d(4, 2, 3, stride=2, key=c),
        ]

    def value(m, x):
        h = jnp.tanh(m[0](x))
        cube = jnp.tanh(m[1](h.reshape(1, 2, 4, 2)))
        return jnp.concatenate([jnp.ravel(cube), jnp.ravel(m[2](h))])

    check_model(*of(make, value), rand(0, B, 2, 4))


def test_filter_jit_and_checkpoint(check_model):
    def value(m, x):
        return eqx.filter_jit(eqx.filter_checkpoint(lambda m, x: jax.nn.gelu(m(x))))(m, x)

    check_model(*of(lambda key: eqx.nn.Linear(4, 3, key=key), value), rand(0, B, 4))


def test_lora_in_front_of_a_frozen_layer(check_model):
    base = filled(eqx.filter_eval_shape(lambda: eqx.nn.Linear(6, 5, key=jax.random.key(1))))
    params = {"a": rand(0, 2, 6), "b": rand(1, 5, 2)}

    def loss(p, x):
        layer = eqx.tree_at(lambda m: m.weight, base, lax.stop_gradient(base.weight))
        return jnp.sum(jnp.tanh(layer(x) + p["b"] @ (p["a"] @ x)))

    check_model(loss, params, rand(2, B, 6))
