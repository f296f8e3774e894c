"""The accountants: never below the truth, close above it, and nothing taken on trust."""

import math
from types import SimpleNamespace

import dp_accounting as dpa
import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

import hushgrad as hg
from hushgrad import accounting
from hushgrad.accounting import poisson_gaussian
from hushgrad.errors import InputError

ACCOUNTANTS = ["pld", "rdp"]


def epsilon(rate, noise, steps, delta=1e-5, accountant="pld"):
    return accounting.epsilon(poisson_gaussian(rate, noise, steps), delta, accountant)


def gaussian_delta(noise: float, eps: float) -> float:
    """Balle & Wang 2018 (arXiv 1805.06530), theorem 8, at sensitivity 1: exact."""
    a, b = 1 / (2 * noise), eps * noise
    return stats.norm.cdf(a - b) - math.exp(eps + stats.norm.logcdf(-a - b))


def sampled_delta(rate: float, noise: float, eps: float) -> float:
    """One Poisson-sampled Gaussian release, exact.

    The example's presence turns N(0, s^2) into (1 - q) N(0, s^2) + q N(1, s^2). The
    ratio of the two grows with x, so each direction is one tail on each side of the
    point where it is e^eps or e^-eps.
    """

    def crossing(ratio: float) -> float:
        return 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate)

    def mixture(tail, x: float) -> float:
        return (1 - rate) * tail(x / noise) + rate * tail((x - 1) / noise)

    up, down = crossing(math.exp(eps)), -math.inf
    if math.exp(-eps) > 1 - rate:
        down = crossing(math.exp(-eps))
    removed = mixture(stats.norm.sf, up) - math.exp(eps) * stats.norm.sf(up / noise)
    added = stats.norm.cdf(down / noise) - math.exp(eps) * mixture(stats.norm.cdf, down)
    return max(removed, added)


def solved(delta_of, delta: float) -> float:
    return optimize.brentq(lambda eps: delta_of(eps) - delta, 1e-9, 600, xtol=1e-12)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("noise", [0.8, 1, 4.0])
def test_one_gaussian_against_the_closed_form(noise, delta):
    exact = solved(lambda eps: gaussian_delta(noise, eps), delta)
    tight = epsilon(1.0, noise, 1, delta)
    assert exact * (1 - 1e-9) <= tight <= exact * (1 + 1e-3)
    assert tight == pytest.approx(exact, abs=1e-3)
    assert exact <= epsilon(1.0, noise, 1, delta, "rdp") <= 1.3 * exact


@pytest.mark.parametrize("noise", [0.2, 0.05])
def test_little_noise_is_answered_soon_and_from_above(noise):
    exact = solved(lambda eps: gaussian_delta(noise, eps), 1e-5)
    assert exact <= epsilon(1.0, noise, 1) <= exact * (1 + 1e-3)


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 100), (30, 1000)])
def test_many_gaussians_are_one_with_less_noise(noise, steps):
    exact = solved(lambda eps: gaussian_delta(noise / math.sqrt(steps), eps), 1e-6)
    assert exact * (1 - 1e-9) <= epsilon(1, noise, steps, 1e-6) <= exact * (1 + 1e-3)
    assert exact <= epsilon(1, noise, steps, 1e-6, "rdp") <= 1.3 * exact


@pytest.mark.parametrize(
    ("rate", "noise", "delta"), [(0.01, 1.0, 1e-6), (0.1, 2.0, 1e-4), (0.5, 1.0, 1e-5)]
)
def test_one_sampled_gaussian_against_the_closed_form(rate, noise, delta):
    exact = solved(lambda eps: sampled_delta(rate, noise, eps), delta)
    assert exact * (1 - 1e-9) <= epsilon(rate, noise, 1, delta) <= exact * (1 + 1e-3)
    assert exact <= epsilon(rate, noise, 1, delta, "rdp")


