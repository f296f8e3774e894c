"""Noise from epsilon: on the private side of the target, and no more than 0.1% inside it."""

import math

import pytest

import hushgrad as hg
from hushgrad import accounting
from hushgrad.accounting import poisson_gaussian, smallest_noise
from hushgrad.errors import InputError

# rate, steps, epsilon, delta; by the slower accountant only where it is not too slow.
SETTINGS = [
    (256 / 60_000, 14_063, 3.0, 1e-5),
    (0.01, 1000, 0.5, 1e-6),
    (1.0, 1, 1.0, 1e-5),
    (1.0, 400, 0.1, 1e-5),
]
WITH_LITTLE_NOISE = [(0.1, 200, 8.0, 1e-5), (0.01, 100, 10.0, 1e-5), (0.9, 3, 20.0, 1e-9)]
CASES = [("pld", *s) for s in SETTINGS] + [("rdp", *s) for s in SETTINGS + WITH_LITTLE_NOISE]


def spent(rate, noise, steps, delta, accountant):
    return accounting.epsilon(poisson_gaussian(rate, noise, steps), delta, accountant)


@pytest.mark.parametrize(("accountant", "rate", "steps", "epsilon", "delta"), CASES)
def test_the_target_is_kept_and_not_wasted(accountant, rate, steps, epsilon, delta):
    """From a first guess of 1, up and down: the answers lie between 0.4 and 700."""
    noise = smallest_noise(lambda z: poisson_gaussian(rate, z, steps), epsilon, delta, accountant)
    assert 0.999 * epsilon <= spent(rate, noise, steps, delta, accountant) <= epsilon


def test_a_mechanism_keeps_its_epsilon():
    m = hg.dp_sgd(examples=10_000, batch_size=100, epochs=10, clip=2, delta=1e-6, epsilon=0.5)
    assert 0.999 * 0.5 <= m.epsilon() <= 0.5
    assert m.delta_at(0.5) <= 1e-6
    assert accounting.epsilon(m.event, m.delta) == m.epsilon()


def test_one_release_has_the_noise_of_the_closed_form():
    """Balle & Wang 2018: at epsilon 1 and delta 1e-5 the least noise is 3.7306."""
    noise = smallest_noise(lambda z: poisson_gaussian(1.0, z, 1), 1.0, 1e-5)
    assert 3.7306 <= noise <= 3.7306 * 1.002


def test_less_epsilon_takes_more_noise():
    found = [
        smallest_noise(lambda z: poisson_gaussian(0.01, z, 100), epsilon, 1e-5, "rdp")
        for epsilon in (8.0, 2.0, 0.5)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_target_that_any_noise_keeps():
    """Where delta exceeds the chance to be sampled at all, the search ends as well."""
    noise = smallest_noise(lambda z: poisson_gaussian(1e-4, z, 1), 0.01, 0.01, "rdp")
    assert 0.001 < noise < 1
    assert spent(1e-4, noise, 1, 0.01, "rdp") <= 0.01


def test_a_target_that_no_noise_keeps():
    """Where more noise does not help, the search ends and says so."""
    event = poisson_gaussian(1.0, 1.0, 1)
    with pytest.raises(InputError, match=r"epsilon=0\.5 cannot be reached with any noise") as e:
        smallest_noise(lambda z: event, 0.5, 1e-5)
    assert "allow a larger epsilon or delta, or fewer steps" in str(e.value)


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, math.inf, True, "3"])
def test_targets_that_are_none(epsilon):
    with pytest.raises(InputError, match="epsilon must be a positive finite number") as caught:
        smallest_noise(lambda z: poisson_gaussian(0.1, z, 10), epsilon, 1e-5)
    assert repr(epsilon) in str(caught.value)


@pytest.mark.parametrize("delta", [0, 1, -0.1, math.nan, True, "1e-5"])
def test_deltas_that_are_none(delta):
    with pytest.raises(InputError, match="delta must lie strictly between 0 and 1") as caught:
        smallest_noise(lambda z: poisson_gaussian(0.1, z, 10), 1.0, delta)
    assert repr(delta) in str(caught.value)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("left", ["examples", "batch_size", "steps", "noise_multiplier", "epsilon"])
def test_any_one_number_may_be_left_open(left, accountant):
    """The found number keeps the target; the next whole one to the other side does not."""
    given = {"examples": 2000, "batch_size": 100, "steps": 300, "noise_multiplier": 1.5}
    given |= {"epsilon": 2.5, "delta": 1e-5, "accountant": accountant}
    del given[left]
    found = accounting.calibrate(**given)
    assert (found.found, found.accountant) == (left, accountant)

    def cost(**changed):
        rate = changed.get("batch_size", found.batch_size) / changed.get("examples", found.examples)
        noise = changed.get("noise_multiplier", found.noise_multiplier)
        return spent(rate, noise, changed.get("steps", found.steps), 1e-5, accountant)

    assert found.epsilon == cost()
    if left == "epsilon":
        return
    assert found.epsilon <= 2.5
    past = {"examples": -1, "batch_size": 1, "steps": 1}
    if left in past:
        assert cost(**{left: getattr(found, left) + past[left]}) > 2.5
    else:
        assert found.epsilon >= 0.999 * 2.5


def test_epochs_are_whole_steps_rounded_up():
    found = accounting.calibrate(
        examples=600, batch_size=60, epochs=0.1, noise_multiplier=1.0, delta=1e-3
    )
    assert (found.steps, found.epochs) == (1, 0.1)
    more = accounting.calibrate(
        examples=600, batch_size=64, epochs=2, noise_multiplier=1.0, delta=1e-3
    )
    assert more.steps == 19


@pytest.mark.parametrize(
    "changed",
    [
        {"epsilon": 1.0},
        {"noise_multiplier": None},
        {"steps": 5},
        {"noise_multiplier": 0},
        {"batch_size": 2000},
        {"delta": 0},
        {"accountant": "x"},
    ],
)
def test_calibrations_that_are_none(changed):
    given = {"examples": 1000, "batch_size": 10, "epochs": 1, "noise_multiplier": 1.0}
    with pytest.raises(InputError):
        accounting.calibrate(**({"delta": 1e-5} | given | changed))


def test_targets_out_of_reach_say_so():
    with pytest.raises(InputError, match="not even steps=1 keeps the target"):
        accounting.calibrate(
            examples=100, batch_size=50, noise_multiplier=0.5, epsilon=0.01, delta=1e-6
        )
