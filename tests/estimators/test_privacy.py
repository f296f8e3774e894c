"""What the estimators promise: noise, bounds, divisors, and that all of it is charged."""

import copy
import pickle

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy import stats

import hushgrad as hg
from hushgrad.errors import BudgetError, DataError, InputError
from hushgrad.sklearn import (
    DPLinearRegression,
    DPLogisticRegression,
    DPMLPClassifier,
    DPMLPRegressor,
)

QUICK = {"bounds": (-1, 1), "steps": 3, "batch_size": 20, "random_state": 0}
# One step over all records, so that what a record adds can be told exactly.
ONE_STEP = {"bounds": (-1, 1), "steps": 1, "batch_size": 200, "learning_rate": 1.0}
REGRESSION = {"target_bounds": (-1, 1)}


def one_step(model, **changed):
    facts = {**ONE_STEP, "random_state": 0, "classes": [0, 1], **changed}
    if not issubclass(model, DPLogisticRegression | DPMLPClassifier):
        facts = {**facts, **REGRESSION}
        del facts["classes"]
    return model(**facts)


def weights(fitted):
    return np.concatenate([value.ravel() for value in fitted._params.values()])


def test_every_weight_has_normal_noise_of_the_accounted_size():
    """Features of zeros have no gradient: what is left is the noise."""
    x, y = np.zeros((200, 3000)), np.arange(200) % 2
    model = one_step(DPLogisticRegression).fit(x, y)
    training = model.releases_.training
    noise = model.coef_[0] * training.batch_size / training.noise_stddev
    assert stats.kstest(noise, "norm").pvalue > 1e-6


def test_no_two_fits_share_their_noise_whatever_numpys_global_seed():
    x, y, fits = np.zeros((200, 50)), np.arange(200) % 2, []
    for _ in range(2):
        np.random.seed(0)
        fits.append(one_step(DPLogisticRegression, random_state=None).fit(x, y))
    assert not np.any(fits[0].coef_ == fits[1].coef_)
    assert "SEEDED" not in fits[0].privacy_statement()


@pytest.mark.parametrize(
    ("model", "clip"),
    [
        (DPLogisticRegression, 1.0),
        (DPLinearRegression, 0.01),
        pytest.param(DPLogisticRegression, 0.01, marks=pytest.mark.slow),
        pytest.param(DPLinearRegression, 1.0, marks=pytest.mark.slow),
        pytest.param(DPMLPClassifier, 0.1, marks=pytest.mark.slow),
    ],
)
def test_a_record_moves_a_step_by_two_clips_at_most(model, clip, records):
    """However far it is: scales that follow from the records would move with it."""
    x, y = records
    far, other = x.copy(), y.copy()
    far[7], other[7] = 1e9, 1 - y[7]
    fits = [one_step(model, clip=clip).fit(*data) for data in ((x, y), (far, other))]
    moved = np.linalg.norm(weights(fits[0]) - weights(fits[1]))
    assert 0 < moved <= 2 * clip / 200 * (1 + 1e-5)


def test_nor_do_weights_move_it_further(records):
    x, y = records
    weight = np.ones(200)
    weight[7] = 1e9
    fits = [one_step(DPLogisticRegression).fit(x, y, w) for w in (None, weight)]
    assert 0 < np.linalg.norm(weights(fits[0]) - weights(fits[1])) <= 2 / 200 * (1 + 1e-5)


@pytest.mark.parametrize("model", [DPLogisticRegression, DPLinearRegression])
def test_features_count_as_the_bound_that_is_nearest(model, records):
    """In training and in predicting."""
    x, y = records
    edge, beyond = x.copy(), x.copy()
    edge[::3, 1], beyond[::3, 1] = 1.0, 50.0
    fits = [one_step(model).fit(data, y) for data in (edge, beyond)]
    assert np.array_equal(weights(fits[0]), weights(fits[1]))
    np.testing.assert_array_equal(fits[0].predict(edge), fits[0].predict(beyond))


def test_targets_count_as_the_bound_that_is_nearest(records):
    x, _ = records
    y = x[:, 0] * 3
    fits = [one_step(DPLinearRegression).fit(x, data) for data in (y, np.clip(y, -1, 1))]
    assert np.array_equal(weights(fits[0]), weights(fits[1]))
    assert np.abs(fits[0].predict(100 * x)).max() <= 1


