"""The loss of one example, of a Keras model: pure, with chance of its own."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jaxtyping import Array, Float

from hushgrad.errors import InputError

__all__ = [
    "check_apart",
    "check_layers",
    "check_model",
    "check_type",
    "has_own_loss",
    "layers_of",
    "listed",
    "loss_of_one",
    "named",
    "names",
    "penalised",
    "penalty",
    "seeds_after",
    "seeds_of",
    "warn_of_adapted",
]


def names(variables: Sequence[keras.Variable]) -> list[str]:
    """The paths of variables; one that two share gets a number."""
    found: dict[str, None] = {}
    for variable in variables:
        name, number = variable.path, 1
        while name in found:
            number += 1
            name = f"{variable.path}#{number}"
        found[name] = None
    return list(found)


def named(model: keras.Model, values: Sequence[Any]) -> OrderedDict[str, Any]:
    """Values of the trained variables, by their names and in their order.

    A plain dictionary would be sorted on its way through JAX, and which noise goes where would
    follow from the numbers that Keras gives to layers.
    """
    return OrderedDict(zip(names(model.trainable_variables), values, strict=True))


def listed(model: keras.Model, params: dict[str, Any]) -> list[Any]:
    """The reverse of `named`."""
    return [params[name] for name in names(model.trainable_variables)]


def loss_of_one(model: keras.Model, frozen: Sequence[Array]) -> Callable[..., Any]:
    """`loss(params, words, x, y, weight) -> (scalar, (scalar, prediction))` for one example.

    Layers that draw (dropout, noise, augmentation) draw from `words`, so afresh for every
    example. What the model's weights are penalised with is left out: it is no example's.

    Args:
      model: built and compiled; its `compute_loss` says what the loss is.
      frozen: values of its non-trainable variables.

    Raises:
      InputError: when called, if the model moves state other than its random seeds.
    """
    seeds = {id(v): number for number, v in enumerate(_seeds(model))}

    def loss(params: dict[str, Any], words: Any, x: Any, y: Any, weight: Any) -> Any:
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        kept = [
            _seed(key, seeds[id(v)]) if id(v) in seeds else value
            for v, value in zip(model.non_trainable_variables, frozen, strict=True)
        ]
        pairs = [
            *zip(model.trainable_variables, listed(model, params), strict=True),
            *zip(model.non_trainable_variables, kept, strict=True),
            # Losses of several outputs are counted on the way: here that is for nobody.
            *((v, jnp.zeros(v.shape, v.dtype)) for v in model.metrics_variables),
        ]
        x, y, weight = (jax.tree.map(lambda a: a[None], part) for part in (x, y, weight))
        with keras.StatelessScope(state_mapping=pairs, collect_losses=True) as scope:
            # Values as they are inside, cast to the variables' types.
            before = [scope.get_current_value(v) for v in model.non_trainable_variables]
            predicted = model(x, **_training(model))
            with _unpenalised(model):
                total = model.compute_loss(
                    x=x, y=y, y_pred=predicted, sample_weight=weight, training=True
                )
            moved = [
                v
                for v, was in zip(model.non_trainable_variables, before, strict=True)
                if id(v) not in seeds and scope.get_current_value(v) is not was
            ]
        if moved:
            raise InputError(_moving(moved))
        if total is None:
            raise InputError("compile(loss=...) is missing: there is nothing to train on")
        # A loss without reduction has a value for each part of the example.
        total = jnp.mean(jnp.asarray(total, jnp.float32))
        return total, (total, jax.tree.map(lambda a: jnp.asarray(a)[0], predicted))

    return loss


def penalty(model: keras.Model, params: dict[str, Array]) -> Float[Array, ""]:
    """What the model's weights are penalised with by their regularizers."""
    pairs = list(zip(model.trainable_variables, listed(model, params), strict=True))
    with keras.StatelessScope(state_mapping=pairs) as scope:
        terms = [v.regularizer(scope.get_current_value(v)) for v in penalised(model)]
    return sum((jnp.asarray(term, jnp.float32) for term in terms), start=jnp.zeros(()))


def penalised(model: keras.Model) -> list[keras.Variable]:
    """The trained variables that have a regularizer."""
    return [v for v in model.trainable_variables if v.regularizer is not None]


def seeds_after(model: keras.Model, frozen: Sequence[Array]) -> list[Array]:
    """The non-trainable variables after a step: seeds have moved on, all else is as it was."""
    seeds = seeds_of(model)
    step = jnp.array([0, 1], jnp.uint32)
    return [
        value + step if id(v) in seeds else value
        for v, value in zip(model.non_trainable_variables, frozen, strict=True)
    ]


def seeds_of(model: keras.Model) -> set[int]:
    """The identities of the states of random generators."""
    return {id(v) for v in _seeds(model)}


