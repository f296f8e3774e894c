"""Certified bounds: the truth lies between them, and they are near each other."""

import math

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from hushgrad import accounting
from hushgrad.accounting import poisson_gaussian
from hushgrad.errors import InputError

ADD, REPLACE, SPECIAL = accounting.RELATIONS
FEW = settings(max_examples=20, deadline=None, derandomize=True)


def tails(rate: float, noise: float, relation: str) -> list[tuple]:
    """For each direction: densities of P and Q, and their masses above a point.

    Written out once more, so that nothing is shared with the code under test.
    """
    shift = 1 / noise
    sign = {ADD: 0.0, REPLACE: -1.0}[relation]

    def mixture(mean):
        def density(x):
            near, far = math.exp(-0.5 * x * x), math.exp(-0.5 * (x - mean) ** 2)
            return ((1 - rate) * near + rate * far) / math.sqrt(2 * math.pi)

        def above(x):
            return (1 - rate) * special.ndtr(-x) + rate * special.ndtr(mean - x)

        return density, above

    if relation == REPLACE:
        return [(*mixture(shift), *mixture(sign * shift))]
    return [(*mixture(shift), *mixture(0.0)), (*mixture(0.0), *mixture(-shift))]


def one_delta(pair: tuple, ratio: float) -> float:
    """P above minus ratio times Q above the point where the densities' ratio is that.

    The ratio grows with x, so that is where the sum of the excess is taken.
    """
    p, p_above, q, q_above = pair
    low, high = -38.0, 38.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if p(middle) > ratio * q(middle) else (middle, high)
    return p_above(high) - ratio * q_above(high)


def two_deltas(pair: tuple, epsilon: float) -> float:
    """Two independent releases: over the first, the second's excess at what is left."""
    p, _, q, _ = pair

    def inner(x):
        if p(x) == 0 or q(x) == 0:
            return 0.0
        ratio = math.exp(epsilon) * q(x) / p(x)
        return p(x) * one_delta(pair, ratio)

    # Breakpoints where the densities bend; beyond 12 there is less than 1e-30.
    return integrate.quad(inner, -12, 12, points=[-3, 0, 1, 3], limit=400, epsabs=1e-14)[0]


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@FEW
@given(
    rate=st.floats(-4, 0).map(lambda power: 10**power),
    noise=st.floats(0.3, 20),
    share=st.floats(0.02, 1),
)
def test_one_release_against_the_closed_form(relation, rate, noise, share):
    # Up to where few losses are beyond: five standard deviations of a Gaussian's.
    epsilon = share * min(6, 5 / noise + 0.5 / noise**2)
    exact = max(one_delta(pair, math.exp(epsilon)) for pair in tails(rate, noise, relation))
    assume(exact > 1e-11)  # the closed form itself loses digits
    event = poisson_gaussian(rate, noise, 1)
    found = accounting.delta_interval(event, epsilon, relation=relation)
    assert found.lower * (1 - 1e-5) <= exact <= found.upper * (1 + 1e-5)
    spent = accounting.epsilon_interval(event, exact, relation=relation)
    # One part in 1e5 of delta is less than 1e-5 of epsilon here.
    assert spent.lower - 2e-5 <= epsilon <= spent.upper + 2e-5
    assert spent.upper - spent.lower <= max(5e-3 * spent.upper, 1e-3)


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize(
    ("rate", "noise", "epsilon"), [(0.1, 1.0, 0.5), (0.5, 2.0, 1.0), (0.01, 0.7, 2.0)]
)
def test_two_releases_against_quadrature(relation, rate, noise, epsilon):
    exact = max(two_deltas(pair, epsilon) for pair in tails(rate, noise, relation))
    event = poisson_gaussian(rate, noise, 2)
    found = accounting.delta_interval(event, epsilon, relation=relation)
    # The quadrature is good to about 1e-9.
    assert found.lower <= exact * (1 + 1e-6) + 1e-9
    assert exact <= found.upper * (1 + 1e-6) + 1e-9
    assert found.upper <= 1.01 * found.lower