def test_an_estimate_is_part_of_epsilon(records, fitted):
    """Composed again by dp_accounting's own accountant."""
    x, y = records
    facts = {**QUICK, "classes": [0, 1], "bounds": None, "bounds_fraction": 0.3}
    with pytest.warns(UserWarning, match="noise hides the range"):
        model = DPLogisticRegression(**facts).fit(x, y)
    releases = model.releases_
    assert releases.histograms.columns == 4
    assert releases.histograms.epsilon() == pytest.approx(0.3, rel=0.02)
    assert releases.training.noise_multiplier > 1.01 * fitted.releases_.training.noise_multiplier
    assert 0.98 < model.epsilon_ <= 1.0
    training = releases.training
    event = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.GaussianDpEvent(releases.histograms.noise_multiplier),
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    training.sampling_rate,
                    dp_accounting.GaussianDpEvent(training.noise_multiplier),
                ),
                training.steps,
            ),
        ]
    )
    reference = PLDAccountant().compose(event).get_epsilon(training.delta)
    assert model.epsilon_ == pytest.approx(reference, rel=0.01)
    assert f"epsilon = {model.epsilon_:.4f}" in model.privacy_statement()


def test_an_estimate_is_charged_to_the_budget(records, budget):
    x, y = records
    facts = {**QUICK, "bounds": None, "bounds_fraction": 0.5, "budget": budget, "epsilon": 2.0}
    with pytest.warns(UserWarning, match="noise hides"):
        model = DPLinearRegression(**facts).fit(x, y)
    assert model.releases_.histograms.columns == 5
    kinds = ["histograms" in run.mechanism for run in budget.runs]
    assert kinds == [True, False]
    assert all(run.status == "finished" for run in budget.runs)
    assert 0.98 * model.epsilon_ < budget.epsilon_held <= 2.0


def test_only_what_is_not_given_is_estimated(records):
    x, y = records
    facts = {**QUICK, "epsilon": 50.0, "bounds_fraction": 0.5}
    model = DPLinearRegression(**facts).fit(x, 30.0 * y)
    assert model.releases_.histograms.columns == 1
    assert model._target.high[0] >= 30
    assert list(model._features.high) == [1.0] * 4


def test_every_refit_is_charged(records, budget):
    x, y = records
    model = DPLogisticRegression(**QUICK, epsilon=1.0, classes=[0, 1], budget=budget)
    model.fit(x, y)
    one = budget.epsilon_held
    model.fit(x, y)
    assert len(budget.runs) == 2
    assert budget.epsilon_held > 1.2 * one
    assert model.epsilon_ == pytest.approx(one, rel=0.02)


def test_a_budget_that_cannot_hold_a_fit_stops_it(records, budget):
    x, y = records
    model = DPLogisticRegression(**QUICK, epsilon=6.0, classes=[0, 1], budget=budget)
    with pytest.raises(BudgetError):
        model.fit(x, y)
    assert budget.epsilon_held == 0
    # The histograms alone would fit.
    model.set_params(bounds=None, bounds_fraction=0.1)
    with pytest.raises(BudgetError, match="holds this release"):
        model.fit(x, y)
    assert budget.epsilon_held == 0


