"""Where `dp_accounting` answers nothing, NaN or infinity: never less than what was spent."""

import math
import warnings

import dp_accounting
import numpy as np
import pytest

import hushgrad as hg
from hushgrad import accounting
from hushgrad.accounting.events import _adding_up_to_one
from hushgrad.errors import InputError


def sampled(rate: float, noise: float, steps: int) -> dp_accounting.DpEvent:
    gaussian = dp_accounting.GaussianDpEvent(noise)
    return dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(rate, gaussian), steps
    )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_no_step_costs_nothing(accountant):
    event = accounting.poisson_gaussian(0.1, 1.0, 0)
    assert accounting.epsilon(event, 1e-5, accountant) == 0
    assert accounting.delta(event, 0.5, accountant) == 0


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    "event",
    [sampled(0.1, math.nan, 5), sampled(math.nan, 1.0, 5)],
    ids=["nan noise", "nan rate"],
)
def test_numbers_out_of_range_are_refused_and_not_taken_for_nothing(event, accountant):
    with pytest.raises(InputError):
        accounting.epsilon(event, 1e-5, accountant)


def test_calibration_at_a_tiny_delta_does_not_waste_noise():
    noise = accounting.smallest_noise(
        lambda z: accounting.poisson_gaussian(0.01, z, 100), 1.0, 1e-18
    )
    spent = accounting.epsilon(accounting.poisson_gaussian(0.01, noise, 100), 1e-18)
    assert 0.9 < spent <= 1.0


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(1e4, 1e-5), pytest.param(1e-3, 0.9, marks=pytest.mark.slow)]
)
def test_calibration_ends_where_hardly_any_noise_is_needed(epsilon, delta):
    make = lambda z: accounting.poisson_gaussian(1.0, z, 1)  # noqa: E731
    noise = accounting.smallest_noise(make, epsilon, delta)
    assert accounting.epsilon(make(noise), delta) <= epsilon


def test_little_noise_costs_what_the_closed_form_says_within_a_percent():
    """A coarser grid serves where one of 1e-4 would take gigabytes."""
    event = accounting.poisson_gaussian(1.0, 0.05, 1)
    exact = dp_accounting.get_epsilon_gaussian(0.05, 1e-5)
    assert exact <= accounting.epsilon(event, 1e-5) <= 1.01 * exact


@pytest.mark.parametrize("unit", ["group of 7", "group of 8", "group of 9"])
def test_weights_that_round_to_more_than_one_are_never_negative(unit):
    # Of a group of 8 the binomial weights add up to 1 + 7e-16, more than its last weight, 1e-25:
    # what is too much must not be taken from the part that tells the most.
    m = hg.dp_sgd(
        examples=60_000, batch_size=256, epochs=15, noise_multiplier=0.728, delta=1e-5, unit=unit
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [m.epsilon(delta=delta) for delta in (1e-5, 1e-8, 1e-10)]
    assert found == sorted(found)
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize(
    "weights",
    [[1 - 1e-10, 1e-25], [1.0, 1e-25], [0.5, 0.5 + 1e-10], [1e-12, 1.0 + 1e-10], [1e-3] * 999],
)
def test_weights_add_up_and_no_large_part_becomes_less_likely(weights):
    given = [*weights, 1e-3] if len(weights) == 999 else weights
    kept = _adding_up_to_one(list(given))
    assert min(kept) >= 0
    assert math.fsum(kept) == pytest.approx(1, abs=1e-15)
    # Of this and all larger parts together.
    tails = [math.fsum(kept[i:]) - math.fsum(given[i:]) for i in range(1, len(given))]
    assert min(tails) >= -1e-9 * (math.fsum(given) > 1)
    assert kept[-1] >= given[-1] or given[-1] > 1