@FEW
@given(
    noises=st.lists(st.floats(0.5, 50), min_size=1, max_size=6),
    count=st.integers(1, 1000),
    delta=st.floats(-20, -1).map(lambda power: 10**power),
)
def test_gaussians_of_everybody_compose_exactly(noises, count, delta):
    event = dpa.ComposedDpEvent(
        [dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(noise), count) for noise in noises]
    )
    low, high = accounting.epsilon_interval(event, delta)
    shift = math.sqrt(sum(count / noise**2 for noise in noises))
    if shift < 20:
        single = dpa.get_epsilon_gaussian(1 / shift, delta)
        assert low * (1 - 1e-6) - 1e-9 <= single <= high * (1 + 1e-6) + 1e-9
    assert high - low <= 1e-8 * high


def test_a_gaussian_among_samples_is_one_more_release():
    """Sampled at a rate just below 1, it is nearly the same; as everybody's, no less."""
    others = poisson_gaussian(0.05, 1.0, 200)

    def cost(rate):
        one = dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(2.0))
        return accounting.epsilon(dpa.ComposedDpEvent([others, one]), 1e-6)

    assert cost(0.9999) == pytest.approx(cost(1.0), rel=1e-3)
    assert cost(0.5) < cost(0.9999)


@pytest.mark.parametrize("relation", accounting.RELATIONS)
@FEW
@given(
    rate=st.floats(-4, 0).map(lambda power: 10**power),
    noise=st.floats(-0.3, 3).map(lambda power: 10**power),
    steps=st.floats(0, 6).map(lambda power: int(10**power)),
    delta=st.floats(-12, -2).map(lambda power: 10**power),
)
def test_the_bounds_are_near_each_other(relation, rate, noise, steps, delta):
    low, high = accounting.epsilon_interval(
        poisson_gaussian(rate, noise, steps), delta, relation=relation
    )
    assert 0 <= low <= high
    if high < 100:  # what anybody would report
        assert high - low <= max(5e-3 * high, 1e-3)


@FEW
@given(
    rate=st.floats(-3, -0.1).map(lambda power: 10**power),
    noise=st.floats(0.5, 10),
    steps=st.integers(1, 5000),
    factor=st.floats(1.02, 3),
)
def test_what_costs_more_comes_out_as_more(rate, noise, steps, factor):
    def low_and_high(*numbers):
        return accounting.epsilon_interval(poisson_gaussian(*numbers), 1e-6)

    base = low_and_high(rate, noise, steps)
    assert low_and_high(rate, noise * factor, steps).lower <= base.upper
    assert base.lower <= low_and_high(rate, noise, math.ceil(steps * factor)).upper
    assert base.lower <= low_and_high(min(1.0, rate * factor), noise, steps).upper
    # The bound itself, but for the grids' share of a thousandth.
    more = accounting.epsilon(poisson_gaussian(rate, noise * factor, steps), 1e-6)
    assert more <= base.upper * (1 + 1e-3)


# Rate, noise, steps, delta: where one grid for all answers too much, or nothing.
HARD = [
    (0.001, 100.0, 10**6, 1e-5, 0.0272),  # the central limit; a grid of 1e-4 says 0.0857
    (0.01, 1.0, 1000, 1e-20, 6.3616),  # dp_accounting answers infinity
    (0.01, 0.05, 1000, 1e-5, 5091.4),
    (0.5, 1000.0, 10**7, 1e-5, 7.51),
    (0.001, 1.0, 10**7, 1e-5, 25.58),
    (1e-5, 0.8, 10**6, 1e-5, 0.05716),
    (0.9, 0.3, 3, 1e-10, 52.12),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "about"), HARD)
def test_hard_cases_have_a_certificate(rate, noise, steps, delta, about):
    low, high = accounting.epsilon_interval(poisson_gaussian(rate, noise, steps), delta)
    assert high - low <= 2e-3 * high
    assert high == pytest.approx(about, rel=2e-3)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(("rate", "steps"), [(0.004, 1000), (0.05, 300), (1.0, 20)])
def test_no_upper_bound_is_below_the_lower_one(accountant, rate, steps):
    event = poisson_gaussian(rate, 1.0, steps)
    low, _ = accounting.epsilon_interval(event, 1e-6)
    assert low <= accounting.epsilon(event, 1e-6, accountant)
    if accountant == "rdp":
        for row in accounting.bounds(event, 1e-6):
            assert row.kind == "approximation" or row.epsilon >= low * (1 - 1e-9)


