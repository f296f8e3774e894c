"""Where `dp_accounting` answers nothing, NaN or infinity: never less than what was spent."""

import math

import dp_accounting
import pytest

from hushgrad import accounting
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
