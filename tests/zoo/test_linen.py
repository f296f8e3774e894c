"""Flax Linen."""

import functools

import jax
import jax.numpy as jnp
import pytest
from zoo.draw import filled, ids, rand

nn = pytest.importorskip("flax.linen", reason="needs Flax: pip install flax")

B = 3


def of(model, *example):
    """The loss by a module's parameters, and these."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *example)
    params = filled(shapes.pop("params"))
    state = filled(shapes)  # batch statistics, where there are some

    def loss(p, *example):
        y = model.apply({"params": p, **state}, *example)
        return jnp.sum(jnp.sin(y)) + jnp.mean(y**2)

    return loss, params


def first(batch):
    return jax.tree.map(lambda x: x[0], batch)


def check(check_model, model, *batch, **options):
    loss, params = of(model, *first(batch))
    return check_model(loss, params, *batch, **options)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2, padding="SAME")(x)
        x = nn.relu(nn.GroupNorm(num_groups=2)(x))
        x = nn.ConvLocal(3, (2, 2))(x)
        x = nn.ConvTranspose(3, (3, 3), strides=(2, 2))(nn.swish(x))
        x = nn.max_pool(x[None], (2, 2), strides=(2, 2))[0]
        return nn.Dense(5)(x.reshape(-1))


def test_cnn_with_group_norm(check_model):
    check(check_model, CNN(), rand(0, B, 8, 8, 2))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, i):
        embed = nn.Embed(11, 8)
        x = embed(i) + self.param("places", nn.initializers.normal(), (len(i), 8))
        mask = nn.combine_masks(nn.make_causal_mask(i), nn.make_attention_mask(i > 0, i > 0))
        x += nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
        x += nn.Dense(8)(nn.gelu(nn.Dense(16, use_bias=False)(nn.RMSNorm()(x))))
        return embed.attend(x)


def test_attention_with_tied_embeddings(check_model):
    check(check_model, Attention(), ids(0, 11, B, 6))


class Recurrent(nn.Module):
    cell: str

    @nn.compact
    def __call__(self, x):
        start = jnp.zeros(4, x.dtype)
        start = start if self.cell == "GRUCell" else (start, start)
        layer = nn.RNN(getattr(nn, self.cell)(4))
        return nn.Dense(3)(layer(x, initial_carry=start))


@pytest.mark.parametrize("cell", ["OptimizedLSTMCell", "LSTMCell", "GRUCell"])
def test_recurrent(check_model, cell):
    check(check_model, Recurrent(cell), rand(0, B, 5, 3))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.Dense(5)(nn.LayerNorm()(x))
        return x + jnp.tanh(y), None


class Stacked(nn.Module):
    checkpointed: bool

    @nn.compact
    def __call__(self, x):
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        layer = nn.remat(Layer, policy=policy, prevent_cse=False) if self.checkpointed else Layer
        split = {"params": True}
        return nn.scan(layer, variable_axes={"params": 0}, split_rngs=split, length=3)()(x, None)[0]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_stacked_layers(check_model, checkpointed):
    check(check_model, Stacked(checkpointed), rand(0, B, 4, 5))


class Normalised(nn.Module):
    training: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.training)(nn.Dense(6)(x))
        return nn.Dense(2)(nn.tanh(x))


def test_batch_norm_with_running_statistics(check_model):
    check(check_model, Normalised(), rand(0, B, 5, 4))


def test_batch_norm_in_training(check_model):
    """One example's positions are its batch; the new statistics are thrown away."""
    model, x = Normalised(True), rand(0, B, 5, 4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x[0])
    params, state = filled(shapes["params"]), filled(shapes["batch_stats"])

    def loss(p, x):
        variables = {"params": p, "batch_stats": state}
        y, _ = model.apply(variables, x, mutable=["batch_stats"])
        return jnp.mean(y**2)

    check_model(loss, params, x)


class Partitioned(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
        x = nn.DenseGeneral((2, 3), kernel_init=init)(x)
        return nn.Einsum((2, 3, 4), "nab,abc->nc")(jnp.tanh(x))


def test_partitioned_parameters(check_model):
    check(check_model, Partitioned(), rand(0, B, 5, 3))


class Reparameterised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.PReLU()(nn.WeightNorm(nn.Dense(6))(x))
        return nn.Dense(2)(x)


def test_weight_norm(check_model):
    check(check_model, Reparameterised(), rand(0, B, 4), share=1 - 30 / 51)


class Routed(nn.Module):
    """Experts by `nn.vmap`, all of them run and mixed."""

    @nn.compact
    def __call__(self, x):
        gates = jax.nn.softmax(nn.Dense(3)(x))
        expert = nn.vmap(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=-2,
            axis_size=3,
        )
        return jnp.einsum("ne,ned->nd", gates, jnp.tanh(expert(4)(x)))


def test_experts_under_vmap(check_model):
    check(check_model, Routed(), rand(0, B, 5, 4))


def test_half_precision_compute(check_model):
    """Products in bfloat16: parameters and gradients in float32."""

    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8, dtype=jnp.bfloat16)(x))
            return nn.Dense(3, dtype=jnp.bfloat16)(x).astype(jnp.float32)

    # Each side rounds its products to 8 bits, in another order.
    check(check_model, Half(), rand(0, B, 4, 6), narrow=True, tol=2 * 2.0**-8)


def test_dropout_with_a_key_for_each_example(check_model):
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(20)(x))))

    model = Dropped()
    x, keys = rand(0, B, 6), jax.random.split(jax.random.key(0), B)
    rngs = {"params": keys[0], "dropout": keys[0]}
    params = filled(jax.eval_shape(model.init, rngs, x[0])["params"])

    def loss(p, x, key):
        return jnp.sum(model.apply({"params": p}, x, rngs={"dropout": key}) ** 2)

    check_model(loss, params, x, keys, narrow=True)


def test_bidirectional_lengths(check_model):
    """Sequences of different lengths, padded."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, length):
            carry = (jnp.zeros(4, x.dtype),) * 2
            cell = functools.partial(nn.OptimizedLSTMCell, 4)
            h = nn.Bidirectional(nn.RNN(cell()), nn.RNN(cell()))(
                x, initial_carry=(carry, carry), seq_lengths=length
            )
            return h * (jnp.arange(len(x)) < length)[:, None]

    check(check_model, Model(), rand(0, B, 5, 3), jnp.asarray([2, 5, 3]))
