"""Runs of DP-AdaFEST: what is released of a table, step by step.

Statistics raise an alarm with probability 1e-6 where all is well; seeds are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import Stop
from scipy import stats

import hushgrad as hg
from hushgrad.errors import InputError, ResumeError
from hushgrad.training.secret import RunSecret

ALARM = 1e-6
EXAMPLES, WORDS, ROWS, WIDTH, SEEN = 40, 3, 4_000, 2, 6


def loss(params, ids, y):
    bag = params["words"]["table"].at[ids].get(mode="fill", fill_value=0).sum(axis=0)
    return (bag @ params["out"] - y) ** 2


def tied(params, ids, y):
    return loss(params, ids, y) + jnp.sum(params["words"]["table"] @ params["out"])


PARAMS = {"words": {"table": jnp.zeros((ROWS, WIDTH))}, "out": jnp.ones(WIDTH)}
RNG = np.random.default_rng(0)
# Nobody looks up more than the first rows; some examples have fewer words.
IDS = RNG.integers(0, SEEN, (EXAMPLES, WORDS)).astype(np.int32)
IDS[::3, 2] = ROWS
DATA = IDS, np.ones(EXAMPLES, np.float32)


def make(noise_multiplier=1.0, *, steps=1, threshold=1.0, ratio=2.0, capacity=ROWS, **changes):
    strategy = hg.noise.Sparse("words.table", threshold=threshold, ratio=ratio, capacity=capacity)
    settings = {"examples": EXAMPLES, "batch_size": 20, "clip": 0.5, "delta": 1e-3}
    return hg.dp_adafest(
        **{**settings, **changes}, steps=steps, noise_multiplier=noise_multiplier, strategy=strategy
    )


@pytest.fixture
def train(tmp_path):
    def call(m, *, stop_after=None, name="run", **changes):
        def callback(progress):
            if progress.step == stop_after:
                raise Stop

        given = {"seed": 1, "options": hg.Options(checkpoint_every=2), "callback": callback}
        return hg.train(
            changes.pop("loss", loss),
            PARAMS,
            changes.pop("data", DATA),
            m,
            optimizer=optax.sgd(1.0),
            directory=tmp_path / name,
            **{**given, **changes},
        )

    return call


def test_rows_that_nobody_looks_up_move_as_often_as_noise_has_it_and_by_noise(train):
    m = make()
    run = train(m)
    table = np.asarray(run.params["words"]["table"], np.float64)[SEEN:]
    moved = np.any(table != 0, axis=1)
    share = stats.norm.sf(1.0)
    low, high = (q(ALARM / 2, moved.size, share) for q in (stats.binom.ppf, stats.binom.isf))
    assert low <= moved.sum() <= high
    # The mean over 20 of noise of deviation sigma_2 C.
    deviation = np.sqrt(1.25) * 0.5 / 20
    total = ((table[moved] / deviation) ** 2).sum()
    count = WIDTH * moved.sum()
    assert stats.chi2.ppf(ALARM / 2, count) < total < stats.chi2.isf(ALARM / 2, count)


def test_with_hardly_any_noise_it_is_the_clipped_sum_of_all_who_were_drawn(train):
    """The whole of it: drawn batch, clip by all parameters, divisor; and padding counts not."""
    m = make(1e-5, threshold=1e5)  # half an example's mark or so
    run = train(m, options=hg.Options(block_size=8))
    drawn = m.sampling.draw(EXAMPLES, RunSecret.from_seed(1).sampling_generator(0))
    out = hg.clipped_grad(loss, 0.5)(PARAMS, IDS[drawn], DATA[1][drawn])
    wanted = jax.tree.map(lambda p, g: p - g / 20, PARAMS, out.grads)
    np.testing.assert_allclose(run.params["out"], wanted["out"], atol=1e-5)
    found, all_of_it = run.params["words"]["table"], wanted["words"]["table"]
    np.testing.assert_allclose(found[:SEEN], all_of_it[:SEEN], atol=1e-5)
    np.testing.assert_array_equal(found[SEEN:], 0)


def test_rows_below_the_threshold_stay_as_they_are_though_they_have_gradients(train):
    run = train(make(1e-5, threshold=1e9))  # no row has so many
    np.testing.assert_array_equal(run.params["words"]["table"], 0)
    assert (np.asarray(run.params["out"]) != 0).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"clip": hg.clip.Adaptive(initial_norm=0.5, count_stddev=1.0)}],
    ids=["fixed", "adaptive"],
)
def test_a_run_goes_on_bit_for_bit(train, changes):
    m = make(steps=5, **changes)
    whole = train(m, name="whole")
    with pytest.raises(Stop):
        train(m, stop_after=3)
    again = train(m)
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
    assert again.steps == 5


def test_but_not_with_another_choice(train):
    with pytest.raises(Stop):
        train(make(steps=5), stop_after=3)
    for other in (make(steps=5, threshold=1.1), make(steps=5, ratio=2.1)):
        with pytest.raises(ResumeError, match="another mechanism"):
            train(other)


def test_progress_tells_how_many_rows_were_chosen(train):
    seen = []
    run = train(make(steps=3, capacity=50), callback=lambda p: seen.append(p.chosen))
    assert len(seen) == 3
    assert all(0 < int(one.rows) <= 50 and int(one.dropped) > 0 for one in seen)
    moved = np.any(np.asarray(run.params["words"]["table"]) != 0, axis=1)
    assert moved.sum() <= 150


MANY = tuple(np.tile(a, (5,) + (1,) * (a.ndim - 1)) for a in DATA)


@pytest.mark.parametrize("kind", ["gradient", "rows"])
def test_canaries_audit_it(train, kind):
    m = make(steps=3, threshold=3.0, examples=200)
    run = train(m, data=MANY, audit=hg.audit.Canaries(32, kind=kind))
    assert not run.audit.exceeded
    assert run.params["words"]["table"].shape == (ROWS, WIDTH)


def test_canaries_find_a_sum_without_noise(train, monkeypatch):
    """The same audit, where the transformation leaves its noise out."""
    jax.clear_caches()
    made = hg.noise.sparse.__globals__["plus"]
    monkeypatch.setitem(
        hg.noise.sparse.__globals__, "plus", lambda leaves, normals, _: made(leaves, normals, 1e-4)
    )
    m = make(4.0, steps=3, examples=200, batch_size=200)
    run = train(m, data=MANY, audit=hg.audit.Canaries(100))
    jax.clear_caches()
    assert run.audit.exceeded


def test_users_are_counted_and_clipped_as_one(tmp_path):
    m = make(1e-5, threshold=1e5, examples=10, batch_size=10, unit="user")
    users = hg.sampling.Users(np.repeat(np.arange(10), 4), DATA, max_examples=4)
    run = hg.train(
        loss, PARAMS, users, m, optimizer=optax.sgd(1.0), directory=tmp_path / "run", seed=1
    )
    each = [a.reshape(10, 4, *a.shape[1:]) for a in DATA]

    def of_user(params, ids, y):
        return sum(loss(params, ids[i], y[i]) for i in range(4)) / 4

    total = hg.clipped_grad(of_user, 0.5)(PARAMS, *each).grads["words"]["table"]
    found = np.asarray(run.params["words"]["table"])
    np.testing.assert_allclose(found, -np.asarray(total) / 10, atol=1e-5)


def test_what_cannot_be_is_refused_before_anything_is_spent(train, tmp_path):
    m = make()
    budget = hg.Budget("budget", epsilon=50.0, delta=1e-2, url=f"sqlite:///{tmp_path}/budget.db")
    cases = [
        ({"loss": tied}, "must be used in lookups"),
        ({"mesh": jax.make_mesh((1,), ("data",))}, "mesh does not go with sparse noise"),
    ]
    for changes, match in cases:
        with pytest.raises(InputError, match=match):
            train(m, budget=budget, **changes)
        assert budget.epsilon_held == 0
    strategy = hg.noise.Sparse("table")
    other = hg.dp_adafest(
        examples=EXAMPLES,
        batch_size=20,
        steps=1,
        delta=1e-3,
        noise_multiplier=1.0,
        strategy=strategy,
    )
    with pytest.raises(InputError, match=r"one of the parameters out, words\.table"):
        train(other, budget=budget)
    assert budget.epsilon_held == 0
