"""Noise of matrices in a mechanism and a run: what it costs, and that it is what was charged."""

import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hushgrad as hg
from hushgrad import accounting, noise
from hushgrad.costs import participation, released
from hushgrad.errors import InputError
from hushgrad.sampling import CyclicPoisson, InOrder, Poisson, Shuffle, Stream

PLAIN = {"examples": 40, "batch_size": 10, "clip": 1.0, "delta": 1e-3}
STRATEGIES = {
    "toeplitz": noise.Toeplitz.of(12, 3),
    "blt": noise.BLT.of(12, 2),
    "banded": noise.Banded.of(12, 3),
    "dense": noise.Dense.of(12, noise.Periodic(4)),
}


def make(**changes) -> hg.Mechanism:
    given = {"noise_multiplier": 1.0, "steps": 12, "sampling": InOrder, **changes}
    return hg.dp_ftrl(**PLAIN, **given)


def exact(sensitivity: float) -> float:
    """Epsilon of one Gaussian mechanism with noise 1."""
    event = accounting.poisson_gaussian(1.0, 1 / sensitivity, 1)
    return accounting.epsilon(event, PLAIN["delta"], relation="replace-special")


def lower(strategy, steps: int) -> np.ndarray:
    """The matrix, from what the noise of each step's draw becomes: its inverse's columns."""
    made = np.zeros((steps, steps))
    state, step = strategy.transformation(1.0, steps).init(jnp.zeros(steps)), 0
    update = strategy.transformation(1.0, steps).update
    module = sys.modules["hushgrad.noise.gaussian"]
    with pytest.MonkeyPatch.context() as patched:
        for step in range(steps):
            one = np.eye(steps, dtype=np.float32)[step]
            patched.setattr(module, "standard_normals", lambda *_, one=one: [jnp.asarray(one)])
            found, state = update(jnp.zeros(steps), state, key=np.zeros(8, np.uint32))
            made[step] = found
    return np.linalg.inv(made)


@pytest.mark.parametrize("kind", ["toeplitz", "blt", "banded"])
@pytest.mark.parametrize("sampling", [InOrder, Shuffle, Stream, CyclicPoisson(0.5, 2)])
def test_it_costs_the_worst_steps_of_the_matrix_that_runs(kind, sampling):
    """By all ways to take part, of the matrix as it streams."""
    strategy = STRATEGIES[kind]
    m = make(sampling=sampling, strategy=strategy)
    matrix, worst = lower(strategy, 12), 0.0
    if sampling is InOrder:
        ways = [range(first, 12, 4) for first in range(4)]
    elif sampling is Shuffle:
        ways = [[a, 4 + b, 8 + c] for a, b, c in itertools.product(range(4), repeat=3)]
    elif sampling is Stream:
        ways = [range(12)]
    else:
        ways = [range(first, 12, 2) for first in range(2)]
    for steps in ways:
        worst = max(worst, np.linalg.norm(np.abs(matrix[:, list(steps)]).sum(axis=1)))
    # Which of a pass's steps is the worst is known for each turn alone: a bound, and a near one.
    assert exact(worst) * (1 - 2e-4) < m.epsilon()
    assert m.epsilon() < exact(worst) * (1.1 if sampling is Shuffle else 1 + 2e-4)
    spent = [m.epsilon(steps=steps) for steps in range(13)]
    assert spent == sorted(spent)
    assert spent[0] == 0


def test_banded_noise_is_amplified_by_cyclic_samples():
    m = hg.dp_banded(**PLAIN, steps=11, noise_multiplier=1.0, bands=3)
    assert m.sampling == CyclicPoisson(0.75, 3)
    assert (m.strategy.bands, m.steps) == (3, 11)
    wanted = accounting.poisson_gaussian(0.75, 1.0, 4)
    assert m.epsilon() == pytest.approx(accounting.epsilon(wanted, 1e-3), rel=1e-4)
    # Toeplitz matrices have columns of another norm, which the noise is over.
    toeplitz = STRATEGIES["toeplitz"]
    m = make(sampling=CyclicPoisson(0.75, 3), strategy=toeplitz, steps=11)
    norm = np.linalg.norm(lower(toeplitz, 11)[:, 0])
    wanted = accounting.poisson_gaussian(0.75, 1 / norm, 4)
    assert m.epsilon() == pytest.approx(accounting.epsilon(wanted, 1e-3), rel=1e-4)