@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0, 3.0])
def test_delta_against_the_closed_forms(eps):
    for accountant, slack in (("pld", 1e-3), ("rdp", math.inf)):
        one = accounting.delta(poisson_gaussian(1, 1.5, 1), eps, accountant)
        exact = gaussian_delta(1.5, eps)
        assert exact * (1 - 1e-9) <= one <= exact * (1 + slack)
    sampled = accounting.delta(poisson_gaussian(0.2, 1.5, 1), eps)
    exact = sampled_delta(0.2, 1.5, eps)
    assert exact * (1 - 1e-9) <= sampled <= exact * (1 + 1e-3)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_the_count_of_a_composed_event_is_not_lost(accountant):
    """An event has an `event` of its own, one release; the mechanism must cost all of them."""
    m = hg.dp_sgd(examples=1000, batch_size=10, steps=500, delta=1e-5, noise_multiplier=1.0)
    assert m.event.count == 500
    whole = m.epsilon(accountant=accountant)
    assert accounting.epsilon(m.event, 1e-5, accountant) == whole
    assert accounting.epsilon(m, 1e-5, accountant) == whole
    assert accounting.epsilon(SimpleNamespace(event=m.event), 1e-5, accountant) == whole
    sampled = dpa.PoissonSampledDpEvent(0.01, dpa.GaussianDpEvent(1.0))
    assert accounting.epsilon(dpa.SelfComposedDpEvent(sampled, 500), 1e-5, accountant) == whole
    assert accounting.delta(m.event, 1.0, accountant) == m.delta_at(1.0, accountant)
    assert whole > 1.3 * epsilon(0.01, 1.0, 100, accountant=accountant)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_integer_noise_costs_what_the_same_float_costs(accountant):
    want = epsilon(0.01, 2.0, 300, accountant=accountant)
    assert want > 0.1
    assert epsilon(0.01, 2, 300, accountant=accountant) == want
    sampled = dpa.PoissonSampledDpEvent(0.01, dpa.GaussianDpEvent(2))
    event = dpa.SelfComposedDpEvent(sampled, 300)
    assert accounting.epsilon(event, 1e-5, accountant) == want


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_an_integer_rate_of_one(accountant):
    want = epsilon(1.0, 5.0, 10, accountant=accountant)
    assert epsilon(1, 5.0, 10, accountant=accountant) == want > 1


def test_the_event_is_plain_data_in_floats():
    event = poisson_gaussian(1, 2, 3)
    gaussian = dpa.GaussianDpEvent(2.0)
    assert event == dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(1.0, gaussian), 3)
    assert type(event.event.sampling_probability) is float
    assert type(event.event.event.noise_multiplier) is float
    assert type(event.count) is int


# One change at a time from (0.01, 1.0, 1000): what costs more must come out as more.
CHEAPER_THAN_BASE = [(0.01, 1.1, 1000), (0.005, 1.0, 1000), (0.01, 1.0, 900)]
DEARER_THAN_BASE = [(0.01, 0.9, 1000), (0.02, 1.0, 1000), (0.01, 1.0, 1100)]


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_noise_steps_and_rate_count_in_the_right_direction(accountant):
    base = epsilon(0.01, 1.0, 1000, accountant=accountant)
    assert all(0 < epsilon(*x, accountant=accountant) < 0.97 * base for x in CHEAPER_THAN_BASE)
    assert all(epsilon(*x, accountant=accountant) > 1.03 * base for x in DEARER_THAN_BASE)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_a_smaller_delta_costs_more_epsilon(accountant):
    costs = [epsilon(0.01, 1.0, 1000, d, accountant) for d in (0.1, 1e-3, 1e-5, 1e-7, 1e-10)]
    assert costs == sorted(costs)
    assert costs[1] < costs[-1]


@settings(max_examples=15, deadline=None)
@given(
    rate=st.floats(1e-4, 0.5),
    noise=st.floats(0.6, 5),
    steps=st.integers(1, 20_000),
    factor=st.floats(1, 3),
)
def test_the_renyi_bound_is_monotone(rate, noise, steps, factor):
    base = epsilon(rate, noise, steps, accountant="rdp")
    room = 1 + 1e-6  # its orders are few, their numbers rounded
    assert 0 <= base < math.inf
    assert epsilon(rate, noise * factor, steps, accountant="rdp") <= base * room
    assert epsilon(rate, noise, math.ceil(steps * factor), accountant="rdp") * room >= base
    assert epsilon(min(1, rate * factor), noise, steps, accountant="rdp") * room >= base


