"""Faults of `dp_accounting` 0.6 that cannot be reached: each is shown, then not there.

Where a test's first half fails, a newer `dp_accounting` has mended the fault.
"""

import math

import dp_accounting as dpa
import pytest
from dp_accounting import dp_event, pld, rdp

from hushgrad import accounting

REPLACE = dpa.NeighboringRelation.REPLACE_ONE


def test_renyi_bounds_overlook_that_replacing_moves_twice():
    event = dpa.GaussianDpEvent(1.0)
    theirs = rdp.RdpAccountant(neighboring_relation=REPLACE).compose(event).get_epsilon(1e-5)
    assert theirs < 4.8
    exact = accounting.epsilon_interval(event, 1e-5, relation="replace-one")
    assert exact.lower > 9.9
    assert accounting.epsilon(event, 1e-5, "rdp", relation="replace-one") >= exact.upper


def test_and_without_replacement():
    def event(noise):
        one = dpa.SampledWithoutReplacementDpEvent(1000, 10, dpa.GaussianDpEvent(noise))
        return dpa.SelfComposedDpEvent(one, 100)

    def theirs(noise):
        accountant = rdp.RdpAccountant(neighboring_relation=REPLACE)
        return accountant.compose(event(noise)).get_epsilon(1e-5)

    ours = accounting.epsilon(event(2.0), 1e-5, "rdp", relation="replace-one")
    assert ours == pytest.approx(theirs(1.0), rel=1e-9)
    assert ours > 1.5 * theirs(2.0)


def test_a_count_of_randomised_responses_is_forgotten():
    one = dpa.RandomizedResponseDpEvent(0.5, 2)
    many = dpa.SelfComposedDpEvent(one, 100)
    theirs = pld.PLDAccountant(REPLACE).compose(many).get_epsilon(1e-5)
    assert theirs == pytest.approx(math.log(3), abs=1e-2)
    assert accounting.epsilon(many, 1e-5, relation="replace-one") == pytest.approx(90.79, abs=0.5)
    listed = dpa.ComposedDpEvent([one] * 100)
    want = accounting.epsilon(listed, 1e-5, relation="replace-one")
    assert accounting.epsilon(many, 1e-5, relation="replace-one") == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_an_integer_noise_multiplier_hides_what_is_beside_it(accountant):
    def event(first):
        both = dpa.ComposedDpEvent([dpa.GaussianDpEvent(first), dpa.GaussianDpEvent(0.1)])
        return dpa.PoissonSampledDpEvent(0.01, both)

    theirs = rdp.RdpAccountant()
    assert theirs.compose(event(1)).get_epsilon(1e-5) < 1
    ours = [accounting.epsilon(event(first), 1e-5, accountant) for first in (1, 1.0)]
    assert ours[0] == ours[1] > 50


def test_a_grid_too_coarse_for_much_noise():
    event = accounting.poisson_gaussian(0.001, 100.0, 10**6)
    assert pld.PLDAccountant().compose(event).get_epsilon(1e-5) > 0.08
    assert accounting.epsilon(event, 1e-5) < 0.0273


def test_no_answer_at_a_tiny_delta():
    event = accounting.poisson_gaussian(0.01, 1.0, 1000)
    assert pld.PLDAccountant().compose(event).get_epsilon(1e-16) == math.inf
    low, high = accounting.epsilon_interval(event, 1e-16)
    assert 5 < low < high < 1.001 * low


@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
def test_other_events_keep_their_counts(relation):
    """Composed n times, or listed n times."""
    events = [dpa.LaplaceDpEvent(3.0)]
    if relation == "add-or-remove-one":
        events += [
            dpa.PoissonSampledDpEvent(0.1, dpa.LaplaceDpEvent(2)),
            dpa.TruncatedSubsampledGaussianDpEvent(1000, 0.01, 20, 2.0),
        ]
    for event in events:
        counted = dpa.SelfComposedDpEvent(event, 8)
        listed = dpa.ComposedDpEvent([event] * 8)
        costs = [accounting.epsilon(e, 1e-6, relation=relation) for e in (counted, listed, event)]
        assert costs[0] == pytest.approx(costs[1], rel=1e-3)
        assert costs[0] > 1.5 * costs[2]


def test_selection_over_many_runs():
    """Papernot and Steinke 2022: some more than one run, far less than all of them."""
    one = accounting.poisson_gaussian(0.01, 1.0, 500)
    chosen = dp_event.RepeatAndSelectDpEvent(one, 10, 1)
    alone = accounting.epsilon(one, 1e-5, "rdp")
    tuned = accounting.epsilon(chosen, 1e-5, "rdp")
    assert alone < tuned < 5 * alone
    # An integer noise multiplier inside hides nothing either.
    both = dpa.ComposedDpEvent([dpa.GaussianDpEvent(1), dpa.GaussianDpEvent(0.1)])
    hidden = dp_event.RepeatAndSelectDpEvent(dpa.PoissonSampledDpEvent(0.01, both), 10, 1)
    assert accounting.epsilon(hidden, 1e-5, "rdp") > 50
    bare = dp_event.RepeatAndSelectDpEvent(dpa.GaussianDpEvent(0.0), 10, 1)
    assert accounting.epsilon(bare, 1e-5, "rdp") == math.inf
