"""Classifiers of images: the tutorial's CNN, a multilayer perceptron, a ResNet."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.models.model import Model, cross_entropy, dense, normal
from hushgrad.recipes import mnist

__all__ = ["cnn", "mlp", "resnet"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def cnn() -> Model:
    """TensorFlow Privacy's tutorial: what `hushgrad train mnist` trains."""
    return Model("CNN, batch 256", mnist.loss, mnist.init(0), _images(256, 28, 28), "cnn")


def mlp() -> Model:
    """784-2048-2048-10."""
    rng = np.random.default_rng(0)
    params = [dense(rng, m, n) for m, n in itertools.pairwise((784, 2048, 2048, 10))]

    def loss(p: Any, image: Any, label: Any) -> Any:
        x = image.reshape(-1)
        for layer in p[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return cross_entropy(x @ p[-1]["w"] + p[-1]["b"], label)

    return Model("MLP 784-2048-2048-10, batch 256", loss, params, _images(256, 28, 28), "mlp")


def resnet() -> Model:
    """ResNet-14 for 32x32x3: three stages of two blocks, 16, 32 and 64 channels, GroupNorm(8)."""
    rng = np.random.default_rng(0)
    blocks, channels = [], 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            blocks.append((_block(rng, channels, width), stride))
            channels = width
    params = {
        "stem": _kernel(rng, 3, 3, 16),
        "norm": _scale(16),
        "blocks": [block for block, _ in blocks],
        "head": dense(rng, 64, 10),
    }
    strides = [stride for _, stride in blocks]

    def loss(p: Any, image: Any, label: Any) -> Any:
        x = _convolve(image[None], p["stem"])
        x = jax.nn.relu(_group_norm(x, p["norm"]))
        for block, stride in zip(p["blocks"], strides, strict=True):
            x = _residual(block, x, stride)
        x = jnp.mean(x[0], axis=(0, 1))
        return cross_entropy(x @ p["head"]["w"] + p["head"]["b"], label)

    name = "ResNet-14 GroupNorm 32x32x3, batch 64"
    return Model(name, loss, params, _images(64, 32, 32, 3), "resnet")


def _block(rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, Any]:
    block = {
        "conv1": _kernel(rng, 3, inputs, outputs),
        "norm1": _scale(outputs),
        "conv2": _kernel(rng, 3, outputs, outputs),
        "norm2": _scale(outputs),
    }
    return block if inputs == outputs else {**block, "skip": _kernel(rng, 1, inputs, outputs)}


def _residual(p: dict[str, Any], x: Any, stride: int) -> Any:
    y = jax.nn.relu(_group_norm(_convolve(x, p["conv1"], stride), p["norm1"]))
    y = _group_norm(_convolve(y, p["conv2"]), p["norm2"])
    return jax.nn.relu(y + (_convolve(x, p["skip"], stride) if "skip" in p else x))


def _convolve(x: Any, kernel: Any, stride: int = 1) -> Any:
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=_LAYOUT)


def _group_norm(x: Any, p: dict[str, Any], groups: int = 8) -> Any:
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = grouped.var(axis=(1, 2, 4), keepdims=True)
    grouped = (grouped - mean) * lax.rsqrt(variance + 1e-5)
    return grouped.reshape(x.shape) * p["scale"] + p["bias"]


def _scale(channels: int) -> dict[str, Any]:
    return {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}


def _kernel(rng: np.random.Generator, size: int, inputs: int, outputs: int) -> Any:
    return normal(rng, size, size, inputs, outputs) * np.sqrt(2 / (size * size * inputs))


def _images(count: int, *shape: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.uniform(size=(count, *shape)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 10, count))
