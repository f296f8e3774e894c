"""What is told of clients' own examples has noise, and is charged."""

import jax.numpy as jnp
import numpy as np
import pytest
from clients import SIZES, loss

import hushgrad as hg
from hushgrad.errors import BudgetError, InputError
from hushgrad.federated import Metric


def value(params, x, y):
    return x[0]


def evaluation(metrics, **changed):
    settings = {
        "examples": len(SIZES),
        "batch_size": len(SIZES),
        "sampling": hg.sampling.Poisson(1.0),
        "steps": 3,
        "delta": 1e-2,
        "noise_multiplier": 1e-6,
        "unit": "user",
    } | changed
    return hg.federated.private_evaluation(metrics, hg.dp_sgd(**settings))


def test_without_noise_it_tells_the_means(params, users):
    made = evaluation(
        {
            "loss": Metric(loss, 0, 10),
            "value": Metric(value, -1, 1, bins=4),
            "examples": Metric(None, 0, 20),
        }
    ).begin(seed=0)
    found = made(params, users)
    rng = np.random.default_rng(0)
    x, y = users.data
    own = [users.rows(i, rng) for i in range(len(SIZES))]
    losses = [np.mean([loss(params, x[r], y[r]) for r in rows]) for rows in own]
    values = np.clip([x[rows, 0].mean() for rows in own], -1, 1)
    assert found["loss"].mean == pytest.approx(np.mean(losses), abs=1e-3)
    assert found["value"].mean == pytest.approx(np.mean(values), abs=1e-3)
    assert found["examples"].mean == pytest.approx(np.mean(SIZES), abs=1e-3)
    shares = np.histogram(values, 4, (-1, 1))[0] / len(SIZES)
    np.testing.assert_allclose(found["value"].shares, shares, atol=1e-3)
    assert found["value"].edges == (-1, -0.5, 0, 0.5, 1)
    # To the width of a bin.
    for share in (0.1, 0.5, 0.9):
        there = np.quantile(values, share)
        assert found["value"].quantile(share) == pytest.approx(there, abs=0.5)


def test_noise_is_what_is_accounted(params, users):
    """And as wide as it says: over 60 evaluations, of four numbers each."""
    made = evaluation(
        {"value": Metric(value, -1, 1, bins=2), "examples": Metric(None, 0, 20)},
        noise_multiplier=2.0,
        steps=60,
    ).begin(seed=0)
    quiet = evaluation(
        {"value": Metric(value, -1, 1, bins=2), "examples": Metric(None, 0, 20)}
    ).begin(seed=0)(params, users)
    seen = {name: [] for name in quiet}
    for _ in range(60):
        for name, found in made(params, users).items():
            seen[name].append((found.mean - quiet[name].mean) / found.stddev)
    # Three parts of norm 1 share a sensitivity of 1.
    wanted = 2.0 * np.sqrt(3) / len(SIZES)
    assert found.stddev == pytest.approx(wanted * 20 / 2)
    # The mean of 120 squares deviates by 0.13; four of them.
    assert np.mean(np.square(list(seen.values()))) == pytest.approx(1, abs=0.52)


def test_one_client_moves_all_numbers_together_by_one():
    from hushgrad.federated.metrics import _Vector

    kinds = (Metric(value, 0, 1, bins=5), Metric(None, 0, 7), Metric(value, 3, 4))
    work = _Vector(value, 1, kinds=kinds)
    for numbers in ([0.0, 7.0, 3.0], [9.0, -3.0, 99.0], [0.5, 3.5, 3.5]):
        vector = work(None, (jnp.asarray([numbers]),), None, None, None).update
        assert float(jnp.sum(vector**2)) <= 1 + 1e-6


def test_a_client_whose_number_is_not_finite_adds_nothing(params, users):
    def bad(params, x, y):
        return jnp.where(x[0] > 0, jnp.nan, 0.25)

    found = evaluation({"bad": Metric(bad, 0, 1)}).begin(seed=0)(params, users)
    assert np.isfinite(found["bad"].mean)


def test_evaluations_are_charged_and_end(params, users, tmp_path):
    budget = hg.Budget(
        "clients", epsilon=50.0, delta=1e-2, unit="user", url=f"sqlite:///{tmp_path}/b.sqlite"
    )
    made = evaluation({"value": Metric(value, 0, 1)}, noise_multiplier=2.0, steps=2)
    made.begin(budget=budget, directory=tmp_path / "evaluation")
    assert budget.epsilon_held == pytest.approx(made.mechanism.epsilon(), rel=1e-3)
    for _ in range(2):
        made(params, users)
    with pytest.raises(BudgetError, match="all 2 rounds"):
        made(params, users)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((value, 1, 0), "low below high"), ((value, 0, np.inf), "finite"), ((value, 0, 1, 1), "bins")],
)
def test_bad_metrics(arguments, named):
    with pytest.raises(InputError, match=named):
        Metric(*arguments)


def test_bad_evaluations(params, users):
    with pytest.raises(InputError, match="metrics must be"):
        evaluation({})
    with pytest.raises(InputError, match="metrics must be"):
        evaluation({"a": value})
    with pytest.raises(InputError, match="mechanism must come from"):
        hg.federated.private_evaluation({"a": Metric(None, 0, 1)}, 1.0)  # pyright: ignore
    found = evaluation({"a": Metric(None, 0, 20)})(params, users)["a"]
    with pytest.raises(InputError, match="needs a metric with bins"):
        found.quantile(0.5)
