"""What DP-AdaFEST promises, against the definition, and what of hushgrad it goes with."""

import dataclasses
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import hushgrad as hg
from hushgrad.errors import InputError
from hushgrad.gradients import RowCounts

ROWS, WORDS, WIDTH, BATCH = 10, 4, 3, 6
PLAN = {"examples": 1_000, "batch_size": 50, "steps": 40, "delta": 1e-5}


def make(noise_multiplier=1.0, *, strategy=None, **changes):
    strategy = strategy or hg.noise.Sparse("table")
    return hg.dp_adafest(
        **{**PLAN, "noise_multiplier": noise_multiplier, "strategy": strategy, **changes}
    )


def loss(params, ids, y):
    bag = params["table"].at[ids].get(mode="fill", fill_value=0).sum(axis=0)
    return (jnp.tanh(bag) @ params["out"] - y) ** 2


PARAMS = {
    "table": jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, WIDTH)), jnp.float32),
    "out": jnp.ones(WIDTH),
}


def by_hand(sigma_1, sigma_2, accountant, rate):
    """Two Gaussian mechanisms on one Poisson sample, in dp_accounting's own words."""
    both = dp_accounting.ComposedDpEvent(
        [dp_accounting.GaussianDpEvent(sigma_1), dp_accounting.GaussianDpEvent(sigma_2)]
    )
    # Its PLD accountant composes them only where nothing is sampled.
    step = both if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, both)
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, PLAN["steps"]))
    return accountant.get_epsilon(PLAN["delta"])


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_cost_is_that_of_counts_and_gradients_on_one_sample(ratio):
    m = make(strategy=hg.noise.Sparse("table", ratio=ratio))
    sigmas = ratio * m.sum_noise_multiplier, m.sum_noise_multiplier
    found = by_hand(*sigmas, dp_accounting.rdp.RdpAccountant(), 0.05)
    assert m.epsilon(accountant="rdp") == pytest.approx(found, rel=1e-2)
    whole = make(strategy=m.strategy, batch_size=PLAN["examples"])
    found = by_hand(*sigmas, dp_accounting.pld.PLDAccountant(), 1)
    assert whole.epsilon() == pytest.approx(found, rel=1e-3)
    # Gradients alone would seem to cost less, and do not pay for the counts.
    alone = hg.dp_sgd(**PLAN, noise_multiplier=m.sum_noise_multiplier)
    assert m.epsilon() > alone.epsilon() * 1.02
    assert m.epsilon() == hg.dp_sgd(**PLAN, noise_multiplier=1.0).epsilon()


def test_noise_is_found_for_an_epsilon():
    m = hg.dp_adafest(**PLAN, epsilon=2.0, strategy=hg.noise.Sparse("table"))
    assert 1.99 < m.epsilon() <= 2.0
    assert hg.Mechanism.from_dict(m.to_dict()) == m
    assert m.noise_stddev == pytest.approx(m.noise_multiplier * math.sqrt(1.25))