@settings(max_examples=6, deadline=None)
@given(rate=st.floats(1e-3, 0.3), noise=st.floats(1, 4), steps=st.integers(1, 2000))
def test_the_tight_bound_is_below_the_renyi_bound(rate, noise, steps):
    loose = epsilon(rate, noise, steps, accountant="rdp")
    assert 0 <= epsilon(rate, noise, steps) <= loose * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta"),
    [(1e-4, 10.0, 1, 0.5), (1e-6, 3.0, 1, 1e-5), (0.01, 50.0, 1, 0.999), (1.0, 1000.0, 1, 0.1)],
)
def test_epsilon_is_never_negative(rate, noise, steps, delta, accountant):
    # At the last three delta covers everything; an unguarded bound comes out below zero.
    assert 0 <= epsilon(rate, noise, steps, delta, accountant) < 0.01


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("eps", [0, 0.5, 2.0, 50.0, 1e3])
def test_delta_is_a_probability(eps, accountant):
    assert 0 <= accounting.delta(poisson_gaussian(0.05, 0.7, 100), eps, accountant) <= 1


def test_delta_is_close_to_one_where_nothing_is_private():
    assert 0.99 < accounting.delta(poisson_gaussian(1.0, 0.3, 5), 0.0) <= 1
    assert 0.99 < accounting.delta(poisson_gaussian(1.0, 0.3, 5), 0.0, "rdp") <= 1


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_delta_falls_with_epsilon(accountant):
    event = poisson_gaussian(0.01, 1.0, 1000)
    found = [accounting.delta(event, eps, accountant) for eps in (0.0, 0.3, 1.0, 2.0, 4.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.1 * found[0]


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_delta_is_the_inverse_of_epsilon(delta, accountant):
    m = hg.dp_sgd(examples=1000, batch_size=20, steps=500, delta=1e-4, noise_multiplier=1.0)
    spent = m.epsilon(delta, accountant)
    assert m.delta_at(spent, accountant) == pytest.approx(delta, rel=1e-3)
    assert m.epsilon(m.delta_at(1.0, accountant), accountant) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_no_step_costs_nothing(accountant):
    assert epsilon(0.01, 1.0, 0, accountant=accountant) == 0
    assert accounting.delta(poisson_gaussian(0.01, 1.0, 0), 0.0, accountant) == 0


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("rate", "noise", "steps"),
    [
        *((-0.1, 1.0, 5), (1.1, 1.0, 5), (math.nan, 1.0, 5)),
        *((0.1, -1.0, 5), (0.1, math.nan, 5), (0.1, math.inf, 5), (0.1, 1.0, -5)),
    ],
)
def test_events_of_impossible_numbers_are_refused(rate, noise, steps, accountant):
    """NaN, above all, must not come out as nothing spent."""
    for question in (accounting.epsilon, accounting.delta):
        with pytest.raises(InputError):
            question(poisson_gaussian(rate, noise, steps), 1e-5, accountant)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_nobody_sampled_costs_nothing_and_no_noise_costs_everything(accountant):
    assert accounting.epsilon(poisson_gaussian(0.0, 1.0, 5), 1e-5, accountant) == 0
    for rate in (0.1, 1.0):
        bare = poisson_gaussian(rate, 0.0, 5)
        assert accounting.epsilon(bare, 1e-5, accountant) == math.inf
        assert accounting.delta(bare, 10.0, accountant) == 1
        assert accounting.epsilon_interval(bare, 1e-5) == (math.inf, math.inf)


def test_deltas_below_what_numbers_hold():
    """Below 1e-280 the Renyi bound answers."""
    for delta in (1e-100, 1e-300):
        loose = epsilon(0.01, 1.0, 10, delta, "rdp")
        assert 0 < epsilon(0.01, 1.0, 10, delta) <= loose < math.inf
    # Ten Gaussians move by sqrt(10) deviations: 5 + sqrt(10) * 37 and a little less.
    assert 110 < epsilon(1.0, 1.0, 10, 1e-300) < 5 + math.sqrt(10) * 37.2


GAUSSIAN = dpa.GaussianDpEvent(1.0)
SAMPLED = dpa.PoissonSampledDpEvent(0.01, GAUSSIAN)
TEN = poisson_gaussian(0.01, 1.0, 10)
SAME = {
    "composed twice": (dpa.SelfComposedDpEvent(dpa.SelfComposedDpEvent(SAMPLED, 2), 5), TEN),
    "a list": (dpa.ComposedDpEvent([SAMPLED] * 10), TEN),
    "a list in a composition": (
        dpa.SelfComposedDpEvent(dpa.ComposedDpEvent([SAMPLED, SAMPLED]), 5),
        TEN,
    ),
    "with nothing beside": (dpa.ComposedDpEvent([TEN, dpa.NoOpDpEvent()]), TEN),
    "none of it": (dpa.SelfComposedDpEvent(SAMPLED, 0), dpa.NoOpDpEvent()),
    "nobody sampled": (dpa.PoissonSampledDpEvent(0, GAUSSIAN), dpa.NoOpDpEvent()),
    "everybody sampled": (dpa.PoissonSampledDpEvent(1, GAUSSIAN), GAUSSIAN),
    "nothing of a sample": (dpa.PoissonSampledDpEvent(0.1, dpa.NoOpDpEvent()), dpa.NoOpDpEvent()),
    "several Gaussians of one sample": (
        dpa.PoissonSampledDpEvent(0.1, dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(3), 9)),
        dpa.PoissonSampledDpEvent(0.1, GAUSSIAN),
    ),
}


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("name", SAME)
def test_one_event_written_in_two_ways_costs_the_same(name, accountant):
    ways = [accounting.epsilon(event, 1e-6, accountant) for event in SAME[name]]
    assert ways[0] == pytest.approx(ways[1], rel=1e-9)


