"""What a loss writes to and outlives it: refused by name, and put back."""

import collections
import functools

import jax
import jax.numpy as jnp
import pytest
from zoo.draw import rand

import hushgrad as hg

W, X = rand(0, 4, 4), rand(1, 3, 4)
STORE: list = []
LAST = 0.0


def refused(loss, name, params=W, error=hg.errors.InputError):
    with pytest.raises(error, match=name):
        hg.clipped_grad(loss, 1.0)(params, X)


def writing(write):
    """A loss that calls `write` with its example."""

    def loss(p, x):
        write(x)
        return jnp.sum(x @ p)

    return loss


def clean(value):
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def test_lists_and_dicts():
    kept, deep, lists = [], {"a": {"n": 0}}, collections.defaultdict(list)
    refused(writing(lambda x: kept.append(x)), "kept")
    refused(writing(lambda x: deep["a"].update(n=x[0])), r"deep\['a'\]\['n'\]")
    refused(writing(lambda x: lists["k"].append(x)), r"lists\['k'\]\[0\]")
    assert kept == []
    assert deep == {"a": {"n": 0}}
    assert clean(dict(lists))


def test_a_method_of_a_list():
    kept: list = []
    refused(writing(kept.append), "kept|write")
    assert kept == []


def test_a_deque():
    kept = collections.deque(maxlen=2)
    refused(writing(lambda x: kept.append(x)), "kept")
    assert clean(list(kept))


def test_attributes():
    class Keeper:
        total = 0.0

        def loss(self, p, x):
            self.total = self.total + x[0]
            return jnp.sum(x @ p)

    keeper = Keeper()
    refused(keeper.loss, "Keeper.total")
    assert keeper.total == 0.0
    refused(writing(lambda x: setattr(keeper, "seen", x)), "keeper.seen")
    assert not hasattr(keeper, "seen")


def test_an_attribute_of_a_class():
    class Keeper:
        total = 0.0

        def loss(self, p, x):
            Keeper.total = x[0]
            return jnp.sum(x @ p)

    refused(Keeper().loss, "total")
    assert clean(Keeper.total)


def _remember(x):
    STORE.append(x)


def test_globals_of_functions_that_it_calls():
    refused(writing(_remember), "STORE")
    assert STORE == []


def test_global_and_nonlocal_variables():
    count = 0.0

    def nonlocal_one(x):
        nonlocal count
        count = x[0]

    def global_one(x):
        global LAST
        LAST = x[0]

    refused(writing(nonlocal_one), "count")
    refused(writing(global_one), "LAST")
    assert count == LAST == 0.0


def test_defaults_partials_and_compiled_functions():
    kept: list = []

    def loss(p, x, store=kept):
        store.append(x)
        return jnp.sum(x @ p)

    refused(loss, "default")
    refused(functools.partial(loss, store=kept), r"store|default\[0\]")
    refused(jax.jit(writing(lambda x: kept.append(x))), "kept")
    assert kept == []


def test_references_and_callbacks():
    ref = jax.new_ref(jnp.zeros(4))
    refused(writing(lambda x: ref.__setitem__(..., x)), "side effects")
    refused(writing(lambda x: jax.debug.callback(STORE.append, x)), "side effects")
    refused(writing(lambda x: jax.experimental.io_callback(STORE.append, None, x)), "side effects")


def test_under_jit():
    kept: list = []
    with pytest.raises(hg.errors.InputError, match="kept"):
        jax.jit(hg.clipped_grad(writing(lambda x: kept.append(x)), 1.0))(W, X)
    assert kept == []


def test_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="needs Flax: pip install flax")
    errors = pytest.importorskip("flax.errors", reason="needs Flax: pip install flax")
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    # NNX refuses by itself what would write a traced value to a variable made outside.
    either = (hg.errors.InputError, errors.TraceContextError)
    refused(lambda p, x: jnp.sum(norm((x @ p)[None]) ** 2), "BatchStat", error=either)
    refused(lambda p, x: jnp.sum(drop(x @ p)), "RngCount", error=either)
    assert clean(nnx.state(norm))
    norm.eval()
    hg.clipped_grad(lambda p, x: jnp.sum(norm((x @ p)[None]) ** 2), 1.0)(W, X)


def test_linen():
    nn = pytest.importorskip("flax.linen", reason="needs Flax: pip install flax")
    errors = pytest.importorskip("flax.errors", reason="needs Flax: pip install flax")
    norm = nn.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), X)
    either = (hg.errors.InputError, errors.ModifyScopeVariableError)
    refused(lambda p, x: jnp.sum(norm.apply(variables, (x @ p)[None])), "mean", error=either)
    bound = norm.bind(variables, mutable=["batch_stats"])
    refused(lambda p, x: jnp.sum(bound((x @ p)[None])), "bound.*'batch_stats'.*'mean'")


def test_equinox():
    eqx = pytest.importorskip("equinox", reason="needs Equinox: pip install equinox")

    class Model(eqx.Module):
        seen: list

        def __call__(self, p, x):
            self.seen.append(x)
            return jnp.sum(x @ p)

    model = Model([])
    refused(model, "seen")
    refused(eqx.filter_jit(lambda p, x: model(p, x)), "model")
    assert model.seen == []
    # Equinox's own state is a value: the loss's new one goes nowhere.
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, axis_name="rows", mode="ema")

    def loss(p, x):
        run = jax.vmap(lambda r: norm(r, state), axis_name="rows", out_axes=(0, None))
        return jnp.sum(run(jnp.stack([x @ p, p @ x]))[0] ** 2)

    assert jnp.all(jnp.isfinite(hg.clipped_grad(loss, 1.0)(W, X).norms))


@pytest.fixture(scope="module")
def keras():
    keras = pytest.importorskip("keras", reason="needs Keras: pip install keras")
    if keras.backend.backend() != "jax":
        pytest.skip("needs Keras on JAX: set KERAS_BACKEND=jax")
    return keras


def test_keras(keras):
    layers = keras.layers
    norm = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    drop = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5)])
    mean = keras.metrics.Mean()

    def call(model, training):
        return lambda p, x: jnp.sum(model((x @ p)[None], training=training))

    refused(call(norm, True), "moving_mean")
    refused(call(drop, True), "seed_generator")
    refused(writing(mean.update_state), "mean.total")
    assert clean([v.value for v in (*norm.variables, *mean.variables)])
    hg.clipped_grad(call(norm, False), 1.0)(W, X)


def test_keras_by_a_readable_name(keras):
    norm = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")])
    with pytest.raises(hg.errors.InputError) as raised:
        hg.clipped_grad(lambda p, x: jnp.sum(norm((x @ p)[None], training=True)), 1.0)(W, X)
    assert len(str(raised.value).split("but it writes ")[1].split(":")[0]) < 120