@pytest.mark.parametrize("strategy", [noise.Banded.of(12, 4), noise.BLT.of(12, 2), noise.Tree()])
def test_more_bands_than_the_cycle_are_not_amplified(strategy):
    m = make(sampling=CyclicPoisson(0.75, 3), strategy=strategy)
    pattern = noise.Periodic(3)
    assert m.epsilon() == pytest.approx(exact(strategy.sensitivity(12, pattern)), rel=1e-6)


@pytest.mark.parametrize("kind", ["banded", "toeplitz"])
def test_what_is_charged_holds_for_the_matrix_that_runs(kind):
    """Delta of an example in cycles by coins, by the likelihood ratio of 4e5 draws.

    The example moves its own coordinate of steps 0, 2 and 4 by one, if its coin says so. The
    mean of values in [0, 1] from so many draws is within 5 standard errors but once in 3e6.
    """
    strategy = {"banded": noise.Banded, "toeplitz": noise.Toeplitz}[kind].of(6, 2)
    rate, z, epsilon, draws = 0.4, 0.8, 1.0, 400_000
    matrix, rng = lower(strategy, 6), np.random.default_rng(0)
    column = matrix[:, [0, 2, 4]]
    coins = rng.random((draws, 3)) < rate
    seen = coins @ column.T + z * rng.normal(size=(draws, 6))
    ratio = np.zeros(draws)
    for there in itertools.product([0, 1], repeat=3):
        chance = math.prod(rate if one else 1 - rate for one in there)
        moved = column @ np.array(there)
        ratio += chance * np.exp((seen @ moved - moved @ moved / 2) / z**2)
    part = np.maximum(0, 1 - math.exp(epsilon) / ratio)
    found, error = part.mean(), part.std() / math.sqrt(draws)
    sampling = CyclicPoisson(rate, 2)
    event = released(sampling, strategy, 40, z, 6, 1)
    charged = accounting.delta(event, epsilon, relation="replace-special")
    assert found <= charged + 5 * error
    # And not by much less: the first columns have the largest norm there is.
    assert found >= 0.9 * charged


def test_the_best_number_of_bands_is_found():
    plan = {"examples": 4000, "batch_size": 100, "steps": 160, "delta": 1e-5, "epsilon": 3.0}

    def error(m):
        return m.noise_multiplier * math.sqrt(m.strategy.variances(m.steps).mean())

    found = hg.dp_banded(**plan)
    each = {bands: error(hg.dp_banded(**plan, bands=bands)) for bands in (1, 2, 4, 8, 16, 32)}
    assert found.strategy.bands == min(each, key=each.get)
    assert 2.99 < found.epsilon() <= 3.0
    assert error(found) < 0.8 * error(hg.dp_sgd(**plan))
    assert error(found) < 0.75 * error(hg.dp_ftrl(**plan, strategy=noise.Tree, sampling=InOrder))
    # One band is independent noise, amplified as by Poisson sampling.
    assert each[1] == pytest.approx(error(hg.dp_sgd(**plan)), rel=1e-2)
    momentum = hg.dp_banded(**plan, workload=noise.Workload(momentum=0.9))
    assert momentum.strategy.bands == found.strategy.bands
    assert momentum.strategy != found.strategy


