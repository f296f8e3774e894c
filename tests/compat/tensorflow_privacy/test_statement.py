"""TensorFlow Privacy's words and numbers for DP-SGD; its own tests' numbers where it has them."""

import math

import pytest

from hushgrad.compat import tensorflow_privacy
from hushgrad.compat.tensorflow_privacy.privacy.analysis import (
    compute_dp_sgd_privacy as notebooks,
)
from hushgrad.compat.tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as lib

RDP, PLD = lib.AccountantType.RDP, lib.AccountantType.PLD
KWARGS = {
    "number_of_examples": 10000,
    "batch_size": 64,
    "num_epochs": 5.0,
    "noise_multiplier": 2.0,
    "delta": 1e-6,
}
CHECKPOINTS = """\
This privacy guarantee protects the release of all model checkpoints in addition
to the final model.

"""
POISSON = """\
(*) Poisson sampling is not usually done in training pipelines, but assuming
that the data was randomly shuffled, it is believed that the actual epsilon
should be closer to this value than the conservative assumption of an arbitrary
data order.
"""
NO_USERS = """\
No user-level privacy guarantee is possible without a bound on the number of
examples per user.

"""
INFINITE = """
(**) A finite example-level epsilon implies a finite user-level epsilon at any
`max_examples_per_user`, but because conversion from example-level to user-level
DP is not exact, it is possible for the upper bound on the user-level epsilon to
still be infinite.
"""


def head(users):
    return {
        None: """\
DP-SGD performed over 10000 examples with 64 examples per iteration, noise
multiplier 2.0 for 5.0 epochs with microbatching, and no bound on number of
examples per user.

""",
        3: """\
DP-SGD performed over 10000 examples with 64 examples per iteration, noise
multiplier 2.0 for 5.0 epochs with microbatching, and at most 3 examples per
user.

""",
        10: """\
DP-SGD performed over 10000 examples with 64 examples per iteration, noise
multiplier 2.0 for 5.0 epochs with microbatching, and at most 10 examples per
user.

""",
        2: """\
DP-SGD performed over 10000 examples with 64 examples per iteration, noise
multiplier 2.0 for 5.0 epochs with microbatching, and at most 2 examples per
user.

""",
    }[users] + CHECKPOINTS


def example_level(accountant, once, sampled):
    return f"""\
Example-level DP with add-or-remove-one adjacency at delta = 1e-06 computed with
{accountant} accounting:
    Epsilon with each example occurring once per epoch:  {once}
    Epsilon assuming Poisson sampling (*):               {sampled}

"""


def user_level(accountant, once, sampled):
    return f"""\
User-level DP with add-or-remove-one adjacency at delta = 1e-06 computed using
{accountant} accounting and group privacy:
    Epsilon with each example occurring once per epoch:  {once}
    Epsilon assuming Poisson sampling (*):               {sampled}

"""


RDP_LINES = example_level("RDP", "      13.376", "       1.616")
PLD_LINES = example_level("PLD", "      12.595", "       1.199")


