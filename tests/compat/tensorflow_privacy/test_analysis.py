"""TensorFlow Privacy's other accountants."""

import itertools
import math
import time

import dp_accounting
import numpy as np
import pytest

from hushgrad.compat.tensorflow_privacy.privacy.analysis import (
    compute_noise_from_budget_lib,
    gdp_accountant,
    rdp_accountant,
    tree_aggregation_accountant,
)

ORDERS = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
trees = tree_aggregation_accountant


def sum_of_squares(max_participation, min_separation, steps):
    """The largest sum of squared sensitivities over a tree's nodes: 2 rho at noise 1."""
    return 2 * trees.compute_zcdp_single_tree(1.0, steps, max_participation, min_separation)


def by_trying_all(turns, apart, steps):
    """The same, over every choice of the steps that an example is in."""
    found = 0
    for count in range(turns + 1):
        for chosen in itertools.combinations(range(steps), count):
            if any(b - a < apart for a, b in itertools.pairwise(chosen)):
                continue
            total, start = 0, 0
            for height in reversed(range(steps.bit_length())):
                if not steps >> height & 1:
                    continue
                for level in range(height + 1):
                    hits = np.bincount(
                        [(c - start) >> level for c in chosen if start <= c < start + (1 << height)]
                        or [0],
                    )
                    total += (
                        int((hits**2).sum())
                        if any(start <= c < start + (1 << height) for c in chosen)
                        else 0
                    )
                start += 1 << height
            found = max(found, total)
    return found


@pytest.mark.parametrize(
    ("max_participation", "min_separation", "steps", "expected"),
    [
        # TensorFlow Privacy's tests; the last shows that greedy choices are not the worst.
        (1, 7, 8, 4),
        (3, 3, 9, 11),
        (3, 2, 7, 9),
        (8, 2, 24, 88),
        # A step for each leaf.
        *((turns, 0, 8, 120) for turns in (8, 11, 19, 200)),
        *((2, 0, steps, 2 + 4 * (steps.bit_length() - 1)) for steps in (3, 8, 11, 19)),
        # Computed once by its code, in up to a minute each.
        (5, 9, 100, 71),
        (3, 2, 8, 20),
        (5, 99, 1000, 82),
        (10, 100, 2048, 366),
        # Nobody takes part.
        (0, 3, 8, 0),
        (3, 3, 0, 0),
    ],
)
def test_the_worst_turns_in_a_tree(max_participation, min_separation, steps, expected):
    assert sum_of_squares(max_participation, min_separation, steps) == expected


@pytest.mark.parametrize("steps", [3, 8, 11, 19])
def test_an_example_in_every_step(steps):
    heights = [height for height in range(steps.bit_length()) if steps >> height & 1]
    expected = sum(2**height * (2 ** (height + 1) - 1) for height in heights)
    assert sum_of_squares(steps, 0, steps) == expected


def test_the_worst_turns_are_the_worst_of_all():
    for steps, turns, separation in itertools.product((5, 8, 11, 14), (1, 2, 3, 4), (0, 1, 2, 4)):
        expected = by_trying_all(turns, separation + 1, steps)
        assert sum_of_squares(turns, separation, steps) == expected, (steps, turns, separation)


def test_a_tree_is_accounted_for_at_once():
    # TensorFlow Privacy takes 17 and 64 seconds of CPU; 0.01 was measured, and a busy
    # machine has a second.
    start = time.process_time()
    trees.compute_rdp_single_tree(1.0, 1000, 5, 99, ORDERS)
    trees.compute_rdp_single_tree(1.0, 2048, 10, 100, ORDERS)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("noise_multiplier", "expected"), [(1.13, 18.709609893772754), (8.83, 1.7731924496178202)]
)
def test_one_pass_through_a_tree(noise_multiplier, expected):
    rdp = trees.compute_rdp_tree_restart(noise_multiplier, 1600, ORDERS)
    assert rdp_accountant.get_privacy_spent(ORDERS, rdp, target_delta=1e-6)[0] == pytest.approx(
        expected, rel=1e-9
    )
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(noise_multiplier, [1600])
    reference = dp_accounting.rdp.RdpAccountant(
        ORDERS, dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    assert reference.compose(event).get_epsilon(1e-6) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [[400] * 4, [800] * 2, [10, 400, 400, 400, 390], [0, 7]])