def test_replacing_moves_a_sum_twice():
    once = accounting.epsilon(dpa.GaussianDpEvent(1.0), 1e-5)
    twice = accounting.epsilon(dpa.GaussianDpEvent(1.0), 1e-5, relation=REPLACE)
    assert once == pytest.approx(4.37718, rel=1e-5)
    assert twice == pytest.approx(accounting.epsilon(dpa.GaussianDpEvent(0.5), 1e-5), rel=1e-9)
    assert accounting.epsilon(dpa.GaussianDpEvent(1.0), 1e-5, relation=SPECIAL) == once


# Zhu, Dong and Wang's and Lebeda et al.'s pairs, as another implementation has them.
REPLACED = [
    (0.01, 1.0, 1000, 1e-5, 2.843446),
    (0.01, 0.5, 1000, 1e-5, 15.161361),
    (0.1, 2.0, 500, 1e-6, 12.499122),
    (0.004, 0.8, 2500, 1e-7, 3.263950),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "want"), REPLACED)
def test_sampled_replacements(rate, noise, steps, delta, want):
    event = poisson_gaussian(rate, noise, steps)
    assert accounting.epsilon(event, delta, relation=REPLACE) == pytest.approx(want, rel=5e-4)


def mixture(noise, parts, weights):
    return dp_event.MixtureOfGaussiansDpEvent(noise, parts, weights)


def test_a_mixture_of_one_part_is_a_sampled_gaussian():
    for steps in (1, 50):
        same = dpa.SelfComposedDpEvent(mixture(1.5, [0, 1], [0.8, 0.2]), steps)
        want = accounting.epsilon(poisson_gaussian(0.2, 1.5, steps), 1e-5)
        assert accounting.epsilon(same, 1e-5) == pytest.approx(want, rel=1e-9)


def test_a_group_of_three_costs_what_another_implementation_says():
    """Three members, each sampled by itself: 0 to 3 clips."""
    weights = stats.binom.pmf(range(4), 3, 0.05).tolist()
    event = dpa.SelfComposedDpEvent(mixture(2.0, [0, 1, 2, 3], weights), 20)
    reference = dpa.pld.PLDAccountant(value_discretization_interval=4e-4)
    want = reference.compose(event).get_epsilon(1e-5)
    low, high = accounting.epsilon_interval(event, 1e-5)
    assert low <= want <= high * (1 + 1e-3)
    with pytest.raises(InputError, match="no dominating pair is known"):
        accounting.epsilon(event, 1e-5, relation=REPLACE)


@pytest.mark.parametrize(
    ("parts", "weights"), [([-1, 1], [0.5, 0.5]), ([0, 1], [0.5, 0.4]), ([], []), ([1], [1.5])]
)
def test_mixtures_that_are_none(parts, weights):
    with pytest.raises(InputError):
        accounting.epsilon(mixture(1.0, parts, weights), 1e-5)


def test_a_schedule_costs_what_its_parts_cost():
    parts = [(0.01, 1.0, 300), (0.02, 1.5, 200), (0.01, 2.0, 100)]
    event = dpa.ComposedDpEvent([poisson_gaussian(*part) for part in parts])
    low, high = accounting.epsilon_interval(event, 1e-6)
    reference = dpa.pld.PLDAccountant(value_discretization_interval=1e-4)
    assert low <= reference.compose(event).get_epsilon(1e-6)
    assert high == pytest.approx(reference.get_epsilon(1e-6), rel=1e-3)


def test_a_schedule_of_many_levels_is_rounded_to_the_sound_side(monkeypatch):
    from hushgrad.accounting.losses import levels

    noises = np.geomspace(0.8, 1.6, 40)
    event = dpa.ComposedDpEvent([poisson_gaussian(0.02, float(z), 5) for z in noises])
    low, high = accounting.epsilon_interval(event, 1e-5)
    monkeypatch.setattr(levels, "MOST_LEVELS", 16)
    rough = accounting.epsilon_interval(event, 1e-5)
    assert rough.lower < low <= high < rough.upper < 1.2 * high


