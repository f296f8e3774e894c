"""Tree noise: the published values, the right correlation, the cost of what takes part.

Keys are fixed, so these tests always give the same answer. Each bound is one that
true noise would miss with probability `ALARM` or less.
"""

import functools
import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from hushgrad import noise
from hushgrad.errors import InputError
from hushgrad.noise import OncePerPass, Periodic, Spaced, largest_sum

ALARM = 1e-6
SIZE = 2**16


def key_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 2**32, 8, dtype=np.uint32)


def run(transformation, updates, steps: int, *, key=key_of):
    """What each step gives, and the last state."""
    state, made = transformation.init(updates), []
    step = jax.jit(lambda u, s, k: transformation.update(u, s, key=k))
    for number in range(steps):
        out, state = step(updates, state, key(number))
        made.append(out)
    return made, state


@functools.cache
def noises(steps: int, **options) -> np.ndarray:
    made, _ = run(noise.tree(1.0, steps=steps, **options), jnp.zeros(SIZE), steps)
    return np.array(made, np.float64)


@pytest.fixture
def ones(monkeypatch):
    """Every node's noise is 1."""

    def made(key, wanted, draw=0):
        return [jnp.ones(shape, dtype) for _, shape, dtype in wanted]

    monkeypatch.setattr(sys.modules["hushgrad.noise.gaussian"], "standard_normals", made)


def test_sums_are_tensorflow_privacys(ones):
    # Its `EfficientTreeAggregator` with nodes of 1, as its own tests have it.
    made, _ = run(noise.tree(1.0, steps=1024), jnp.zeros(1), 1024)
    sums = np.cumsum(np.array(made, np.float64))
    expected = [1, 4 / 3, 7 / 3, 12 / 7, 19 / 7, 64 / 21, 85 / 21, 32 / 15]
    np.testing.assert_allclose(sums[:8], expected, rtol=1e-5)
    np.testing.assert_allclose(sums[-1], 11 / (2 - 2**-10), rtol=1e-4)


def test_a_new_tree_keeps_what_the_earlier_ones_added(ones):
    tree = noise.tree(1.0, steps=11, restart_every=4, first_restart=3)
    sums = np.cumsum(np.array(run(tree, jnp.zeros(1), 11)[0], np.float64))
    first, whole = [1, 4 / 3, 7 / 3], [1, 4 / 3, 7 / 3, 12 / 7]
    expected = [*first, *(7 / 3 + np.array(whole)), *(7 / 3 + 12 / 7 + np.array(whole))]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


@pytest.mark.parametrize(("steps", "room"), [(1, 1), (4, 7), (10, 15)])
def test_no_noise_is_made_up_where_there_is_no_room_for_it(steps, room):
    """Subtrees that could not be kept would be left out of later noise, which would be less."""
    made = np.array(run(noise.tree(1.0, steps=steps), jnp.zeros(4), 20)[0])
    whole = np.array(run(noise.tree(1.0, steps=20), jnp.zeros(4), 20)[0])
    np.testing.assert_array_equal(made[:room], whole[:room])
    assert np.isnan(made[room:]).all()


def test_the_variance_of_a_sum_is_that_of_the_best_estimate():
    assert noise.Tree().variances(8)[[3, 6, 7]] == pytest.approx([4 / 7, 4 / 7 + 2 / 3 + 1, 8 / 15])


@pytest.mark.parametrize("options", [{}, {"restart_every": 5, "first_restart": 2}])
def test_sums_have_the_variances_that_are_told(options):
    # The sum of n squares over the variance is chi-square with n degrees of freedom.
    steps = 13
    sums = np.cumsum(noises(steps, **options), axis=0)
    totals = (sums**2).sum(1) / noise.Tree(**options).variances(steps)
    low, high = stats.chi2.ppf(ALARM / 2, SIZE), stats.chi2.isf(ALARM / 2, SIZE)
    assert ((low < totals) & (totals < high)).all()


def test_all_sums_together_are_what_is_best_after_all_nodes():
    """The whole covariance: that of generalised least squares on the nodes known by then."""
    steps = 8
    sums = np.cumsum(noises(steps), axis=0)
    weights = np.array([_best_weights(t, steps) for t in range(1, steps + 1)])
    expected = weights @ weights.T
    found = sums @ sums.T / SIZE
    # A product of normals has at most variance 2 v_i v_j, by Isserlis.
    spread = np.sqrt(2 * np.outer(np.diag(expected), np.diag(expected)) / SIZE)
    assert (np.abs(found - expected) < stats.norm.isf(ALARM / (2 * steps**2)) * spread).all()