def test_trees_add_up(steps):
    together = trees.compute_rdp_tree_restart(0.1, steps, 1)
    assert isinstance(together, float)
    each = [trees.compute_rdp_tree_restart(0.1, [s, 0], 1) if s else 0.0 for s in steps]
    assert together == pytest.approx(sum(each), rel=1e-12)
    assert trees.compute_rdp_tree_restart(0.1, [1] * 100, ORDERS) == pytest.approx(
        [100 * order / (2 * 0.1**2) for order in ORDERS], rel=1e-12
    )


def test_one_tree_and_restarts_agree_on_one_pass():
    single = trees.compute_rdp_single_tree(1.3, 1000, 1, 999, ORDERS)
    assert single == pytest.approx(trees.compute_rdp_tree_restart(1.3, 1000, ORDERS))
    assert trees.compute_rdp_single_tree(1.3, 1000, 1, 999, 2.0) == pytest.approx(10 * 2 / 3.38)


def test_no_noise_is_no_privacy():
    assert trees.compute_rdp_tree_restart(0.0, 8, ORDERS) == math.inf
    assert trees.compute_rdp_single_tree(0, 8, 1, 1, ORDERS) == math.inf
    assert trees.compute_zcdp_single_tree(0, 8, 1, 1) == math.inf


@pytest.mark.parametrize(
    "call",
    [
        lambda: trees.compute_rdp_tree_restart(-1, 3, 1),
        lambda: trees.compute_rdp_tree_restart(math.nan, 3, 1),
        lambda: trees.compute_rdp_tree_restart(1, [], 1),
        lambda: trees.compute_rdp_tree_restart(1, 0, 1),
        lambda: trees.compute_rdp_tree_restart(1, -3, 1),
        lambda: trees.compute_rdp_single_tree(-1, 3, 1, 1, 1),
        lambda: trees.compute_rdp_single_tree(0.1, -3, 1, 1, 1),
        lambda: trees.compute_rdp_single_tree(0.1, 3, -1, 1, 1),
        lambda: trees.compute_rdp_single_tree(0.1, 3, 1, -1, 1),
        lambda: trees.compute_zcdp_single_tree(0.1, 3, 1, -1),
    ],
)
def test_impossible_trees_are_refused(call):
    with pytest.raises(ValueError, match="must be"):
        call()


def test_renyi_divergences():
    orders = (1.5, 2.5, 5, 50, 100, math.inf)
    expected = [6.70579741e-4, 1.08548710e-3, 2.18075656e-3, 2.38460375e-2, 167.416308, math.inf]
    assert rdp_accountant.compute_rdp(0.01, 2.5, 50, orders) == pytest.approx(expected, rel=1e-4)
    assert rdp_accountant.compute_rdp(0.01, 2.5, 50, 5) == pytest.approx(2.18075656e-3, rel=1e-4)
    assert rdp_accountant.compute_rdp(1.0, 2.0, 3, [3.0]) == pytest.approx([3 * 3 / 8])
    assert rdp_accountant.compute_rdp(0, 2.0, 3, [3.0]) == pytest.approx([0])
    assert rdp_accountant.compute_rdp(0.1, 0.0, 3, [3.0])[0] == math.inf
    assert rdp_accountant.compute_rdp(0.1, 0.0, 0, [3.0])[0] == 0