@pytest.mark.parametrize("kind", [kind for kind in noise.STRATEGIES.values() if not kind.counts])
def test_a_kind_is_fitted_to_the_run(kind):
    m = make(strategy=kind, noise_multiplier=None, epsilon=2.0)
    pattern = participation(m.sampling, 40, 12)
    assert pattern == noise.Periodic(4)
    assert m.strategy == kind.for_run(12, pattern, noise.Workload())
    assert 1.99 < m.epsilon() <= 2.0
    assert hg.Mechanism.from_dict(m.to_dict()) == m
    assert m.after(5).epsilon() <= m.epsilon()


def test_a_group_moves_as_much_as_its_members_together():
    m = make(strategy=STRATEGIES["blt"])
    group = hg.Mechanism(**{**vars(m), "unit": "group of 3"})
    moved = 3 * m.strategy.sensitivity(12, noise.Periodic(4))
    assert group.epsilon() == pytest.approx(exact(moved), rel=1e-6)
    banded = hg.dp_banded(**PLAIN, steps=8, noise_multiplier=1.0, bands=2)
    with pytest.raises(InputError, match="no guarantee for a group"):
        hg.Mechanism(**{**vars(banded), "unit": "group of 3"})


def test_rules_of_who_comes_stand_for_a_sampler():
    rules = {"min_separation": 5, "max_participations": 2}
    m = make(sampling=None, **rules)
    assert m.sampling == hg.sampling.CheckIn(10, **rules)
    assert m.epsilon() == make(sampling=hg.sampling.CheckIn(10, **rules)).epsilon()
    once = make(sampling=None, max_participations=1)
    assert once.sampling == hg.sampling.CheckIn(10, max_participations=1)
    assert make(sampling=None, min_separation=12).epsilon() == once.epsilon()
    assert make(sampling=None).sampling == Shuffle(10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_separation": 3}, r"not both; got sampling="),
        ({"sampling": None, "min_separation": 0}, "min_separation must be"),
        ({"strategy": "tree"}, "strategy must be one of hushgrad.noise or its kind"),
        ({"strategy": dict}, "strategy must be one of hushgrad.noise or its kind"),
        ({"sampling": Poisson, "strategy": noise.BLT}, "to know when an example takes part"),
        ({"strategy": noise.Banded.of(5, 2)}, "at most 5"),
        ({"sampling": CyclicPoisson, "strategy": noise.Banded}, "sampling must say its cycle"),
    ],
)
def test_bad_input_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        make(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bands": None}, "bands must be given with a noise multiplier"),
        ({"bands": 0}, "bands must be"),
        ({"bands": 5}, r"batch_size must be at most examples / cycle"),
        ({"epsilon": 1.0}, "give one of epsilon and noise_multiplier"),
        ({"clip": hg.clip.Adaptive(), "noise_multiplier": 0.1}, "take a clip that stays"),
    ],
)
def test_bad_input_for_banded_noise_is_refused(changed, message):
    given = {**PLAIN, "steps": 12, "noise_multiplier": 1.0, "bands": 2, **changed}
    with pytest.raises(InputError, match=message):
        hg.dp_banded(**given)


def test_rows_in_order():
    sampler = InOrder(4)
    batches = [sampler.batch(step, 10, np.random.default_rng).tolist() for step in range(6)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2
    m = hg.dp_sgd(examples=10, batch_size=4, steps=6, delta=1e-2, noise_multiplier=1.0).to_dict()
    assert m["sampling"]["kind"] == "poisson"
    statement = " ".join(make(strategy=STRATEGIES["blt"]).statement().split())
    assert "12 steps, batches of 10 in the order of the data" in statement
    assert "buffered linear Toeplitz matrix of 2 buffers" in statement
    with pytest.raises(InputError, match="batch_size must be"):
        InOrder(0)


def loss(params, x):
    return jnp.sum(params * x)


def train(mechanism, directory, **changes):
    data = (np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),)
    return hg.train(
        loss,
        jnp.zeros(3),
        data,
        mechanism,
        optimizer=optax.sgd(1.0),
        directory=directory,
        options=hg.Options(checkpoint_every=3),
        **changes,
    )