def _nodes(steps: int) -> list[tuple[int, int]]:
    return [
        (first, first + (1 << height))
        for height in range(steps.bit_length())
        for first in range(0, steps - (1 << height) + 1, 1 << height)
    ]


def _best_weights(made: int, steps: int) -> np.ndarray:
    """Of the nodes in the sum of the first `made` leaves, with the least variance."""
    nodes = _nodes(steps)
    known = np.array([end <= made for _, end in nodes])
    rows = np.array([[first <= leaf < end for leaf in range(made)] for first, end in nodes], float)
    rows = rows[known]
    best = np.ones(made) @ np.linalg.pinv(rows)
    weights = np.zeros(len(nodes))
    weights[known] = best
    return weights


def test_steps_and_nodes_have_noise_of_their_own():
    made = noises(8)
    for one, other in itertools.combinations(range(8), 2):
        assert not (made[one] == made[other]).any()
    # Two leaves in a row that no node joins: the sums' difference is the second leaf alone.
    correlation = np.corrcoef(made[0], made[2])[0, 1]
    assert abs(correlation) < stats.norm.isf(ALARM / 2) / math.sqrt(SIZE)


def test_noise_follows_from_the_keys_alone_and_goes_on_from_a_state():
    tree = noise.tree(2.0, steps=9)
    updates = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(4)}
    whole, _ = run(tree, updates, 9)
    _, state = run(tree, updates, 4)
    step = jax.jit(lambda u, s, k: tree.update(u, s, key=k))
    for number in range(4, 9):
        out, state = step(updates, state, key_of(number))
        jax.tree.map(np.testing.assert_array_equal, out, whole[number])
    other, _ = run(tree, updates, 9, key=lambda number: key_of(number + 100))
    assert not np.array_equal(other[0]["w"], whole[0]["w"])


def test_leaves_have_noise_of_their_own():
    (made,), _ = run(noise.tree(1.0, steps=1), {"a": jnp.zeros(SIZE), "b": jnp.zeros(SIZE)}, 1)
    correlation = np.corrcoef(made["a"], made["b"])[0, 1]
    assert abs(correlation) < stats.norm.isf(ALARM / 2) / math.sqrt(SIZE)


def test_the_sums_stay_and_integers_pass():
    updates = {"x": jnp.full(3, 7.0), "n": jnp.arange(3)}
    made, _ = run(noise.tree(1e-9, steps=5), updates, 5)
    for out in made:
        np.testing.assert_allclose(out["x"], 7, atol=1e-6)
        np.testing.assert_array_equal(out["n"], updates["n"])


def test_narrow_sums_get_wide_noise():
    made, state = run(noise.tree(1.0, steps=4), jnp.zeros(3, jnp.bfloat16), 4)
    assert made[-1].dtype == jnp.float32
    assert state.levels.shape == (3, 3)


