"""A loss that writes to state that outlives it is refused, by name, and the state put back."""

import collections
import functools
import types

import jax
import jax.numpy as jnp
import pytest

import hushgrad as hg
from hushgrad.errors import InputError

W, X = jnp.ones(3), jnp.ones((5, 3))
LIST, DICT, SEEN = [1], {"a": {"b": 2}}, None
MODULE = types.ModuleType("module")


class Model:
    shared = 0

    def __init__(self):
        self.mean = 0.0
        self.layers = [{"norm": collections.deque([0])}]

    def loss(self, w, x):
        self.mean = x.mean()
        return jnp.sum(w * x)


class Slotted:
    __slots__ = ("mean",)


def to_list(w, x):
    LIST.append(x[0])
    return jnp.sum(w * x)


def to_nested_dict(w, x):
    DICT["a"]["b"] = x[0]
    return jnp.sum(w * x)


def to_global(w, x):
    global SEEN
    SEEN = x[0]
    return jnp.sum(w * x)


def to_class(w, x):
    Model.shared = x[0]
    return jnp.sum(w * x)


def to_module(w, x):
    MODULE.content = x[0]
    return jnp.sum(w * x)


def to_default(w, x, memory=[3]):  # noqa: B006
    memory[0] = x[0]
    return jnp.sum(w * x)


def refused(loss, name):
    with pytest.raises(InputError) as caught:
        hg.clipped_grad(loss, 1.0)(W, X)
    assert name in str(caught.value)
    assert "GroupNorm" in str(caught.value)


def test_lists_dicts_and_globals():
    refused(to_list, "LIST[1]")
    refused(to_nested_dict, "DICT['a']['b']")
    refused(to_global, "SEEN")
    refused(jax.jit(to_global), "SEEN")
    refused(to_class, "Model.shared")
    refused(to_module, "MODULE.content")
    refused(to_default, "default[0][0]")
    assert (LIST, DICT, SEEN, Model.shared) == ([1], {"a": {"b": 2}}, None, 0)
    assert not hasattr(MODULE, "content")
    assert to_default.__defaults__ == ([3],)


def test_objects():
    model, slotted, count = Model(), Slotted(), 0
    slotted.mean = 1

    def closed_over(w, x):
        nonlocal count
        count = x[0]
        model.layers[0]["norm"].append(x[1])
        slotted.mean = x.mean()
        model.new = x
        return jnp.sum(w * x)

    refused(model.loss, "Model.mean")
    refused(functools.partial(lambda m, w, x: m.loss(w, x), model), "args[0].mean")
    for name in ("count", "model.layers[0]['norm'][1]", "slotted.mean", "model.new"):
        refused(closed_over, name)
    assert (model.mean, slotted.mean, count) == (0.0, 1, 0)
    assert model.layers[0]["norm"] == collections.deque([0])
    assert not hasattr(model, "new")


def test_references_and_callbacks():
    reference = jax.new_ref(jnp.zeros(())) if hasattr(jax, "new_ref") else None
    if reference is not None:

        def to_reference(w, x):
            reference[...] = x[0]
            return jnp.sum(w * x)

        with pytest.raises(InputError, match="side effects"):
            hg.clipped_grad(to_reference, 1.0)(W, X)

    def prints(w, x):
        jax.debug.print("{}", x)
        return jnp.sum(w * x)

    with pytest.raises(InputError, match="side effects"):
        hg.clipped_grad(prints, 1.0)(W, X)


def test_reading_state_is_allowed():
    model = Model()

    def loss(w, x):
        local = {"x": x}
        return jnp.sum(w * local["x"]) + model.mean + DICT["a"]["b"]

    assert hg.clipped_grad(loss, 100.0)(W, X).losses.tolist() == [5.0] * 5