def test_running_totals_are_those_of_the_steps_made():
    event = poisson_gaussian(0.01, 1.0, 2000)
    spent = accounting.running(event, 1e-6)
    assert spent(0) == 0
    for steps in (1, 2, 10, 150, 1000, 2000):
        low, high = accounting.epsilon_interval(poisson_gaussian(0.01, 1.0, steps), 1e-6)
        assert low <= spent(steps) <= 1.005 * high
    everybody = accounting.running(poisson_gaussian(1.0, 30.0, 100), 1e-5)
    want = accounting.epsilon(poisson_gaussian(1.0, 30.0, 7), 1e-5)
    assert everybody(7) == pytest.approx(want, rel=1e-9)
    with pytest.raises(InputError, match="repeat one Gaussian release"):
        accounting.running(dpa.LaplaceDpEvent(1.0), 1e-5)


def test_running_totals_stay_within_their_run():
    spent = accounting.running(poisson_gaussian(0.01, 1.0, 10), 1e-5)
    for wrong in (11, 100_000, -1, 0.5):
        with pytest.raises(InputError, match="steps must be"):
            spent(wrong)
    groups = dpa.SelfComposedDpEvent(mixture(2.0, [0, 1, 2], [0.5, 0.3, 0.2]), 10)
    with pytest.raises(InputError, match="no dominating pair is known"):
        accounting.running(groups, 1e-5, relation=REPLACE)


def test_a_rate_just_below_one_loses_no_digits():
    """The ratio nearly cancels on one side, where a logarithm of 1 + x would be wrong."""
    for rate in (1 - 2.0**-53, 1 - 1e-14, 1 - 1e-9):
        low, high = accounting.epsilon_interval(
            poisson_gaussian(rate, 0.3, 1), 1e-12, relation=REPLACE
        )
        # P's excess beyond e^eps Q, with the pair's own point of crossing.
        shift, gap = 1 / 0.3, 1 - rate
        at = {}
        for name, epsilon in (("low", low), ("high", high)):
            # rate^2 e^(2mx - m^2) + ... by bisection of the log ratio in extended steps.
            below, above = 0.0, 40.0
            for _ in range(200):
                x = 0.5 * (below + above)
                top = np.logaddexp(math.log(gap), math.log(rate) + shift * x - shift**2 / 2)
                bottom = np.logaddexp(math.log(gap), math.log(rate) - shift * x - shift**2 / 2)
                below, above = (below, x) if top - bottom > epsilon else (x, above)
            p = gap * special.ndtr(-above) + rate * special.ndtr(shift - above)
            q = math.exp(epsilon) * gap * special.ndtr(-above)
            q += rate * math.exp(epsilon + special.log_ndtr(-shift - above))
            at[name] = p - q
        assert at["high"] <= 1e-12 * (1 + 1e-6)
        assert at["low"] >= 1e-12 * (1 - 1e-6)


@pytest.mark.parametrize("shift", [1e-13, 1e-8, 1e-3, 1.0, 20.0])
def test_the_closed_form_is_bounded_by_its_rounding(shift):
    """At epsilon 0 it is erf(shift / sqrt(8))."""
    low, high = accounting.delta_interval(dpa.GaussianDpEvent(1 / shift), 0.0)
    exact = special.erf(shift / math.sqrt(8))
    assert low <= exact <= high <= low * (1 + 1e-9)


# Nothing here may fail, hang or pass for nothing.
EXTREMES = [
    *((1.0, 1e-7, 1, 1e-5), (1.0, 1e-200, 1, 1e-5), (0.5, 1e-6, 1, 1e-5), (1e-300, 1.0, 10, 1e-5)),
    *((1.0, 1.0, 1, 1e-310), (1.0, 1.0, 1, 5e-324), (0.01, 1e6, 10**7, 1e-5)),
    *((7.6e-5, 0.0543, 1, 0.286), (0.5, 0.1, 1000, 0.999999), (1 - 2.0**-53, 0.1, 1, 1e-5)),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), EXTREMES)
def test_extremes_are_answered(rate, noise, steps, delta):
    event = poisson_gaussian(rate, noise, steps)
    low, high = accounting.epsilon_interval(event, delta)
    assert 0 <= low <= high
    least, most = accounting.delta_interval(event, 0.0)
    assert 0 <= least <= most <= min(1.0, 1.0000001 * max(rate * steps, 1e-12))
    if most <= delta:
        assert low == 0


