"""How many clients a round needs."""

import pytest

import hushgrad as hg
from hushgrad.errors import InputError

TRIAL = {
    "users": 3383,
    "noise_multiplier": 0.5,
    "clients_per_round": 50,
    "rounds": 100,
    "epsilon": 2.0,
    "delta": 1e-5,
}


def test_the_tutorials_search():
    found = hg.federated.clients_for_budget(**TRIAL, accountant="rdp")
    assert (found.clients_per_round, found.noise_multiplier) == (120, pytest.approx(1.2))
    assert found.epsilon == pytest.approx(1.986, abs=5e-4)


def test_a_tighter_accountant_needs_fewer():
    found = hg.federated.clients_for_budget(**TRIAL)
    assert found.clients_per_round < 120
    for count, kept in ((found.clients_per_round, True), (found.clients_per_round - 1, False)):
        m = hg.dp_sgd(
            examples=3383,
            batch_size=count,
            steps=100,
            delta=1e-5,
            noise_multiplier=0.5 * count / 50,
            unit="user",
        )
        assert (m.epsilon() <= 2.0) == kept


def test_few_may_do():
    found = hg.federated.clients_for_budget(**TRIAL | {"noise_multiplier": 50.0})
    assert found.clients_per_round < 50


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"epsilon": 1e-3}, "epsilon=0.001 cannot be kept: all 3383 users"),
        ({"clients_per_round": 4000}, "at most users=3383"),
        ({"users": 0}, "users"),
        ({"noise_multiplier": -1}, "noise_multiplier"),
        ({"rounds": 0}, "rounds"),
        ({"delta": 1}, "delta"),
        ({"accountant": "moments"}, "accountant"),
    ],
)
def test_bad_questions(changed, named):
    with pytest.raises(InputError, match=named):
        hg.federated.clients_for_budget(**TRIAL | changed)
