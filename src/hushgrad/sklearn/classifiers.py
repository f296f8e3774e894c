"""Private classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import special
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets

from hushgrad._check import whole
from hushgrad.errors import DataError, InputError
from hushgrad.sklearn.base import PrivateEstimator
from hushgrad.training import Budget

__all__ = ["DPLogisticRegression", "DPMLPClassifier"]

_OBSERVED = "observed"
_SHOWN = 5

# The checks of types in the tests know no `Self`.
_Fitted = TypeVar("_Fitted", bound="_Classifier")


class _Classifier(ClassifierMixin, PrivateEstimator):
    """From labels to numbers of classes and back."""

    classes: Any
    classes_: np.ndarray

    def fit(self: _Fitted, X: Any, y: Any, sample_weight: Any = None) -> _Fitted:
        """Trains with differential privacy, spending epsilon.

        Args:
          X: features, [examples, features], finite numbers.
          y: labels, [examples].
          sample_weight: factor on each example's loss before its gradient is clipped, so it
            costs nothing; zero or more.

        Raises:
          InputError: if a parameter is missing or wrong; nothing has been spent.
          DataError: if a label is not one of `classes`; likewise.
          BudgetError: if the budget does not hold the fit; likewise.
          ValueError: if X or y are not what scikit-learn takes; likewise.
        """
        X, y, weight = self._read(X, y, sample_weight)
        check_classification_targets(y)
        classes = self._labels(y)
        two = len(classes) == 2
        numbers = np.searchsorted(classes, y).astype(np.float32 if two else np.int32)
        self._train(X, numbers, weight, outputs=1 if two else len(classes))
        self.classes_ = classes
        known = "which labels occur" if self._observes() else "the classes"
        ranged = ["the features' bounds"] if self.bounds is not None else []
        self.declared_ = ["the number of records", *ranged, known]
        self._expose()
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "..."]:
        """Scores before the sigmoid, [rows] for two classes; before the softmax, [rows, classes].

        Raises:
          NotFittedError: before `fit`.
        """
        out = self._outputs(X)
        return out[:, 0] if len(self.classes_) == 2 else out

    def predict_proba(self, X: Any) -> Float[np.ndarray, "rows classes"]:
        """Probability of each class, in the order of `classes_`."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([special.expit(-scores), special.expit(scores)])
        return special.softmax(scores, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row."""
        scores = self.decision_function(X)
        found = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[found]

    def _expose(self) -> None:
        """Fills in the attributes that are named in scikit-learn's way."""

    def _observes(self) -> bool:
        return isinstance(self.classes, str) and self.classes == _OBSERVED

    def _labels(self, y: np.ndarray) -> np.ndarray:
        if self.classes is None or (isinstance(self.classes, str) and not self._observes()):
            raise InputError(
                "classes must be given, since which labels occur tells of the records: a list of "
                "them, from public knowledge, or 'observed' where that is public, got "
                f"{self.classes!r}"
            )
        classes = np.unique(y if self._observes() else np.asarray(self.classes))
        if len(classes) < 2:
            raise InputError(f"classes: more than one class is needed, got {classes.tolist()}")
        if not self._observes() and len(classes) < len(self.classes):
            raise InputError(f"classes must be different, got {list(self.classes)}")
        unknown = np.flatnonzero(~np.isin(y, classes))
        if len(unknown):
            more = ", ..." if len(unknown) > _SHOWN else ""
            rows = ", ".join(str(row) for row in unknown[:_SHOWN]) + more
            raise DataError(
                f"y has labels in {len(unknown)} of {len(y)} rows (rows {rows}) that are not among "
                f"classes={classes.tolist()}; mend them, or declare them"
            )
        return classes

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Of a few hundred records little can be learned at a small epsilon.
        tags.classifier_tags.poor_score = True
        return tags


class DPLogisticRegression(_Classifier):
    """Logistic regression, softmax regression for several classes, by DP-SGD.

    ```python
    model = DPLogisticRegression(epsilon=1.0, bounds=(0, 100), classes=["no", "yes"])
    model.fit(x, y).predict_proba(x_new)
    ```

    Features are clipped to their bounds, in training and in predicting, and scaled. Settings
    that are left out follow from the number of records, of features, epsilon and delta alone.

    Formal guarantee: what `fit` leaves behind is (`epsilon_`, `delta_`)-differentially private
    under adding or removing one record (Abadi et al. 2016, arXiv 1607.00133), where the number
    of records, and what is declared, are public.

    Args:
      epsilon: spent by each fit, the estimate of bounds included.
      delta: by default a tenth of 1 / examples, at most 1e-5.
      bounds: (low, high) of the features, each a number or one for each feature. From public
        knowledge: taken from the records, they would tell of them.
      bounds_fraction: in place of `bounds`: share of epsilon for estimating them from noisy
        histograms. The rest, composed exactly, goes to the training.
      classes: the labels that can occur; "observed" for those in y, which then are public.
      batch_size: expected; a sixteenth of the records, or 512, or all of them by default.
      steps: noisy gradients.
      learning_rate: of the first step; from the noise by default.
      clip: bound on one record's gradient norm, in units of scaled features.
      budget: a `hg.Budget` that must hold every fit; copies of the estimator share it, and a
        pickled one holds the address of its database.
      directory: keeps the run, so that a fit goes on after a crash; one for each fit. By
        default nothing is kept.
      random_state: a number, for tests: not private against whoever knows it.

    Attributes:
      coef_: [1, features] for two classes, else [classes, features]; for features within bounds.
      intercept_: [1] or [classes].
      classes_: sorted.
      epsilon_: spent by this fit, at `delta_`.
      releases_: what was released, as mechanisms.
      n_features_in_: how many features there are; `feature_names_in_` where they have names.
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        *,
        delta: float | None = None,
        bounds: Any = None,
        bounds_fraction: float | None = None,
        classes: Any = None,
        batch_size: int | None = None,
        steps: int = 200,
        learning_rate: float | None = None,
        clip: float = 1.0,
        budget: Budget | None = None,
        directory: str | Path | None = None,
        random_state: int | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.bounds = bounds
        self.bounds_fraction = bounds_fraction
        self.classes = classes
        self.batch_size = batch_size
        self.steps = steps
        self.learning_rate = learning_rate
        self.clip = clip
        self.budget = budget
        self.directory = directory
        self.random_state = random_state

    def _expose(self) -> None:
        self.coef_ = self._params["dense1"].T / self._features.half
        self.intercept_ = self._params["bias1"] - self.coef_ @ self._features.centre


class DPMLPClassifier(_Classifier):
    """A network with tanh layers for classes, by DP-SGD.

    ```python
    model = DPMLPClassifier(epsilon=3.0, bounds=(0, 1), classes=range(10))
    ```

    Where there are few records a linear model is often better: noise grows with the number of
    weights. Parameters, attributes and the guarantee are those of `DPLogisticRegression`, but:

    Args:
      hidden_layer_sizes: units of each hidden layer.
      epsilon: as there, as are all that follow.
      delta: as there.
      bounds: as there.
      bounds_fraction: as there.
      classes: as there.
      batch_size: as there.
      steps: as there.
      learning_rate: as there.
      clip: as there.
      budget: as there.
      directory: as there.
      random_state: as there; also chooses where the hidden layers start, which is public.

    Attributes:
      coefs_: weights of each layer, for features that are clipped and scaled.
      intercepts_: biases of each layer.
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (32,),
        epsilon: float = 1.0,
        *,
        delta: float | None = None,
        bounds: Any = None,
        bounds_fraction: float | None = None,
        classes: Any = None,
        batch_size: int | None = None,
        steps: int = 200,
        learning_rate: float | None = None,
        clip: float = 1.0,
        budget: Budget | None = None,
        directory: str | Path | None = None,
        random_state: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epsilon = epsilon
        self.delta = delta
        self.bounds = bounds
        self.bounds_fraction = bounds_fraction
        self.classes = classes
        self.batch_size = batch_size
        self.steps = steps
        self.learning_rate = learning_rate
        self.clip = clip
        self.budget = budget
        self.directory = directory
        self.random_state = random_state

    def _hidden(self) -> tuple[int, ...]:
        return tuple(whole("hidden_layer_sizes", units) for units in self.hidden_layer_sizes)

    def _expose(self) -> None:
        layers = range(1, len(self._hidden()) + 2)
        self.coefs_ = [self._params[f"dense{n}"] for n in layers]
        self.intercepts_ = [self._params[f"bias{n}"] for n in layers]