def test_never_worse_than_the_renyi_bound_where_losses_are_rare():
    event = poisson_gaussian(4.84e-6, 0.646, 5_740_432)
    tight = accounting.epsilon(event, 4.25e-12)
    assert tight <= accounting.epsilon(event, 4.25e-12, "rdp")


def without_replacement(examples, size, noise, steps):
    one = dpa.SampledWithoutReplacementDpEvent(examples, size, dpa.GaussianDpEvent(noise))
    return dpa.SelfComposedDpEvent(one, steps)


@pytest.mark.parametrize(("size", "noise"), [(10, 1.0), (100, 2.0), (500, 3.0), (1000, 4.0)])
def test_one_sample_of_one_size_against_the_closed_form(size, noise):
    """Balle, Barthe and Gaboardi: rate times the Gaussian's delta at log(1 + (e^eps - 1) / rate).

    Whoever is replaced moves the sum by two clips.
    """
    rate = size / 1000
    for epsilon in (0.1, 1.0, 2.5):
        inner = math.log1p(math.expm1(epsilon) / rate)
        shift = 2 / noise
        exact = special.ndtr(shift / 2 - inner / shift)
        exact -= math.exp(inner + special.log_ndtr(-shift / 2 - inner / shift))
        found = accounting.delta_interval(
            without_replacement(1000, size, noise, 1), epsilon, relation=REPLACE
        )
        assert found.lower <= rate * exact * (1 + 1e-9)
        assert rate * exact <= found.upper * (1 + 1e-9)
        assert found.upper <= 1.002 * found.lower


def test_samples_of_one_size_lie_between_coins_and_the_renyi_bound():
    event = without_replacement(10_000, 100, 3.0, 500)
    low, high = accounting.epsilon_interval(event, 1e-6, relation=REPLACE)
    assert high - low <= 1e-3 * high
    # Removing somebody who moves the sum by two clips is one of the two sides of its curve.
    removed = accounting.epsilon_interval(poisson_gaussian(0.01, 1.5, 500), 1e-6)
    assert removed.lower <= high
    assert high < accounting.epsilon(event, 1e-6, "rdp", relation=REPLACE)
    with pytest.raises(InputError, match="no sound bound under add-or-remove-one"):
        accounting.epsilon(event, 1e-6)


def test_what_is_cut_off_is_charged_in_full():
    """Coarse tails, so that what they hold shows: it may be lost to no release."""
    from hushgrad.accounting.losses import Release
    from hushgrad.accounting.losses.composition import Composition
    from hushgrad.accounting.losses.grid import discretised
    from hushgrad.accounting.losses.pairs import dominating

    for relation in (ADD, REPLACE):
        for pair in dominating(Release(1.0, 0.2), relation):
            above, below = discretised(pair, 0.01, 1e-3)
            assert above.beyond == 1e-3
            assert above.mass.sum() + above.beyond >= 1
            assert below.mass.sum() + below.beyond <= 1
            series = Composition([(above, 5)]).series(1.0, 1e-2, 2**20)
            end = (series.first + series.size) * series.interval
            # No loss on the grid reaches so far; what is beyond it may.
            assert series.deltas(upper=True)(end - 0.01)[0] >= 5e-3


def test_what_has_no_loss_is_kept():
    """Between both sides of its curve a sample of one size tells nothing: mass, but no loss."""
    from hushgrad.accounting.losses import Release
    from hushgrad.accounting.losses.grid import discretised
    from hushgrad.accounting.losses.pairs import dominating

    (pair,) = dominating(Release(2.0, 0.1, fixed_size=True), REPLACE)
    above, below = discretised(pair, 0.01, 1e-9)
    # With half of a standard Gaussian below zero and shift 1: (1 - rate)(Phi(1/2) - Phi(-1/2)).
    none = 0.9 * (special.ndtr(0.5) - special.ndtr(-0.5))
    at = int(np.searchsorted(above.points, 0))
    assert none < above.mass[at] < none + 0.05
    assert above.mass.sum() + above.beyond >= 1
    assert below.mass.sum() <= 1
    # The side below zero is that of adding, which tells more there than removing.
    removed = dominating(Release(1.0, 0.1), ADD)[0]
    least, _ = removed.ends(1e-9)
    assert above.points[0] * 0.01 < 5 * least < 0