@pytest.mark.parametrize(
    ("accountant", "users", "expected"),
    [
        (RDP, None, head(None) + RDP_LINES + NO_USERS + POISSON),
        (
            RDP,
            3,
            head(3) + RDP_LINES + user_level("RDP", "      56.224", "       6.425") + POISSON,
        ),
        (
            RDP,
            10,
            head(10)
            + RDP_LINES
            + user_level("RDP", "     366.374", "    inf (**)")
            + POISSON
            + INFINITE,
        ),
        (PLD, None, head(None) + PLD_LINES + NO_USERS + POISSON),
        pytest.param(
            PLD,
            2,
            head(2) + PLD_LINES + user_level("PLD", "      30.579", "       2.532") + POISSON,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_statement_is_theirs_to_the_letter(accountant, users, expected):
    said = lib.compute_dp_sgd_privacy_statement(
        **KWARGS, max_examples_per_user=users, accountant_type=accountant
    )
    assert said == expected


def test_the_statement_of_the_tutorial():
    said = tensorflow_privacy.compute_dp_sgd_privacy_statement(
        number_of_examples=60000,
        batch_size=32,
        num_epochs=1,
        noise_multiplier=0.5,
        delta=1e-5,
        used_microbatching=False,
    )
    assert "noise\nmultiplier 0.5 for 1 epochs without microbatching" in said
    assert "once per epoch:        10.726\n" in said
    assert "sampling (*):                      3.800\n" in said


@pytest.mark.parametrize(
    ("microbatching", "rate", "accountant", "expected"),
    [
        (False, None, RDP, 10.8602036),
        (True, None, RDP, 26.2880374),
        (False, 1e-2, RDP, 3.2392676),
        (True, 1e-2, RDP, 22.6248601),
        (False, None, PLD, 10.1224946),
        (True, None, PLD, 24.7160779),
        (False, 1e-2, PLD, 2.4612381),
        pytest.param(True, 1e-2, PLD, 18.6977407, marks=pytest.mark.slow),
    ],
)
def test_an_examples_epsilon(microbatching, rate, accountant, expected):
    noise = 0.35 if microbatching else 0.7
    found = lib._example_epsilon(1.2, noise, 1e-5, rate, accountant=accountant)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("noise", "most", "once", "sampled", "accountant"),
    [
        (1.0, 2, 32.2384394, 3.7105175, RDP),
        (1.0, 5, 119.471479, 15.386425, RDP),
        (2.0, 10, 119.471479, 5.9539767, RDP),
        pytest.param(2.0, 3, 20.948087, 1.2845258, PLD, marks=pytest.mark.slow),
    ],
)
def test_a_users_epsilon(noise, most, once, sampled, accountant):
    for rate, expected in ((None, once), (0.0064, sampled)):
        found = lib._user_epsilon(5.0, noise, 1e-6, most, rate=rate, accountant=accountant)
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("noise", "most"), [(0.9, 2), (1.1, 3), (2.3, 13)])
def test_a_users_epsilon_is_an_examples_by_group_privacy(noise, most):
    one = lib._example_epsilon(5.0, noise / 2, 1e-8, 2e-4)
    delta = 1e-8 * math.expm1(most * one) / math.expm1(one)
    assert lib._user_epsilon(5.0, noise / 2, delta, most, rate=2e-4) == pytest.approx(most * one)


def test_without_noise_nothing_is_finite():
    said = lib.compute_dp_sgd_privacy_statement(1000, 10, 1, 0.0, 1e-5, max_examples_per_user=3)
    assert said.count("         inf\n") == 2  # an example's, without a note
    assert said.count("    inf (**)\n") == 2
    assert lib._user_epsilon(1.0, 1.0, 0.0, 3, rate=0.01) == math.inf


def test_a_users_epsilon_may_be_zero():
    # (0, d) for an example is (0, 3 d) for three.
    assert lib._example_epsilon(1.0, 50.0, 0.1, 0.1) == 0
    assert lib._user_epsilon(1.0, 50.0, 0.3, 3, rate=0.1) == 0


def test_a_user_with_one_example_is_an_example():
    for accountant in (RDP, PLD):
        example = lib._example_epsilon(1.2, 0.7, 1e-5, None, accountant=accountant)
        user = lib._user_epsilon(1.2, 0.7, 1e-5, 1, rate=None, accountant=accountant)
        assert user == example


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_epochs": -1.0},
        {"noise_multiplier": -1.0},
        {"delta": -0.5},
        {"delta": 1.5},
        {"max_examples_per_user": -1},
        {"batch_size": 10001},
    ],
)
def test_a_statement_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        lib.compute_dp_sgd_privacy_statement(**{**KWARGS, **wrong})


@pytest.mark.parametrize(
    ("n", "batch_size", "noise_multiplier", "epochs", "delta", "epsilon", "order"),
    [
        (60000, 150, 1.3, 15, 1e-5, 0.7242234026109595, 19.0),
        (100000, 100, 1.0, 30, 1e-7, 1.4154988495444842, 13.0),
        (100000000, 1024, 0.1, 10, 1e-7, 5907982.3113984, 1.25),
    ],
)
def test_the_deprecated_epsilon(n, batch_size, noise_multiplier, epochs, delta, epsilon, order):
    with pytest.warns(UserWarning, match="does not account for doubling"):
        found = notebooks.compute_dp_sgd_privacy(n, batch_size, noise_multiplier, epochs, delta)
    assert found == (pytest.approx(epsilon, rel=1e-9), order)


def test_a_batch_larger_than_the_data_is_refused():
    with (
        pytest.warns(UserWarning, match="deprecated"),
        pytest.raises(ValueError, match="n must be at least the batch size"),
    ):
        lib.compute_dp_sgd_privacy(10, 11, 1.0, 1, 1e-5)
