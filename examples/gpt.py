"""A small GPT in Flax NNX: a decoder of pre-norm blocks, for ONE sequence and without dropout.

Not a script: recipes import it. It is used functionally, as `hg.train` wants it:

    graphdef, params = gpt.init(gpt.Config(letters=96), seed=0)
    logits = gpt.logits(graphdef, params, tokens)      # [T] -> [T, letters]

Kernels are matrices, at `blocks.<n>.attention.{query,key,value,out}.kernel` and
`blocks.<n>.mlp.{up,down}.kernel` of the parameters, so an adapter finds them by their path.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Config:
    """Of a model: about 12 * blocks * width ** 2 parameters beside its tables.

    Attributes:
      letters: size of the vocabulary.
      context: most tokens of a sequence.
      width: of the residual stream, a multiple of `heads`.
      heads: of each attention.
      blocks: how many.
      expand: width of the hidden layer of a block, in widths.
    """

    letters: int
    context: int = 64
    width: int = 64
    heads: int = 4
    blocks: int = 2
    expand: int = 4


class Attention(nnx.Module):
    """Causal, with several heads."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.heads, width = config.heads, config.width
        # No biases: that of the keys changes nothing, and each would only take in noise.
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "T width"]) -> Float[Array, "T width"]:
        q, k, v = (
            layer(x).reshape(len(x), self.heads, -1) for layer in (self.query, self.key, self.value)
        )
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.reshape(x.shape))


class MLP(nnx.Module):
    """Two layers with GELU between."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        hidden = config.expand * config.width
        self.up = nnx.Linear(config.width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, config.width, rngs=rngs)

    def __call__(self, x: Float[Array, "T width"]) -> Float[Array, "T width"]:
        return self.down(nnx.gelu(self.up(x)))


class Block(nnx.Module):
    """Attention, then an MLP, each on what is normalised and added to the stream."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.before_attention = nnx.LayerNorm(config.width, rngs=rngs)
        self.attention = Attention(config, rngs)
        self.before_mlp = nnx.LayerNorm(config.width, rngs=rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: Float[Array, "T width"]) -> Float[Array, "T width"]:
        x = x + self.attention(self.before_attention(x))
        return x + self.mlp(self.before_mlp(x))


class GPT(nnx.Module):
    """Tokens and places embedded, blocks, and a readout."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(config.letters, config.width, rngs=rngs)
        self.places = nnx.Embed(config.context, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.blocks)])
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        # Small, so that at first all letters are alike.
        small = nnx.initializers.normal(0.02)
        self.readout = nnx.Linear(config.width, config.letters, kernel_init=small, rngs=rngs)

    def __call__(self, tokens: Int[Array, " T"]) -> Float[Array, "T letters"]:
        x = self.tokens(tokens) + self.places(jnp.arange(len(tokens)))
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


def init(config: Config, seed: int) -> tuple[Any, nnx.State]:
    """What a model is made of: its graph, and its parameters."""
    graphdef, params = nnx.split(GPT(config, nnx.Rngs(seed)), nnx.Param)
    return graphdef, params


def logits(graphdef: Any, params: Any, tokens: Int[Array, " T"]) -> Float[Array, "T letters"]:
    """Of the letter after each token of ONE sequence, of at most `context` tokens."""
    return nnx.merge(graphdef, params)(tokens)
