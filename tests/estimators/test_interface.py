"""The estimators among scikit-learn's own: its checks, pipelines, searches, names."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from hushgrad.sklearn import (
    DPLinearRegression,
    DPLogisticRegression,
    DPMLPClassifier,
    DPMLPRegressor,
)

CLASSES = {"epsilon": 20.0, "bounds": (-10, 10), "classes": "observed", "steps": 20}
NUMBERS = {"epsilon": 20.0, "bounds": (-10, 10), "target_bounds": (-300, 300), "steps": 20}
ESTIMATORS = [
    DPLogisticRegression(**CLASSES),
    DPLinearRegression(**NUMBERS),
    DPMLPClassifier((4,), **CLASSES),
    DPMLPRegressor((4,), **NUMBERS),
]
# What privacy forbids, and why.
FORBIDDEN = {
    "check_sample_weight_equivalence_on_dense_data": (
        "A record of weight zero is not one that is absent, nor one of weight two one that is "
        "there twice: the number of records is public and sets batches and noise, and every "
        "record is clipped and drawn by itself."
    ),
}
# Of those that take no fit, or one.
FAST = (
    "check_parameters_default_constructible",
    "check_no_attributes_set_in_init",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_set_params",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_estimator_sparse_tag",
    "check_estimators_nan_inf",
    "check_complex_data",
    "check_fit1d",
)


def _forbidden(estimator):
    return FORBIDDEN


@pytest.mark.slow
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=_forbidden)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", ESTIMATORS[:2], ids=lambda e: type(e).__name__)
def test_scikit_learns_checks_that_are_fast(estimator):
    done = set()
    for found, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        if name in FAST:
            check(found)
            done.add(name)
    assert len(done) >= 9


def quick(**changed):
    facts = {"bounds": (-1, 1), "steps": 3, "batch_size": 20, "random_state": 0}
    return DPLogisticRegression(**{**facts, "classes": [0, 1], **changed})


def test_coefficients_are_in_the_units_of_the_features(records):
    x, y = records
    shift, scale = np.array([5.0, 0.0, -3.0, 100.0]), np.array([2.0, 1.0, 0.1, 50.0])
    model = quick(epsilon=50.0, bounds=(shift - scale, shift + scale)).fit(shift + scale * x, y)
    inside = shift + scale * x
    np.testing.assert_allclose(
        model.decision_function(inside), (inside @ model.coef_.T + model.intercept_)[:, 0]
    )
    assert model.coef_.shape == (1, 4)
    target = 10 + 5 * x[:, 0]
    line = DPLinearRegression(
        epsilon=500.0, bounds=(shift - scale, shift + scale), target_bounds=(5, 15), steps=5
    ).fit(inside, target)
    np.testing.assert_allclose(
        line.predict(inside), np.clip(inside @ line.coef_ + line.intercept_, 5, 15)
    )


def test_probabilities_and_classes_agree(records, fitted):
    x, _ = records
    found = fitted.predict_proba(x)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert np.array_equal(fitted.classes_[found.argmax(axis=1)], fitted.predict(x))


def test_it_learns_where_there_is_little_noise(records):
    x, y = records
    assert quick(epsilon=100.0, steps=50, batch_size=100).fit(x, y).score(x, y) > 0.9
    names = np.array(["no", "yes", "perhaps"])
    third = np.where(x[:, 3] > 0.5, 2, y)
    model = DPLogisticRegression(epsilon=100.0, bounds=(-1, 1), classes=names, random_state=0)
    assert model.fit(x, names[third]).score(x, names[third]) > 0.8
    assert model.classes_.tolist() == ["no", "perhaps", "yes"]


def test_a_pickled_estimator_predicts_the_same(records, fitted):
    x, _ = records
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.decision_function(x), fitted.decision_function(x))
    assert again.privacy_statement() == fitted.privacy_statement()


def test_it_stands_in_pipelines(records):
    x, y = records
    pipeline = make_pipeline(FunctionTransformer(np.tanh), quick())
    assert pipeline.fit(x, y).predict(x).shape == (200,)
    assert clone(pipeline).get_params()["dplogisticregression__steps"] == 3


def test_names_of_columns_are_kept_and_used_in_warnings(records):
    pandas = pytest.importorskip("pandas", reason="names come with pandas' tables")
    x, y = records
    table = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
    model = quick(bounds=None, bounds_fraction=0.1)
    with pytest.warns(UserWarning, match="range of a, b, c, d"):
        model.fit(table, y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]


def test_a_search_charges_every_fit_to_the_budget(records, budget):
    x, y = records
    model = quick(epsilon=0.5, budget=budget)
    search = GridSearchCV(model, {"learning_rate": [0.1]}, cv=2).fit(x, y)
    assert len(budget.runs) == 2 + 1
    assert all(run.status == "finished" for run in budget.runs)
    assert 0.7 < budget.epsilon_held <= 1.5
    assert "cross-validation" in search.best_estimator_.privacy_statement()


def test_a_search_ends_where_the_budget_does(records, budget):
    x, y = records
    model = quick(epsilon=4.9, budget=budget)
    with pytest.raises(RuntimeError, match="holds epsilon=5"):
        cross_val_score(model, x, y, cv=3, error_score="raise")
    assert len(budget.runs) == 1
    assert budget.epsilon_held <= 5
