"""Noise from matrices: what streams is C^-1 z, it costs what brute force finds, and errs least."""

import itertools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from hushgrad import noise
from hushgrad.errors import InputError
from hushgrad.noise import (
    BLT,
    Banded,
    Dense,
    Independent,
    OncePerPass,
    Periodic,
    Spaced,
    Toeplitz,
    Tree,
    Workload,
)
from hushgrad.noise.columns import of_columns, of_series
from hushgrad.noise.series import root_coefficients, squared_error

ONCE = Spaced(1, 1)
STEPS = 24
FADING = Workload(0.8, 0.5, 0.1)
KINDS = {
    "toeplitz": lambda: Toeplitz.of(STEPS, 5),
    "toeplitz of one": lambda: Toeplitz.of(STEPS, 1),
    "blt": lambda: BLT.of(STEPS, 3, Spaced(3, 8)),
    "banded": lambda: Banded.of(STEPS, 6),
    "banded of one": lambda: Banded.of(STEPS, 1),
    "banded of two": lambda: Banded.of(STEPS, 2, FADING),
    "banded of all": lambda: Banded.of(STEPS, STEPS),
    "dense": lambda: Dense.of(STEPS),
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """One folder for all tests of a worker, nothing of the user's."""
    monkeypatch.setenv("HUSHGRAD_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "strategies"))


def key_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 2**32, 8, dtype=np.uint32)


def lower(columns: np.ndarray) -> np.ndarray:
    """A matrix from its columns, each from the diagonal down."""
    steps, bands = columns.shape
    made = np.zeros((steps, steps))
    for start, down in itertools.product(range(steps), range(bands)):
        if start + down < steps:
            made[start + down, start] = columns[start, down]
    return made


def matrix(strategy, steps: int = STEPS) -> np.ndarray:
    """C, apart from how the strategy streams."""
    if isinstance(strategy, Dense):
        return strategy.matrix
    if isinstance(strategy, Banded):
        return lower(strategy.columns)
    if isinstance(strategy, BLT):
        made = [1.0]
        for lag in range(1, steps):
            powers = np.array(strategy.decays) ** (lag - 1)
            made.append(float(np.array(strategy.scales) @ powers))
    else:
        made = [*strategy.coefficients, *[0.0] * steps][:steps]
    return np.tril(linalg.toeplitz(made))


def realised(transformation, params, steps: int) -> list:
    state, made = transformation.init(params), []
    step = jax.jit(lambda state, key: transformation.update(params, state, key=key))
    for number in range(steps):
        out, state = step(state, key_of(number))
        made.append(out)
    return made


def flat(made: list) -> np.ndarray:
    return np.array([np.concatenate([np.ravel(x) for x in jax.tree.leaves(one)]) for one in made])


@pytest.mark.parametrize("kind", KINDS)
def test_what_streams_is_the_inverse_times_independent_draws(kind):
    strategy = KINDS[kind]()
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2)), "whole": jnp.zeros(2, jnp.int32)}
    drawn = flat(realised(noise.gaussian(2.0), params, STEPS))
    made = flat(realised(strategy.transformation(2.0, STEPS), params, STEPS))
    assert np.abs(drawn).min(axis=0)[:-2].min() > 0
    np.testing.assert_allclose(matrix(strategy) @ made, drawn, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_variances_are_of_prefix_sums(kind):
    strategy = KINDS[kind]()
    sums = np.cumsum(np.linalg.inv(matrix(strategy)), axis=0)
    np.testing.assert_allclose(strategy.variances(STEPS), (sums**2).sum(axis=1), rtol=1e-5)
    assert strategy.error(STEPS, ONCE) == pytest.approx(
        np.linalg.norm(matrix(strategy), axis=0).max() * np.sqrt((sums**2).sum() / STEPS), rel=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_as_plain_data_and_back(kind):
    strategy = KINDS[kind]()
    again = noise.from_dict(strategy.to_dict())
    assert again == strategy
    assert hash(again) == hash(strategy)
    assert kind.startswith(strategy.kind)
    assert "1.5" in strategy.describe(1.5)


def brute(strategy_matrix: np.ndarray, pattern) -> float:
    """The worst set of steps, one by one, with the worst signs."""
    steps = len(strategy_matrix)
    gram, worst = np.abs(strategy_matrix.T @ strategy_matrix), 0.0
    for many in range(1, steps + 1):
        for chosen in itertools.combinations(range(steps), many):
            gaps = np.diff(chosen)
            if isinstance(pattern, Spaced):
                allowed = many <= pattern.turns and bool(np.all(gaps >= pattern.apart))
            elif isinstance(pattern, Periodic):
                first = chosen[0]
                allowed = first < pattern.length and chosen == tuple(
                    range(first, steps, pattern.length)
                )
            else:
                allowed = len({step // pattern.length for step in chosen}) == many
            if allowed:
                worst = max(worst, gram[np.ix_(chosen, chosen)].sum())
    return float(np.sqrt(worst))


_PATTERNS = st.one_of(
    st.builds(Spaced, st.integers(1, 4), st.integers(1, 5)),
    st.builds(OncePerPass, st.integers(1, 5)),
    st.builds(Periodic, st.integers(1, 5)),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), _PATTERNS, st.integers(0, 2**32 - 1))
def test_sensitivity_covers_the_worst_steps(steps, bands, pattern, seed):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(steps, bands))
    truth = brute(lower(columns), pattern)
    found = of_columns(columns, pattern)
    assert found >= truth
    if isinstance(pattern, Periodic) or (isinstance(pattern, Spaced) and bands <= pattern.apart):
        assert found == pytest.approx(truth, rel=1e-5)
    series = rng.normal(size=bands)
    truth = brute(lower(np.tile(series, (steps, 1))), pattern)
    assert of_series(series, steps, pattern) >= truth
    falling = np.sort(rng.random(bands))[::-1]
    truth = brute(lower(np.tile(falling, (steps, 1))), pattern)
    found = of_series(falling, steps, pattern)
    assert found >= truth
    if not isinstance(pattern, OncePerPass):
        assert found == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", [ONCE, Spaced(3, 6), Periodic(8), OncePerPass(8)], ids=str)
def test_the_cost_of_each_kind_is_computed_for_the_pattern(kind, pattern):
    # Few enough steps for brute force: the run may end before the strategy does.
    strategy = KINDS[kind]()
    truth = brute(matrix(strategy)[:12, :12], pattern)
    found = strategy.sensitivity(12, pattern)
    assert truth <= found * (1 + 1e-6)
    if not isinstance(pattern, OncePerPass):
        assert found == pytest.approx(truth, rel=0.1)


def test_columns_of_a_banded_matrix_have_unit_norm():
    for bands in (1, 2, 7, 50):
        columns = Banded.of(50, bands).columns
        np.testing.assert_allclose(np.linalg.norm(columns, axis=1), 1, rtol=1e-12)
        assert Banded.of(50, bands).sensitivity(50, Spaced(7, bands)) == pytest.approx(
            np.sqrt(min(7, -(-50 // bands))), rel=1e-5
        )


def test_the_square_root_of_prefix_sums_has_its_closed_form():
    # binom(2k, k) / 4^k, its own inverse up to signs; squares on both sides bound the error.
    steps = 512
    root = Toeplitz.root(steps)
    square = np.convolve(root.coefficients, root.coefficients)[:steps]
    np.testing.assert_allclose(square, 1, rtol=1e-5)
    norm = float(np.sum(root_coefficients(steps) ** 2))
    # Henzinger, Upadhyay and Upadhyay 2023 (arXiv 2211.05006): 1 + (0.57722 + ln n) / pi at most.
    assert norm <= 1 + (np.euler_gamma + np.log(steps)) / np.pi
    # The last sum's noise is a row of the same root: the largest error is the norm squared.
    assert root.variances(steps)[-1] == pytest.approx(norm, rel=1e-5)
    assert root.sensitivity(steps, ONCE) ** 2 == pytest.approx(norm, rel=1e-5)
    mean = np.sum(np.arange(steps, 0, -1) * root_coefficients(steps) ** 2) / steps
    assert root.error(steps, ONCE) == pytest.approx(np.sqrt(norm * mean), rel=1e-5)


@pytest.mark.parametrize("workload", [Workload(), Workload(0.9), FADING, Workload(0, 0.3, 0.0)])
def test_the_error_of_a_workload_and_its_slopes(workload):
    c = root_coefficients(6)
    inverse = np.linalg.inv(np.tril(linalg.toeplitz(np.pad(c, (0, STEPS - 6)))))
    truth = np.sum((workload.matrix(STEPS) @ inverse) ** 2)
    error, slopes = squared_error(c, workload, STEPS)
    assert error == pytest.approx(truth, rel=1e-12)
    for place, slope in enumerate(slopes):
        moved = 1e-6 * np.eye(6)[place]
        up, down = (squared_error(c + by, workload, STEPS)[0] for by in (moved, -moved))
        assert slope == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_a_workload_is_the_optimizers_iterates():
    workload = Workload(0.8, 0.5, 0.2)
    held, at, made = np.zeros(10), np.zeros(10), []
    for step, rate in enumerate(workload.rates(10)):
        held = 0.8 * held + np.eye(10)[step]
        at = at + rate * held
        made.append(at)
    np.testing.assert_allclose(workload.matrix(10), made, rtol=1e-12)
    np.testing.assert_allclose(workload.rates(10), [1] * 5 + [0.84, 0.68, 0.52, 0.36, 0.2])


@pytest.mark.parametrize("steps", [240, 1000, 5000])
def test_a_search_that_meets_infinity_goes_on(steps):
    """Two bands: the error is finite but huge beyond a ratio of 1, where a first step may lead."""
    ratio = np.linspace(0.5, 0.99, 50)
    pairs = np.stack([np.ones(50), ratio], 1) / np.sqrt(1 + ratio[:, None] ** 2)
    errors = [Toeplitz(tuple(pair)).error(steps, ONCE) for pair in pairs]
    assert Toeplitz.of(steps, 2).error(steps, ONCE) <= min(errors) * (1 + 1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 30, 200])
def test_optimised_matrices_err_less_than_what_was_known_before(steps):
    tree, alone = Tree().error(steps, ONCE), Independent().error(steps, ONCE)
    best = Dense.of(steps).error(steps, ONCE)
    assert best <= min(tree, alone) * (1 + 1e-3)
    for bands in (1, 2, 4, 8, 16, 32, steps):
        found = Banded.of(steps, bands).error(steps, ONCE)
        assert found <= alone * (1 + 2e-6)
        assert found <= Toeplitz.of(steps, bands).error(steps, ONCE) * (1 + 2e-6)
        assert best <= found * (1 + 1e-3)
    assert Banded.of(steps, steps).error(steps, ONCE) <= tree * (1 + 2e-6)
    assert BLT.of(steps, 4).error(steps, ONCE) <= min(tree, alone) * (1 + 2e-6)


@pytest.mark.parametrize("bands", [1, 2, 4, 8, 16, 32, 50, 64])
def test_banded_errs_less_than_independent_noise_and_soon_less_than_a_tree(bands):
    # Somebody takes part 4 times, 64 steps apart: the tree in its best form. One band is
    # independent noise, which no choice makes as good as a tree in so many steps.
    steps, pattern = 256, Spaced(4, 64)
    found = Banded.of(steps, bands).error(steps, pattern)
    assert found <= Independent().error(steps, pattern) * (1 + 2e-6)
    if bands >= 16:
        assert found <= Tree.for_run(steps, pattern, Workload()).error(steps, pattern)


def test_the_workload_is_what_is_optimised():
    steps = 100
    plain, fading = Banded.of(steps, 8), Banded.of(steps, 8, FADING)

    def error(strategy, workload):
        held = workload.matrix(steps) @ np.linalg.inv(lower(strategy.columns))
        return np.sum(held**2)

    assert error(fading, FADING) < 0.99 * error(plain, FADING)
    assert error(plain, Workload()) < 0.99 * error(fading, Workload())


@pytest.mark.parametrize("pattern", [Spaced(3, 8), Periodic(8), OncePerPass(8)], ids=str)
def test_a_dense_matrix_is_found_for_the_pattern(pattern):
    made = Dense.of(STEPS, pattern)
    turns = 3
    assert made.sensitivity(STEPS, pattern) == pytest.approx(np.sqrt(turns), rel=2e-3)
    for other in (Independent(), Banded.of(STEPS, 8)):
        if not isinstance(pattern, OncePerPass):
            assert made.error(STEPS, pattern) <= other.error(STEPS, pattern) * (1 + 1e-3)


@pytest.mark.parametrize("pattern", [Spaced(4, 8), Periodic(8), OncePerPass(8)], ids=str)
def test_a_run_that_is_stopped_costs_no_more(pattern):
    """Columns cut off are less orthogonal, but who sees less knows no more."""
    made = Dense.of(29, pattern)
    spent = [made.sensitivity(steps, pattern) for steps in range(1, 30)]
    assert max(spent) == spent[-1]


def test_turns_of_known_steps_need_not_move_as_much_as_each_other():
    """A column of less norm where another of the same period has more: 1 % and more is won."""
    pattern = Periodic(8)
    free, alike = Dense.of(32, pattern), Dense.of(32, Spaced(4, 8))
    assert np.ptp(np.linalg.norm(free.matrix, axis=0)) > 0.2
    assert np.sum(free.matrix**2, axis=0)[:8] + sum(
        np.sum(free.matrix**2, axis=0)[8 * turn : 8 * turn + 8] for turn in (1, 2, 3)
    ) == pytest.approx(4, rel=2e-3)
    assert free.error(32, pattern) < 0.995 * alike.error(32, pattern)


@pytest.mark.parametrize("kind", [Toeplitz, BLT, Banded, Dense, Tree, Independent])
@pytest.mark.parametrize("pattern", [ONCE, Spaced(3, 8), Periodic(8)], ids=str)
def test_each_kind_chooses_for_a_run(kind, pattern):
    made = kind.for_run(STEPS, pattern, Workload())
    assert isinstance(made, kind)
    assert made.error(STEPS, pattern) <= Independent().error(STEPS, pattern) * 1.5


def test_what_was_found_is_kept_and_read_again(monkeypatch, tmp_path):
    monkeypatch.setenv("HUSHGRAD_CACHE_DIR", str(tmp_path))
    first = Banded.of(20, 3)
    kept = list(tmp_path.rglob("*.npy"))
    assert len(kept) == 2  # with the Toeplitz matrix that the search starts from
    monkeypatch.setattr(sys.modules["hushgrad.noise.banded"], "_found", lambda *_: 1 / 0)
    assert Banded.of(20, 3) == first
    with pytest.raises(ZeroDivisionError):
        Banded.of(20, 4)


def test_a_broken_file_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("HUSHGRAD_CACHE_DIR", str(tmp_path))
    first = Toeplitz.of(20, 3)
    (kept,) = tmp_path.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:-7])
    assert Toeplitz.of(20, 3) == first
    np.save(kept, np.array([np.nan, 1, 1], np.float32))
    assert Toeplitz.of(20, 3) == first


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("HUSHGRAD_CACHE_DIR", str(tmp_path))
    assert Toeplitz.of(20, 3).error(20, ONCE) > 0


@pytest.mark.parametrize("kind", [Banded, Dense])
def test_no_noise_is_made_up_after_the_last_step(kind):
    strategy = kind.of(3, 2) if kind is Banded else kind.of(3)
    with pytest.raises(InputError, match=r"steps must be at most 3, .* got 4"):
        strategy.transformation(1.0, 4)
    for told in (lambda: strategy.sensitivity(4, ONCE), lambda: strategy.variances(4)):
        with pytest.raises(InputError, match=r"steps must be at most 3, .* got 4"):
            told()
    made = flat(realised(strategy.transformation(1.0, 3), jnp.zeros(4), 5))
    assert np.all(np.isfinite(made[:3]))
    assert np.all(np.isnan(made[3:]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_does_not_grow_with_the_steps(kind):
    strategy = KINDS[kind]()
    params = jnp.zeros(10_000)
    state = jax.eval_shape(strategy.transformation(1.0, STEPS).init, params)
    held = sum(leaf.size for leaf in jax.tree.leaves(state))
    copies = {"blt": 3, "dense": 0}.get(strategy.kind, max(1, (strategy.bands or 0) - 1))
    assert held <= copies * params.size + 8 * STEPS + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Toeplitz.of(0, 1), "steps must be"),
        (lambda: Toeplitz.of(5, 0), "bands must be"),
        (lambda: Banded.of(5, -1), "bands must be"),
        (lambda: BLT.of(5, 0), "buffers must be"),
        (lambda: Dense.of(1025), "steps must be at most 1,024 .*: use hushgrad.noise.banded"),
        (lambda: Workload(1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: Workload(0, 1.5), "cooldown_from must be in"),
        (lambda: Workload(0, 0.5, -1), "cooldown_to must be in"),
        (lambda: Toeplitz((0.0, 1.0)), "the first of them positive"),
        (lambda: Toeplitz((1.0, float("nan"))), "finite"),
        (lambda: Toeplitz(()), "coefficients must be"),
        (lambda: BLT((0.5,), (0.5, 0.1)), "as many as each other"),
        (lambda: BLT((1.0,), (0.5,)), "decays must be between"),
        (lambda: BLT((0.5,), (1.5,)), "together at most 1"),
        (lambda: Banded(4, 2, "no base 64"), "knots is not what a strategy wrote"),
        (lambda: Banded(4, 5, ""), "width must be at most steps"),
        (lambda: Banded(9, 2, Banded.of(4, 2).knots), "knots must hold"),
        (lambda: Dense(4, Dense.of(3).entries), "entries must hold 10 numbers"),
        (lambda: noise.banded(0.0, steps=3, bands=2), "stddev must be"),
        (lambda: noise.blt(-1.0, steps=3), "stddev must be"),
        (lambda: noise.toeplitz(float("inf"), steps=3, bands=2), "stddev must be"),
        (lambda: noise.dense(0, steps=3), "stddev must be"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: noise.banded(1.0, steps=3, bands=2),
        lambda: noise.toeplitz(1.0, steps=3, bands=2),
        lambda: noise.blt(1.0, steps=3),
        lambda: noise.dense(1.0, steps=3),
    ],
    ids=["banded", "toeplitz", "blt", "dense"],
)
def test_they_swap_with_gaussian_in_one_line(make):
    transformation, params = make(), jnp.ones((2, 3), jnp.bfloat16)
    out, state = transformation.update(params, transformation.init(params), key=key_of(1))
    assert out.shape == (2, 3)
    assert out.dtype == jnp.float32
    other, _ = transformation.update(params, transformation.init(params), key=key_of(2))
    assert np.all(np.asarray(out) != np.asarray(other))
    with pytest.raises(InputError, match="key is missing"):
        transformation.update(params, state)