NOT_KNOWN = {
    "not known": dpa.UnsupportedDpEvent(),
    "with replacement": dpa.SampledWithReplacementDpEvent(100, 10, GAUSSIAN),
    "a sample of samples": dpa.PoissonSampledDpEvent(0.1, dpa.ComposedDpEvent([SAMPLED, GAUSSIAN])),
    "None": None,
    "a number": 1.0,
    "text": "event",
    "a thing without events": SimpleNamespace(),
}


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("name", NOT_KNOWN)
def test_other_events_are_refused(name, accountant):
    for question in (accounting.epsilon, accounting.delta):
        with pytest.raises(InputError):
            question(NOT_KNOWN[name], 1e-5, accountant)


WRONG = {
    "text for noise": dpa.GaussianDpEvent("x"),
    "no number for noise": dpa.GaussianDpEvent(None),
    "half a count": dpa.SelfComposedDpEvent(GAUSSIAN, 1.5),
    "text for a count": dpa.SelfComposedDpEvent(GAUSSIAN, "3"),
    "text for a rate": dpa.PoissonSampledDpEvent("a", GAUSSIAN),
    "a sample of nobody's data": dpa.SampledWithoutReplacementDpEvent(0, 0, GAUSSIAN),
    "a sample larger than the data": dpa.SampledWithoutReplacementDpEvent(10, 11, GAUSSIAN),
    "NaN in another event": dp_event.DiscreteLaplaceDpEvent(math.nan, 1),
    "a probability of two": dpa.RandomizedResponseDpEvent(2.0, 4),
}


@pytest.mark.parametrize("relation", accounting.RELATIONS)
@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_are_none_are_clear_errors(name, accountant, relation):
    with pytest.raises(InputError):
        accounting.epsilon(WRONG[name], 1e-5, accountant, relation=relation)


@pytest.mark.parametrize("delta", [0, 1, -1e-5, 1.5, math.nan, math.inf, True, "1e-5", None])
def test_deltas_that_are_none(delta):
    with pytest.raises(InputError, match="delta must lie strictly between 0 and 1") as caught:
        epsilon(0.01, 1.0, 10, delta)
    assert repr(delta) in str(caught.value)


@pytest.mark.parametrize("eps", [-1e-9, -1, math.nan, -math.inf, math.inf, True, "1", None])
def test_epsilons_that_are_none(eps):
    with pytest.raises(InputError, match=r"^epsilon must be") as caught:
        accounting.delta(poisson_gaussian(0.01, 1.0, 10), eps)
    assert repr(eps) in str(caught.value)


@pytest.mark.parametrize("accountant", ["PLD", "moments", "", None, ["pld"]])
def test_accountants_that_are_not_known(accountant):
    for question in (accounting.epsilon, accounting.delta):
        with pytest.raises(InputError, match="accountant must be one of 'pld', 'rdp'") as caught:
            question(poisson_gaussian(0.01, 1.0, 10), 0.5, accountant)
        assert repr(accountant) in str(caught.value)
