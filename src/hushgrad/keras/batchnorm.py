"""A copy of a model that normalises each example by itself."""

from __future__ import annotations

import math
from typing import Any

import keras

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.keras.example import layers_of

__all__ = ["replace_batchnorm"]


def replace_batchnorm(model: keras.Model, *, groups: int = 16) -> keras.Model:
    """A copy with `GroupNormalization` in place of every `BatchNormalization`.

    ```python
    model = hg.keras.replace_batchnorm(keras.applications.MobileNetV2(weights=None))
    ```

    All other weights are copied. Scales and shifts are too; running statistics are not, so what
    was trained must be trained further. Batch statistics mix examples, and would be released
    without noise; groups of channels of one example do as well in private training (De et al.
    2022, arXiv 2204.13650).

    Args:
      model: functional or sequential, models inside it included.
      groups: of channels; fewer where they do not divide a layer's channels.

    Raises:
      InputError: if the model is not built, or a subclass with a `call` of its own, whose
        layers cannot be replaced from outside.
    """
    groups = whole("groups", groups)
    for part in (model, *layers_of(model)):
        if isinstance(part, keras.Model) and not _is_graph(part) and _normalised(part):
            raise InputError(
                f"{type(part).__name__} is a subclass with a call of its own: replace "
                f"{', '.join(_normalised(part))} by keras.layers.GroupNormalization in its code"
            )

    if not model.built:
        raise InputError("model must be built, or its channels are not known: call it once")

    def replaced(layer: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            return _grouped(layer, groups)
        if isinstance(layer, keras.Model) and _is_graph(layer):
            return cloned(layer)
        return layer.__class__.from_config(layer.get_config())

    def called(layer: Any, *inputs: Any, **options: Any) -> Any:
        # Batch statistics take training and a mask; statistics of an example do not.
        grouped = isinstance(layer, keras.layers.GroupNormalization)
        return layer(*inputs) if grouped else layer(*inputs, **options)

    def cloned(part: keras.Model) -> keras.Model:
        # A sequential model calls its layers itself, by what each of them takes.
        calls: dict[str, Any] = (
            {} if isinstance(part, keras.Sequential) else {"call_function": called}
        )
        return keras.models.clone_model(part, clone_function=replaced, **calls)

    copy = cloned(model)
    for old, new in zip(layers_of(model), layers_of(copy), strict=True):
        if not isinstance(new, keras.Model):
            # Statistics come last, and have nowhere to go.
            for was, weight in zip(old.weights, new.weights, strict=False):
                weight.assign(was)
    return copy


def _is_graph(model: keras.Model) -> bool:
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def _normalised(model: keras.Model) -> list[str]:
    found = (x for x in layers_of(model) if isinstance(x, keras.layers.BatchNormalization))
    return [layer.name for layer in found]


def _grouped(layer: Any, groups: int) -> Any:
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    channels = (layer.gamma if layer.scale else layer.moving_mean).shape[0]
    return keras.layers.GroupNormalization(
        groups=math.gcd(groups, channels),
        axis=axis,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        beta_regularizer=layer.beta_regularizer,
        gamma_regularizer=layer.gamma_regularizer,
        trainable=layer.trainable,
        name=layer.name,
    )
