"""Which way each parameter goes: rules where there are some, direct for the rest."""

import jax
import jax.numpy as jnp
from jax import lax

from hushgrad.gradients.plan import make_plan
from hushgrad.gradients.program import trace
from hushgrad.gradients.rules.contraction import prefers_ghost


def plan_of(loss, params, example):
    leaves, treedef = jax.tree.flatten(params)

    def flat(ps, es):
        return loss(jax.tree.unflatten(treedef, list(ps)), *es)

    return make_plan(trace(flat, leaves, [example]))


def rules(loss, params, example):
    return [site.rule.name for site in plan_of(loss, params, example).sites]


def test_a_dense_layer_is_two_ruled_sites():
    params = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    found = rules(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"])), params, jnp.zeros(4))
    assert found == ["dot_general", "add"]


def test_only_the_parameter_of_an_unruled_operation_is_direct():
    params = {"w": jnp.zeros((4, 4)), "s": jnp.zeros(4)}
    found = rules(lambda p, x: jnp.sum((x @ p["w"]) * p["s"]), params, jnp.zeros(4))
    assert found == ["dot_general", "direct"]


def test_a_loop_is_direct():
    params = {"w": jnp.zeros((4, 4))}

    def loss(p, x):
        return jnp.sum(lax.fori_loop(0, 2, lambda _, h: h @ p["w"], x))

    assert rules(loss, params, jnp.zeros(4)) == ["direct"]


def test_a_wide_layer_with_one_row_builds_no_gradient_per_example():
    params = {"w": jnp.zeros((64, 64))}
    plan = plan_of(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])), params, jnp.zeros(64))
    assert plan.groups[0].ghost


def test_a_shared_layer_is_built_since_its_gradient_is_a_sum_over_uses():
    params = {"w": jnp.zeros((64, 64))}
    plan = plan_of(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) @ p["w"]), params, jnp.zeros(64))
    assert [group.ghost for group in plan.groups] == [False]
    assert plan.groups[0].sites == (0, 1)


def test_gradients_are_kept_only_up_to_twice_the_memory_of_what_they_come_from():
    assert prefers_ghost(rows=1, depth=2, columns=2)
    assert not prefers_ghost(rows=196, depth=64, columns=16)
    assert prefers_ghost(rows=16, depth=4608, columns=512)


def test_the_ghost_way_never_holds_one_gradient_per_example():
    """784-2048-10 at batch 64: per-example gradients alone would take 411 MB."""
    params = {"w": jnp.zeros((784, 2048)), "v": jnp.zeros((2048, 10))}

    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"])

    from hushgrad import clipped_grad

    step = jax.jit(lambda p, x: clipped_grad(loss, 1.0)(p, x).grads)
    compiled = step.lower(params, jnp.zeros((64, 784))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40e6
