"""Keras 3 on JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo.draw import filled, ids, rand

keras = pytest.importorskip("keras", reason="needs Keras: pip install keras")
if keras.backend.backend() != "jax":
    pytest.skip("needs Keras on JAX: set KERAS_BACKEND=jax", allow_module_level=True)

from keras import layers  # noqa: E402

B = 3


def built(make: Callable) -> Any:
    """A model whose variables are never given values of their own: only their shapes count."""
    with keras.StatelessScope(initialize_variables=False):
        return make()


def numbers(variables: list[Any]) -> list[Any]:
    return filled([jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables])


def loss_of(make: Callable, policy: str, training: bool = False) -> tuple[Callable, Any]:
    """The loss by the weights of the model that `make()` builds in one type, and its weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = built(make)
    finally:
        keras.config.set_dtype_policy(before)
    params, state = numbers(model.trainable_variables), numbers(model.non_trainable_variables)

    def loss(p, x):
        y, _ = model.stateless_call(p, state, x[None], training=training)
        return jnp.sum(jnp.sin(y[0])) + jnp.mean(y**2)

    return loss, params


@pytest.fixture
def check(check_model):
    """Keras computes in the type of its layers: the float64 loss is a model of its own."""

    def check(make: Callable, *batch: Any, training: bool = False, **options: Any):
        with jax.enable_x64(True):
            wide, _ = loss_of(make, "float64", training)
        loss, params = loss_of(make, "float32", training)
        return check_model(loss, params, *batch, wide=wide, **options)

    return check


class LayerScale(layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="zeros", name="gamma")

    def call(self, x):
        return x * self.gamma


def sequence(shape, *stack, **options):
    return keras.Sequential([keras.Input(shape, **options), *stack])


def test_convnext_block(check):
    def make():
        image = keras.Input((8, 8, 2))
        x = layers.Conv2D(4, 2, strides=2)(image)
        y = layers.DepthwiseConv2D(3, padding="same")(x)
        y = layers.LayerNormalization(epsilon=1e-6)(y)
        y = layers.Dense(4)(layers.Activation("gelu")(layers.Dense(16)(y)))
        x = layers.Add()([x, LayerScale()(y)])
        return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))

    check(make, rand(0, B, 8, 8, 2))


def test_separable_convolutions(check):
    def make():
        return sequence(
            (8, 8, 2),
            layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same"),
            layers.GroupNormalization(2),
            layers.Activation("relu"),
            layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
            layers.UnitNormalization(),
            layers.Conv2DTranspose(2, 2, strides=2),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, "softmax"),
        )

    check(make, rand(0, B, 8, 8, 2))


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_in_one_and_three_dimensions(check, dims):
    def make():
        conv = getattr(layers, f"Conv{dims}D")
        back = getattr(layers, f"Conv{dims}DTranspose")
        more = [layers.SeparableConv1D(3, 2), layers.DepthwiseConv1D(2)] if dims == 1 else []
        return sequence(
            (*(4,) * dims, 2),
            conv(4, 2, groups=2, padding="causal" if dims == 1 else "same"),
            layers.Activation("tanh"),
            back(2, 2, strides=2),
            *more,
        )

    check(make, rand(0, B, *(4,) * dims, 2))


def test_recurrent(check):
    def make():
        words = keras.Input((6,), dtype="int32")
        x = layers.Embedding(9, 4, mask_zero=True)(words)
        x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
        x = layers.LSTM(4, return_sequences=True)(x)
        x = layers.TimeDistributed(layers.Dense(3, "relu"))(x)
        return keras.Model(words, layers.SimpleRNN(3)(x))

    check(make, ids(0, 9, B, 6).at[:, 5].set(0))


@pytest.mark.parametrize("kind", ["many", "grouped"])
def test_attention(check, kind):
    def make():
        words = keras.Input((5,), dtype="int32")
        embed = layers.ReversibleEmbedding(11, 8)
        x = embed(words)
        y = layers.LayerNormalization()(x)
        if kind == "many":
            y = layers.MultiHeadAttention(2, 3, value_dim=3)(y, y, use_causal_mask=True)
        else:
            y = layers.GroupQueryAttention(4, 4, 2)(y, y, use_causal_mask=True)
        x = layers.RMSNormalization()(layers.Add()([x, y]))
        x = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4), bias_axes="de")(x)
        return keras.Model(words, embed(layers.Reshape((5, 8))(x), reverse=True))

    check(make, ids(0, 11, B, 5))


def test_normalisations(check):
    def make():
        return sequence(
            (4, 3),
            layers.Dense(6),
            layers.BatchNormalization(),
            layers.Activation("tanh"),
            layers.PReLU(),
            layers.GroupNormalization(3),
            layers.Dense(2),
        )

    # With running statistics the shift is a sum of two parameters, which is built.
    check(make, rand(0, B, 4, 3), share=1 - 12 / 86)


def test_spectral_normalisation(check):
    def make():
        return sequence((4,), layers.SpectralNormalization(layers.Dense(6)), layers.Dense(2))

    check(make, rand(0, B, 4), training=True, share=1 - 24 / 44)


@pytest.mark.parametrize(("rank", "share"), [(2, 1.0), (4, 8 / 124)])
def test_low_rank_adaptation(check, rank, share):
    def make():
        model = sequence((4, 6), layers.Dense(8), layers.EinsumDense("abc,cd->abd", (None, 8)))
        for layer in model.layers:
            layer.enable_lora(rank)
        return model

    # Keras multiplies both factors before they meet the data; where that costs more than to
    # let each meet them (low ranks), the engine takes the matrix apart.
    check(make, rand(0, B, 4, 6), share=share)


def test_additive_attention_and_bilinear(check):
    def make():
        x = keras.Input((4, 3))
        h = layers.Dense(4)(x)
        y = layers.AdditiveAttention()([h, layers.Dense(4)(x)])
        return keras.Model(x, layers.Attention(use_scale=True)([y, h]))

    check(make, rand(0, B, 4, 3))


def test_convolutional_recurrent(check):
    def make():
        return sequence((3, 4, 4, 2), layers.ConvLSTM2D(3, 2, padding="same"))

    check(make, rand(0, B, 3, 4, 4, 2))


def test_dropout_with_a_seed_for_each_example(check_model):
    model = built(
        lambda: sequence((6,), layers.Dense(20, "tanh"), layers.Dropout(0.5), layers.Dense(3))
    )
    params = numbers(model.trainable_variables)

    def loss(p, x, seed):
        y, _ = model.stateless_call(p, [seed], x[None], training=True)
        return jnp.sum(y**2)

    seeds = jnp.asarray(np.arange(2 * B).reshape(B, 2), jnp.uint32)
    check_model(loss, params, rand(0, B, 6), seeds, narrow=True)