@pytest.fixture
def ones(monkeypatch):
    def made(key, wanted, draw=0):
        return [jnp.ones(shape, dtype) for _, shape, dtype in wanted]

    jax.clear_caches()
    for module in ("gaussian", "dense"):
        if hasattr(sys.modules[f"hushgrad.noise.{module}"], "standard_normals"):
            monkeypatch.setattr(sys.modules[f"hushgrad.noise.{module}"], "standard_normals", made)
    yield
    jax.clear_caches()


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_run_adds_the_matrix_noise(tmp_path, kind, ones):
    """Rows in order twice: the sums differ by noise alone, which draws of 1 make known."""
    strategy, seen = STRATEGIES[kind], []
    m = make(steps=8, noise_multiplier=4.0, strategy=strategy)
    train(m, tmp_path / "run", seed=1, callback=lambda p: seen.append(np.array(p.params)))
    steps = -np.diff(np.array(seen), axis=0, prepend=0) * 10 / 4.0
    matrix = strategy.matrix[:8, :8] if kind == "dense" else lower_of(strategy, 8)
    made = np.linalg.solve(matrix, np.ones(8))
    clipped = steps - made[:, None]
    np.testing.assert_allclose(clipped[:4], clipped[4:], atol=1e-4)
    assert np.ptp(made) > 0.1


def lower_of(strategy, steps: int) -> np.ndarray:
    """The matrix by its columns as the strategy tells them."""
    made = np.zeros((steps, steps))
    for start in range(steps):
        if isinstance(strategy, noise.Banded):
            column = strategy.columns[start]
        elif isinstance(strategy, noise.BLT):
            column = strategy.coefficients(steps)
        else:
            column = np.asarray(strategy.coefficients)
        column = column[: steps - start]
        made[start : start + len(column), start] = column
    return made


@pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(make(strategy=STRATEGIES["toeplitz"]), id="toeplitz"),
        pytest.param(make(strategy=STRATEGIES["blt"]), id="blt", marks=pytest.mark.slow),
        pytest.param(make(strategy=STRATEGIES["dense"]), id="dense"),
        pytest.param(
            hg.dp_banded(**PLAIN, steps=12, noise_multiplier=1.0, bands=3), id="cyclic banded"
        ),
    ],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(mechanism, tmp_path):
    whole = train(mechanism, tmp_path / "whole", seed=1)
    for stop in (5, 10):

        def callback(progress, stop=stop):
            if progress.step == stop:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(mechanism, tmp_path / "run", seed=1, callback=callback)
    run = train(mechanism, tmp_path / "run", seed=1)
    np.testing.assert_array_equal(run.params, whole.params)
    assert run.epsilon == mechanism.epsilon()


def test_choices_keep_epsilon_and_come_by_their_error():
    plan = {"examples": 2000, "batch_size": 100, "epochs": 2, "epsilon": 3.0, "delta": 1e-5}
    found = hg.choices(**plan, min_separation=10, max_participations=2)
    errors = [one.squared_error for one in found]
    assert errors == sorted(errors)
    assert all(one.mechanism.steps == 40 for one in found)
    assert all(2.98 < one.mechanism.epsilon() <= 3.0 for one in found)
    memory = {(one.name, one.batches): one.memory for one in found}
    assert memory[("DP-SGD", "random draws")] == memory[("Dense", "rows in order")] == 0
    assert memory[("BLT", "rows in order")] == 4
    assert memory[("Toeplitz", "rows in order")] == 19
    for one in found:
        if one.name.startswith("DP-SGD"):
            wanted = one.mechanism.noise_multiplier**2 * 41 / 2
            assert one.squared_error == pytest.approx(wanted)
            assert one.error == math.sqrt(one.squared_error)
    kinds = {one.batches for one in found}
    assert kinds == {"random draws", "rows in order", "shuffled rows", "whoever comes"}
    assert {one.batches for one in hg.choices(**plan)} == kinds - {"whoever comes"}