def test_a_fit_that_breaks_gives_back_what_it_did_not_spend(records, budget, monkeypatch):
    x, y = records

    def broken(self, step, mark, failure):
        raise OSError("no space left")

    monkeypatch.setattr("hushgrad.training.shared.SharedLedger.charge", broken)
    model = DPLogisticRegression(**QUICK, classes=[0, 1], budget=budget)
    with pytest.raises(OSError, match="no space"):
        model.fit(x, y)
    assert [run.status for run in budget.runs] == ["closed"]
    assert budget.epsilon_held == 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"bounds": None}, "bounds must be given"),
        ({"bounds": (1, 1)}, "low below high"),
        ({"bounds": (0, [1, 2, 3])}, "bounds must be a pair"),
        ({"bounds": (0, np.inf)}, "bounds must be finite"),
        ({"bounds": 3}, "bounds must be a pair"),
        ({"bounds_fraction": 0.5}, "bounds_fraction=0.5 is for bounds that are not given"),
        ({"bounds": None, "bounds_fraction": 1.5}, "bounds_fraction"),
        ({"classes": None}, "classes must be given"),
        ({"classes": "none"}, "classes must be given"),
        ({"classes": [0]}, "more than one class"),
        ({"classes": [0, 1, 1]}, "classes must be different"),
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 1}, "delta"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 1000}, "batch_size"),
        ({"clip": -1}, "clip"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"random_state": np.random.RandomState(0)}, "random_state"),
        ({"budget": "mine"}, "budget"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_before_anything_is_spent(
    changed, named, records, budget
):
    model = DPLogisticRegression(**{**QUICK, "classes": [0, 1], "budget": budget, **changed})
    with pytest.raises(InputError, match=named):
        model.fit(*records)
    assert not budget.runs


def test_so_are_targets_without_bounds(records, budget):
    with pytest.raises(InputError, match="target_bounds must be given"):
        DPMLPRegressor(**QUICK, budget=budget).fit(*records)
    assert not budget.runs


def test_a_label_that_is_not_declared_is_refused(records, budget):
    x, y = records
    model = DPLogisticRegression(**QUICK, classes=[0, 1], budget=budget)
    with pytest.raises(DataError, match=r"y has labels in 1 of 200 rows \(rows 3\)"):
        model.fit(x, np.where(np.arange(200) == 3, 2, y))
    assert not budget.runs


def test_classes_are_the_declared_ones_whatever_occurs(records):
    x, y = records
    model = DPLogisticRegression(**QUICK, classes=[0, 1, 5]).fit(x, y)
    assert model.classes_.tolist() == [0, 1, 5]
    assert model.coef_.shape == (3, 4)


def test_the_statement_says_what_was_taken_for_public_and_what_is_not_covered(records, fitted):
    declared = fitted.privacy_statement()
    observed = DPLogisticRegression(**QUICK, classes="observed").fit(*records).privacy_statement()
    assert "the features' bounds; the classes." in declared
    assert "which labels occur" in " ".join(observed.split())
    for words in ("one call of fit", "cross-validation", "SEEDED", "PLD accounting"):
        assert words in declared


def test_delta_follows_from_the_number_of_records(fitted):
    assert fitted.delta_ == 1e-5
    releases, _ = fitted._plan(20_000, 4, "classes", None)
    assert releases.training.delta == pytest.approx(5e-6)


def test_settings_follow_from_public_numbers_alone(records, fitted):
    x, y = records
    other = DPLogisticRegression(**QUICK, classes=[0, 1]).fit(0 * x, 0 * y)
    assert fitted.releases_ == other.releases_
    rates = [m._network.learning_rate(m.releases_.training) for m in (fitted, other)]
    assert rates[0] == rates[1]


def test_a_directory_keeps_the_run_and_serves_one_fit(records, tmp_path):
    x, y = records
    model = DPLogisticRegression(**QUICK, classes=[0, 1], directory=tmp_path / "run").fit(x, y)
    assert (tmp_path / "run" / "ledger.sqlite").exists()
    with pytest.raises(InputError, match="holds a fit that is finished"):
        model.fit(x[:, ::-1], y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:noise hides")
def test_a_fit_that_goes_on_estimates_nothing_again(records, tmp_path, budget, monkeypatch):
    x, y = records
    facts = {**QUICK, "bounds": None, "bounds_fraction": 0.5, "epsilon": 4.0}
    model = DPLogisticRegression(**facts, classes=[0, 1], directory=tmp_path / "run", budget=budget)

    def broken(self, step, mark, failure):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("hushgrad.training.shared.SharedLedger.charge", broken)
        with pytest.raises(OSError, match="no space"):
            model.fit(x, y)
    model.fit(x, y)
    assert ["histograms" in run.mechanism for run in budget.runs] == [True, False]
    assert budget.epsilon_held <= 4.0


def test_no_run_is_left_behind(records, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    DPLogisticRegression(**QUICK, classes=[0, 1]).fit(*records)
    assert not list(tmp_path.iterdir())


def test_a_budget_is_shared_by_copies(budget):
    m = hg.dp_sgd(examples=100, batch_size=10, steps=3, delta=1e-5, epsilon=1.0)
    for other in (copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))):
        before = budget.epsilon_held
        other.reserve(m)
        assert budget.epsilon_held > before