def test_what_divergences_are_worth():
    orders, rdp = np.arange(2, 33), np.full(31, 1.1)
    spent = rdp_accountant.get_privacy_spent(orders, rdp, target_delta=1e-5)
    assert spent == (pytest.approx(1.32783806176), 1e-5, 32)
    epsilon, delta, order = rdp_accountant.get_privacy_spent(orders, rdp, target_eps=1.32783806176)
    assert (epsilon, delta, order) == (1.32783806176, pytest.approx(1e-5), 32)
    with pytest.raises(ValueError, match="exactly one"):
        rdp_accountant.get_privacy_spent(orders, rdp)
    with pytest.raises(ValueError, match="exactly one"):
        rdp_accountant.get_privacy_spent(orders, rdp, 1.0, 1e-5)
    with pytest.raises(ValueError, match="orders and rdp"):
        rdp_accountant.get_privacy_spent(orders, rdp[:3], target_delta=1e-5)
    for wrong in ((-0.1, 1.0, 1, [2]), (0.1, -1.0, 1, [2]), (0.1, 1.0, -1, [2]), (0.1, 1, 1, [1])):
        with pytest.raises(ValueError, match="must be"):
            rdp_accountant.compute_rdp(*wrong)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Round trips through `compute_dp_sgd_privacy`'s numbers.
        ((60000, 150, 0.7242234026109595, 15, 1e-5, 1e-5), 1.3),
        ((100000, 100, 1.4154988495444842, 30, 1e-7, 1e-6), 1.0),
        ((100000000, 1024, 5907982.3113984, 10, 1e-7, 1e-5), 0.1),
    ],
)
def test_noise_for_a_budget(arguments, expected, capsys):
    found = compute_noise_from_budget_lib.compute_noise(*arguments)
    assert found == pytest.approx(expected, rel=1e-6)
    assert "satisfies differential privacy" in capsys.readouterr().out
    n, batch_size, target, epochs, delta, _ = arguments
    steps = math.ceil(epochs * n / batch_size)
    rdp = rdp_accountant.compute_rdp(
        batch_size / n, found, steps, compute_noise_from_budget_lib.ORDERS
    )
    orders = list(compute_noise_from_budget_lib.ORDERS)
    assert rdp_accountant.get_privacy_spent(orders, rdp, target_delta=delta)[0] <= target


def test_a_budget_that_the_least_noise_keeps_is_not_answered_with_no_noise():
    # TensorFlow Privacy returns 0 here.
    found = compute_noise_from_budget_lib.compute_noise(
        100000000, 1024, 5907984.81339406, 10, 1e-7, 1
    )
    assert found == 1


def test_budgets_that_no_noise_keeps_are_refused():
    # Conversion from Renyi's divergences alone costs more than this.
    with pytest.raises(ValueError, match="kept by no noise"):
        compute_noise_from_budget_lib.compute_noise(1000, 100, 1e-9, 1, 1e-30, 1.0)
    with pytest.raises(ValueError, match="batch size"):
        compute_noise_from_budget_lib.compute_noise(10, 11, 1.0, 1, 1e-5, 1.0)
    with pytest.raises(ValueError, match="noise_lbd"):
        compute_noise_from_budget_lib.compute_noise(10, 1, 1.0, 1, 1e-5, 0.0)


@pytest.mark.parametrize(
    ("setting", "mu_poisson", "eps_poisson", "mu_uniform", "eps_uniform"),
    [
        ((15, 1.3, 60000, 256, 1e-5), 0.227274167, 0.834462903, 0.284710682, 1.068493732),
        ((60, 1.1, 60000, 256, 1e-5), 0.573591273, 2.324315268, None, 3.086770036),
        ((20, 0.55, 800167, 10000, 1e-6), 2.562443207, 14.900344672, None, None),
    ],
)
def test_gaussian_privacy_by_the_central_limit(
    setting, mu_poisson, eps_poisson, mu_uniform, eps_uniform
):
    gdp, run = gdp_accountant, setting[:4]
    assert gdp.compute_mu_poisson(*run) == pytest.approx(mu_poisson, rel=1e-8)
    assert gdp.compute_eps_poisson(*setting) == pytest.approx(eps_poisson, rel=1e-8)
    if mu_uniform:
        assert gdp.compute_mu_uniform(*run) == pytest.approx(mu_uniform, rel=1e-8)
    if eps_uniform:
        assert gdp.compute_eps_uniform(*setting) == pytest.approx(eps_uniform, rel=1e-8)
    back = gdp.delta_eps_mu(gdp.eps_from_mu(mu_poisson, 1e-5), mu_poisson)
    assert back == pytest.approx(1e-5, rel=1e-9)