def test_it_takes_the_place_of_gaussian_in_a_chain():
    chain = optax.chain(noise.tree(1.0, steps=4), optax.scale(0.5))
    out, _ = chain.update(jnp.zeros(3), chain.init(jnp.zeros(3)), key=key_of(0))
    (plain,), _ = run(noise.tree(1.0, steps=4), jnp.zeros(3), 1)
    np.testing.assert_allclose(out, plain / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stddev": 0.0}, "stddev must be a positive"),
        ({"steps": 0}, "steps must be"),
        ({"restart_every": 0}, "restart_every must be"),
        ({"first_restart": 3}, "first_restart must be at most restart_every"),
        ({"restart_every": 2, "first_restart": 3}, "first_restart must be at most restart_every"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    stddev = options.pop("stddev", 1.0)
    with pytest.raises(InputError, match=message):
        noise.tree(stddev, **{"steps": 8, **options})


@pytest.mark.parametrize("key", [None, jnp.zeros(4, jnp.uint32), jnp.zeros(8)])
def test_a_wrong_key_is_refused(key):
    tree = noise.tree(1.0, steps=2)
    with pytest.raises(InputError, match="key"):
        tree.update(jnp.zeros(2), tree.init(jnp.zeros(2)), key=key)


@pytest.mark.parametrize("strategy", [noise.Independent(), noise.Tree(), noise.Tree(6, 2)])
def test_a_strategy_is_plain_data(strategy):
    assert noise.from_dict(strategy.to_dict()) == strategy
    assert noise.STRATEGIES[strategy.kind] is type(strategy)


# What it costs.


@functools.cache
def every_way(trees: tuple[int, ...]) -> list[tuple[list[int], int]]:
    """All sets of steps, with the sum of squares over the nodes."""
    steps, start, nodes = sum(trees), 0, []
    for leaves in trees:
        for height in reversed(range(leaves.bit_length())):
            if leaves >> height & 1:
                size = 1 << height
                nodes += [(start + a, start + b) for a, b in _nodes(size)]
                start += size
    chosen = np.array(list(itertools.product((0, 1), repeat=steps)))
    below = np.array([[a <= t < b for a, b in nodes] for t in range(steps)], int)
    sums = ((chosen @ below) ** 2).sum(1)
    return [(np.flatnonzero(one).tolist(), total) for one, total in zip(chosen, sums, strict=True)]


def brute(trees: tuple[int, ...], allowed) -> int:
    return max(total for turns, total in every_way(trees) if allowed(turns))


def _spaced(pattern, turns) -> bool:
    near = any(b - a < pattern.apart for a, b in itertools.pairwise(turns))
    return len(turns) <= pattern.turns and not near


def _periodic(pattern, turns) -> bool:
    return all(b - a == pattern.length for a, b in itertools.pairwise(turns)) and (
        not turns or turns[0] < pattern.length
    )


def _once(pattern, turns) -> bool:
    return len({t // pattern.length for t in turns}) == len(turns)


ALLOWED = {Spaced: _spaced, Periodic: _periodic, OncePerPass: _once}
PATTERNS = [
    *(Spaced(turns, apart) for turns in (1, 2, 4) for apart in (1, 2, 3, 5)),
    *(kind(length) for kind in (Periodic, OncePerPass) for length in (1, 2, 3, 4, 5, 7)),
]


@pytest.mark.parametrize("trees", [(1,), (7,), (8,), (11,), (3, 3, 3, 1), (4, 5), (2, 7)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_largest_sum_is_that_over_all_ways_to_take_part(trees, pattern):
    allowed = functools.partial(ALLOWED[type(pattern)], pattern)
    assert largest_sum(trees, pattern) == brute(trees, allowed)


@pytest.mark.parametrize(
    ("turns", "apart", "steps", "squares"),
    [
        (1, 8, 8, 4),
        (3, 4, 9, 11),
        (3, 3, 7, 9),
        (8, 3, 24, 88),
        (8, 1, 8, 120),
        (10, 101, 2048, 366),
    ],
)
def test_the_largest_sum_is_tensorflow_privacys(turns, apart, steps, squares):
    # Its tests' values, and values that its code gave; it counts the steps in between.
    assert largest_sum((steps,), Spaced(turns, apart)) == squares


def test_gboards_run():
    # Kairouz et al. 2021 and the blog on Gboard: rho = 0.81 of zCDP.
    sensitivity = noise.Tree().sensitivity(2000, Spaced(6, 314))
    assert sensitivity**2 / (2 * 7**2) == pytest.approx(0.81, abs=0.005)


def test_sensitivity_grows_with_the_steps():
    for strategy, pattern in itertools.product(
        (noise.Tree(), noise.Tree(4)), (OncePerPass(5), Periodic(5), Spaced(3, 4))
    ):
        found = [strategy.sensitivity(steps, pattern) for steps in range(40)]
        assert found == sorted(found)
        assert found[0] == 0


def test_independent_noise_counts_the_turns():
    independent = noise.Independent()
    assert independent.sensitivity(10, Spaced(3, 2)) == math.sqrt(3)
    assert independent.sensitivity(10, Spaced(30, 4)) == math.sqrt(3)
    assert independent.sensitivity(10, OncePerPass(4)) == math.sqrt(3)
    assert independent.sensitivity(10, Periodic(4)) == math.sqrt(3)