@pytest.mark.parametrize(
    "clip", [0.7, hg.clip.Automatic(), hg.clip.PerLayer({"table": 0.6, "out": 0.3})], ids=repr
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_example_moves_both_together_by_at_most_one_over_z(clip, data):
    """In what the noise's deviations are, whatever the example and the clip by parts."""
    m = make(clip=clip, strategy=hg.noise.Sparse("table", ratio=1.5, norm=1.2))
    moved = _moved(clip)
    row = st.lists(st.integers(0, ROWS), min_size=WORDS, max_size=WORDS)
    ids = np.array(data.draw(st.lists(row, min_size=BATCH, max_size=BATCH)), np.int32)
    number = st.floats(-1e4, 1e4, width=32)
    y = np.array(data.draw(st.lists(number, min_size=BATCH, max_size=BATCH)), np.float32)
    grads, counts = moved(ids, y)
    sigma_2 = m.sum_noise_multiplier
    parts = [grads / (sigma_2 * m.clip.sensitivity), counts / (1.5 * sigma_2 * 1.2)]
    together = np.linalg.norm(np.concatenate([np.ravel(part) for part in parts]).astype(float))
    # Sums of six examples in float32 are taken from each other: to 1e-5.
    assert together * m.noise_multiplier <= 1 + 1e-5


_MOVED = {}


def _moved(clip):
    """What the first example changes of sums and counts, compiled."""
    engine = hg.clipped_grad(loss, clip, counts=RowCounts("table", 1.2))

    def change(ids, y):
        everybody = jnp.ones(BATCH, bool)
        both = [engine(PARAMS, ids, y, mask=m) for m in (everybody, everybody.at[0].set(False))]
        flat = [ravel_pytree(out.grads)[0] for out in both]
        counts = jnp.stack([out.counts for out in both])
        return flat[0] - flat[1], counts[0] - counts[1]

    return _MOVED.setdefault(repr(clip), jax.jit(change))


def test_a_clip_that_moves_is_paid_for_too():
    adaptive = hg.clip.Adaptive(count_stddev=2.0)
    m = make(clip=adaptive, strategy=hg.noise.Sparse("table", ratio=3.0))
    sigma_2 = m.sum_noise_multiplier
    total = sigma_2**-2 + (3 * sigma_2) ** -2 + (2 * 2.0) ** -2
    assert total == pytest.approx(1.0, rel=1e-12)


def test_the_statement_tells_both_noises():
    m = make(strategy=hg.noise.Sparse("table", ratio=2.0, threshold=2.5, capacity=100))
    told = " ".join(m.statement().split())
    for part in (
        "2.23607 on counts",
        "row of 'table'",
        "1.11803 on gradients",
        "2.5",
        "at most 100",
    ):
        assert part in told
    assert "0.0062" in told  # that a row without data passes


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"strategy": hg.noise.Sparse}, "strategy must be hg.noise.Sparse"),
        ({"strategy": hg.noise.Tree()}, "strategy must be hg.noise.Sparse"),
        ({"clip": hg.clip.Microbatches(1.0, 2), "sampling": hg.sampling.Shuffle}, "Flat"),
    ],
)
def test_what_does_not_go_together(changes, match):
    with pytest.raises(InputError, match=match):
        make(**changes)


def test_the_kind_alone_is_not_taken_for_independent_noise():
    with pytest.raises(InputError, match="which table's rows"):
        hg.dp_ftrl(**PLAN, noise_multiplier=1.0, strategy=hg.noise.Sparse)


def test_phases_choose_alike():
    one, other = make(), make(strategy=hg.noise.Sparse("table", ratio=1.0))
    assert hg.schedule(one, make(2.0)).epsilon() > 0
    for second in (other, hg.dp_sgd(**PLAN, noise_multiplier=1.0)):
        with pytest.raises(InputError, match="the same sparse noise"):
            hg.schedule(one, second)


def test_faces_whose_sums_have_no_counts_refuse_it():
    m, strategy = make(), hg.noise.Sparse("table")
    with pytest.raises(InputError, match=r"hg\.train alone"):
        hg.federated.dp_aggregator(1.0, 10, clip=1.0, strategy=strategy)
    with pytest.raises(InputError, match=r"hg\.dp_sgd"):
        hg.federated.fed_avg(loss, optax.sgd(0.1), optax.sgd(1.0), m)
    with pytest.raises(InputError, match="sparse noise"):
        hg.audit.many_runs(dataclasses.replace(m, steps=2))
    with pytest.raises(InputError, match="sparse noise"):
        hg.optimizers.dp_adam(0.1, m)


def test_a_choice_among_runs_costs_as_with_dense_noise():
    one, dense = make(), hg.dp_sgd(**PLAN, noise_multiplier=1.0)
    chosen = [hg.Selection(m, 4.0).epsilon(accountant="rdp") for m in (one, dense)]
    assert chosen[0] == chosen[1] > one.epsilon(accountant="rdp")