def check_model(model: Any) -> None:
    """Refuses what cannot be trained example by example.

    Raises:
      InputError: naming the layer or the method, and what to use instead.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"model must be a keras.Model, got {model!r}")
    check_type(type(model))
    check_layers(model)


def check_type(model: type) -> None:
    """Refuses a class of models that has its own way to make an update.

    Raises:
      InputError: naming the method.
    """
    for method in ("train_step", "make_train_function"):
        if getattr(model, method) is not getattr(keras.Model, method):
            raise InputError(
                f"{model.__name__} has a {method} of its own, which would not be called: put what "
                "it computes into compute_loss(x, y, y_pred, sample_weight, training) or "
                "add_loss, for one example at a time, and leave the update to hushgrad"
            )


def check_layers(model: keras.Model) -> None:
    """Refuses layers that mix examples.

    Raises:
      InputError: naming them, and what to use instead.
    """
    mixing = [layer.name for layer in layers_of(model) if _mixes(layer)]
    if mixing:
        raise InputError(
            f"layers {', '.join(mixing)} normalise by statistics of the batch, which mixes "
            "examples and would be released without noise: use GroupNormalization or "
            "LayerNormalization, as hg.keras.replace_batchnorm(model) does, or freeze them "
            "(layer.trainable = False)"
        )


def check_apart(model: keras.Model, x: Any) -> None:
    """Refuses a model that computes something else of an example beside another than alone.

    What it computes is compared for two examples together and for each: training sees each
    alone, so a model that looks at others would be another one in `predict`.

    Args:
      model: may be unbuilt.
      x: two examples.

    Raises:
      InputError: naming the first layer that differs, where that can be told.
    """
    if keras.distribution.distribution() is not None:  # which may not divide one example
        return
    if not _mixed(model, x):
        return
    where = ""
    inputs: Any = getattr(model, "inputs", None)
    if inputs:
        inside = (layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
        found = (n.name for n in inside if _mixed(keras.Model(inputs, n.output), x))
        where = f", first in layer {next(found, model.name)}"
    raise InputError(
        f"what {model.name} computes of an example depends on others in its batch{where}: means "
        "over the batch and the like mix examples. Compute of each example alone, over its own "
        "axes, as GroupNormalization or LayerNormalization do"
    )


def warn_of_adapted(model: keras.Model) -> None:
    """Warns of layers that took what they know from data, without noise."""
    adapted = [layer.name for layer in layers_of(model) if _adapted(layer)]
    if adapted:
        warnings.warn(
            f"layers {', '.join(adapted)} were adapted: what adapt() saw is in the model, and in "
            "its files, without noise, and no epsilon covers it. Give them public numbers or "
            "words, or find bounds and categories with hg.summaries, which adds noise",
            stacklevel=4,
        )


def has_own_loss(model: keras.Model) -> bool:
    """Whether somebody else than Keras wrote the model's compute_loss.

    Then that decides which of the model's losses count, those of weights among them.
    """
    return getattr(model, "owns_loss", type(model).compute_loss is not keras.Model.compute_loss)


def layers_of(model: keras.Layer) -> list[keras.Layer]:
    """All layers inside a model, each once, the model left out."""
    return list(model._flatten_layers(include_self=False, recursive=True))


def _training(model: keras.Model) -> dict[str, bool]:
    parameters = inspect.signature(model.call).parameters.values()
    takes = any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)
    return {"training": True} if takes else {}


@contextlib.contextmanager
def _unpenalised(model: Any) -> Iterator[None]:
    """The model's `losses` without those of weights, where Keras sums them."""
    model.unpenalised = not has_own_loss(model)
    try:
        yield
    finally:
        model.unpenalised = False


def _mixed(model: keras.Model, x: Any) -> bool:
    def outputs(x: Any) -> list[np.ndarray]:
        with keras.StatelessScope():  # whatever moves, moves there
            return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(model(x))]

    def differs(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
        # Far above rounding, far below what a mean over two makes.
        pairs = zip(one, other, strict=True)
        return any(np.abs(a - b).max(initial=0) > 0.02 * (1 + np.abs(a).max()) for a, b in pairs)

    if not model.built:
        model(jax.tree.map(np.zeros_like, x))
    together = outputs(x)
    if any(out.shape[:1] != (2,) for out in together) or differs(together, outputs(x)):
        return False  # it draws, or has other axes first: nothing can be told
    for place in range(2):
        alone = outputs(jax.tree.map(lambda a, place=place: a[place : place + 1], x))
        if differs([out[place : place + 1] for out in together], alone):
            return True
    return False


def _adapted(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.Normalization):
        return layer.input_mean is None
    if isinstance(layer, keras.layers.Discretization):
        return layer.num_bins is not None
    return not getattr(layer, "_has_input_vocabulary", True)


def _mixes(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """States of random generators: what is neither a weight nor a metric's."""
    known = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [v for v in model.non_trainable_variables if id(v) not in known]


def _seed(key: Any, number: int) -> Array:
    return jax.random.key_data(jax.random.fold_in(key, number))


def _moving(moved: Sequence[keras.Variable]) -> str:
    layers = dict.fromkeys(v.path.rpartition("/")[0].rpartition("/")[2] or v.path for v in moved)
    return (
        f"layers {', '.join(layers)} keep state that moves with the data "
        f"({', '.join(v.path for v in moved)}): one example's numbers would reach the next and "
        "leave without noise. Use layers without such state (GroupNormalization for "
        "BatchNormalization, stateful=False for recurrent layers), or freeze them"
    )
