"""Which way each parameter goes: rules where there are some, direct for the rest."""

import jax
import jax.numpy as jnp
from jax import lax

from hushgrad import clip, clipped_grad
from hushgrad.gradients.inputs import traced
from hushgrad.gradients.plan import Way, make_plan
from hushgrad.gradients.rules.contraction import prefers_ghost


def plan_of(loss, params, *example, parts=None, group=1):
    return make_plan(traced(loss, params, example)[0], parts, group)


def rules(loss, params, example):
    return [site.rule.name for site in plan_of(loss, params, example).sites]


def ways(loss, params, *example, **options):
    plan = plan_of(loss, params, *example, **options)
    return [cluster.way for cluster in plan.clusters]


def test_a_dense_layer_is_two_ruled_sites():
    params = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    found = rules(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"])), params, jnp.zeros(4))
    assert found == ["dot_general", "add"]


def test_only_the_parameter_of_an_unruled_operation_is_direct():
    params = {"w": jnp.zeros((4, 4)), "s": jnp.zeros(4)}
    found = rules(lambda p, x: jnp.sum(jnp.arctan2(x @ p["w"], p["s"])), params, jnp.zeros(4))
    assert found == ["dot_general", "direct"]


def test_a_while_loop_that_reads_a_parameter_is_direct():
    params = {"w": jnp.zeros((4, 4))}

    def loss(p, x):
        return jnp.sum(lax.while_loop(lambda h: h[0] < 1, lambda h: h @ p["w"], x))

    assert rules(loss, params, jnp.zeros(4)) == ["direct"]


def test_a_counted_loop_with_shared_weights_is_one_site_with_repeats():
    def loss(p, x):
        return jnp.sum(lax.fori_loop(0, 2, lambda _, h: h @ p, x))

    (site,) = plan_of(loss, jnp.zeros((4, 4)), jnp.zeros(4)).sites
    assert (site.rule.name, site.slices, site.repeats) == ("dot_general", (), 2)


def test_a_loop_over_weights_is_one_site_with_slices():
    def loss(p, x):
        return jnp.sum(lax.scan(lambda h, w: (h @ w.T, None), x, p)[0])

    (site,) = plan_of(loss, jnp.zeros((3, 4, 4)), jnp.zeros((2, 4))).sites
    assert (site.rule.name, site.slices, site.repeats) == ("dot_general", (3,), 1)


def test_a_wide_layer_with_one_row_builds_no_gradient_per_example():
    w = jnp.zeros((64, 64))
    assert ways(lambda w, x: jnp.sum(jnp.tanh(x @ w)), w, jnp.zeros(64)) == [Way.GHOST]


def test_a_wide_layer_used_twice_takes_the_ghost_norm_of_the_sum():
    w = jnp.zeros((64, 64))
    for second in (lambda h, w: h @ w, lambda h, w: h @ w.T):
        found = ways(lambda w, x, f=second: jnp.sum(f(jnp.tanh(x @ w), w)), w, jnp.zeros(64))
        assert found == [Way.GHOST]


def test_uses_that_do_not_fit_together_are_built():
    w = jnp.zeros((64, 64))
    found = ways(lambda w, x: jnp.sum((x @ w) @ w.reshape(8, 512).T[:64]), w, jnp.zeros(64))
    assert found == [Way.PULLED]


def test_a_tied_embedding_takes_the_ghost_norm():
    params = {"e": jnp.zeros((500, 16))}

    def loss(p, ids):
        return jnp.sum(jax.nn.logsumexp(jnp.take(p["e"], ids, axis=0) @ p["e"].T, axis=-1))

    assert ways(loss, params, jnp.zeros(3, int)) == [Way.GHOST]


def test_slices_of_one_parameter_are_apart():
    w = jnp.zeros((64, 192))

    def loss(w, x):
        q, k, v = jnp.split(w, 3, axis=1)
        return jnp.sum((x @ q) * (x @ k) * (x @ v))

    assert ways(loss, w, jnp.zeros(64)) == [Way.GHOST] * 3
    layers = jnp.zeros((2, 64, 64))
    assert ways(lambda w, x: jnp.sum(x @ w[0] @ w[1]), layers, jnp.zeros(64)) == [Way.GHOST] * 2
    assert ways(lambda w, x: jnp.sum(x @ w[0] @ w[0]), layers, jnp.zeros(64)) == [Way.PULLED]


def test_parameters_of_several_parts_are_built():
    params = {"a": jnp.zeros((32, 64)), "b": jnp.zeros((32, 64))}

    def loss(p, x):
        return jnp.sum(x @ jnp.concatenate([p["a"], p["b"]]))

    assert ways(loss, params, jnp.zeros(64)) == [Way.GHOST]
    assert ways(loss, params, jnp.zeros(64), parts=(0, 1)) == [Way.PULLED]


def test_nonlinear_parameters_are_carried_back():
    w = jnp.zeros((64, 64))
    assert ways(lambda w, x: jnp.sum(x @ jnp.tanh(w)), w, jnp.zeros(64)) == [Way.PULLED]


def test_lookups_with_constant_indices_keep_norms_unless_they_repeat():
    table = jnp.zeros((9, 4))
    twice = jnp.array([1, 1])
    assert ways(lambda p, x: jnp.sum(p[jnp.arange(3)] * x), table, jnp.zeros((3, 4))) == [Way.KEPT]
    assert ways(lambda p, x: jnp.sum(p[twice] * x), table, jnp.zeros((2, 4))) == [Way.PULLED]


def test_a_group_has_the_rows_of_all_its_members():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    w, x = jnp.zeros((64, 64)), jnp.zeros(64)
    assert ways(loss, w, x, group=4) == [Way.GHOST]
    assert ways(loss, w, x, group=100) == [Way.KEPT]


def test_gradients_are_kept_only_up_to_twice_the_memory_of_what_they_come_from():
    assert prefers_ghost(rows=1, built=4, held=4)
    assert not prefers_ghost(rows=196, built=64 * 16, held=196 * (64 + 16))
    assert prefers_ghost(rows=16, built=4608 * 512, held=16 * (4608 + 512))


def test_the_ghost_way_never_holds_one_gradient_per_example():
    """784-2048-10 at batch 64: per-example gradients alone would take 411 MB."""
    params = {"w": jnp.zeros((784, 2048)), "v": jnp.zeros((2048, 10))}

    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"])

    step = jax.jit(lambda p, x: clipped_grad(loss, clip.Flat(1.0))(p, x).grads)
    compiled = step.lower(params, jnp.zeros((64, 784))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40e6
