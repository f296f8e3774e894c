"""Language models: an LSTM and transformers, small, with a large vocabulary, and GPT-2's size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.models.model import Model, cross_entropy, dense, normal

__all__ = ["gpt", "lstm", "tied", "transformer"]


def lstm() -> Model:
    """256 words, 128 units, 100 steps: 197,888 parameters, two biases as PyTorch has them."""
    rng = np.random.default_rng(0)
    params = {
        "embedding": normal(rng, 256, 128),
        "input": dense(rng, 128, 512),
        "hidden": dense(rng, 128, 512),
        "head": dense(rng, 128, 256),
    }

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            h, c = state
            gates = x @ p["input"]["w"] + p["input"]["b"] + h @ p["hidden"]["w"] + p["hidden"]["b"]
            i, f, g, o = jnp.split(gates, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros(128)
        _, hidden = lax.scan(step, (zeros, zeros), p["embedding"][tokens])
        logits = hidden @ p["head"]["w"] + p["head"]["b"]
        return jnp.mean(cross_entropy(logits, targets))

    return Model("LSTM, 100 steps, batch 64", loss, params, _tokens(64, 100, 256), "lstm")


def transformer() -> Model:
    """2 layers, d=128, 4 heads, length 64, 256 words: 470,784 parameters."""
    params = _transformer_params(256, 64, layers=2, width=128)
    params["head"] = dense(np.random.default_rng(2), 128, 256)

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        x = _decode(p, tokens, heads=4)
        logits = x @ p["head"]["w"] + p["head"]["b"]
        return jnp.mean(cross_entropy(logits, targets))

    name = "transformer 2 x 128, length 64, batch 64"
    return Model(name, loss, params, _tokens(64, 64, 256), "transformer")


def tied() -> Model:
    """2 layers, d=256, length 64, 50,000 words whose embedding is the output layer too."""
    name = "transformer, 50,000 tied words, d=256, batch 16"
    params = _transformer_params(50_000, 64, layers=2, width=256)
    return Model(name, _tied_loss(4), params, _tokens(16, 64, 50_000), "tied")


def gpt() -> Model:
    """GPT-2's 124M parameters at sequence length 512: for accelerators."""
    params = _transformer_params(50_257, 512, layers=12, width=768)
    return Model("GPT 124M, length 512, batch 16", _tied_loss(12), params, _tokens(16, 512, 50_257))


def _tied_loss(heads: int) -> Any:
    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        logits = _decode(p, tokens, heads) @ p["embedding"].T
        return jnp.mean(cross_entropy(logits, targets))

    return loss


def _transformer_params(words: int, length: int, layers: int, width: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    blocks = [
        {
            "norm1": _scale(width),
            "qkv": dense(rng, width, 3 * width),
            "out": dense(rng, width, width),
            "norm2": _scale(width),
            "up": dense(rng, width, 4 * width),
            "down": dense(rng, 4 * width, width),
        }
        for _ in range(layers)
    ]
    return {
        "embedding": 0.02 * normal(rng, words, width),
        "positions": 0.02 * normal(rng, length, width),
        "blocks": blocks,
        "norm": _scale(width),
    }


def _decode(p: Any, tokens: Any, heads: int) -> Any:
    """Hidden states of a causal pre-norm transformer."""
    x = p["embedding"][tokens] + p["positions"]
    for block in p["blocks"]:
        x = x + _attend(block, _layer_norm(x, block["norm1"]), heads)
        y = _layer_norm(x, block["norm2"]) @ block["up"]["w"] + block["up"]["b"]
        x = x + jax.nn.gelu(y) @ block["down"]["w"] + block["down"]["b"]
    return _layer_norm(x, p["norm"])


def _attend(p: Any, x: Any, heads: int) -> Any:
    length, width = x.shape
    qkv = (x @ p["qkv"]["w"] + p["qkv"]["b"]).reshape(length, 3, heads, -1)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    scores = jnp.einsum("shd,thd->hst", q, k) / np.sqrt(width // heads)
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("hst,thd->shd", jax.nn.softmax(scores), v)
    return mixed.reshape(length, width) @ p["out"]["w"] + p["out"]["b"]


def _layer_norm(x: Any, p: Any) -> Any:
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * p["scale"] + p["bias"]


def _scale(width: int) -> dict[str, Any]:
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def _tokens(count: int, length: int, words: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    text = rng.integers(0, words, (count, length + 1))
    return jnp.asarray(text[:, :-1], jnp.int32), jnp.asarray(text[:, 1:], jnp.int32)
