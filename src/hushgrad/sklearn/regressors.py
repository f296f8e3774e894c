"""Private regressors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from sklearn.base import RegressorMixin
from sklearn.utils import Tags

from hushgrad._check import whole
from hushgrad.sklearn.base import PrivateEstimator
from hushgrad.training import Budget

__all__ = ["DPLinearRegression", "DPMLPRegressor"]

# The checks of types in the tests know no `Self`.
_Fitted = TypeVar("_Fitted", bound="_Regressor")


class _Regressor(RegressorMixin, PrivateEstimator):
    """From targets within bounds to -1 .. 1 and back."""

    target_bounds: Any
    _y_is_numeric = True

    def fit(self: _Fitted, X: Any, y: Any, sample_weight: Any = None) -> _Fitted:
        """Trains with differential privacy, spending epsilon.

        Args:
          X: features, [examples, features], finite numbers.
          y: targets, [examples].
          sample_weight: factor on each example's loss before its gradient is clipped, so it
            costs nothing; zero or more.

        Raises:
          InputError: if a parameter is missing or wrong; nothing has been spent.
          BudgetError: if the budget does not hold the fit; likewise.
          ValueError: if X or y are not what scikit-learn takes; likewise.
        """
        X, y, weight = self._read(X, y, sample_weight)
        y = y.astype(np.float64)
        self._train(X, y, weight, task="number", target_bounds=self.target_bounds)
        given = {"features'": self.bounds, "target's": self.target_bounds}
        ranged = [f"the {name} bounds" for name, value in given.items() if value is not None]
        self.declared_ = ["the number of records", *ranged]
        self._expose()
        return self

    def predict(self, X: Any) -> Float[np.ndarray, " rows"]:
        """The target of each row, within the target's bounds.

        Raises:
          NotFittedError: before `fit`.
        """
        out = self._outputs(X)
        assert self._target is not None
        return self._target.clipped(out * self._target.half + self._target.centre)[:, 0]

    def _expose(self) -> None:
        """Fills in the attributes that are named in scikit-learn's way."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Of a few hundred records little can be learned at a small epsilon.
        tags.regressor_tags.poor_score = True
        return tags


class DPLinearRegression(_Regressor):
    """Linear regression by DP-SGD.

    ```python
    model = DPLinearRegression(epsilon=1.0, bounds=(0, 1), target_bounds=(0, 500))
    model.fit(x, y).predict(x_new)
    ```

    Features and targets are clipped to their bounds and scaled; predictions stay within the
    target's. Settings that are left out follow from the number of records, of features,
    epsilon and delta alone.

    Formal guarantee: what `fit` leaves behind is (`epsilon_`, `delta_`)-differentially private
    under adding or removing one record (Abadi et al. 2016, arXiv 1607.00133), where the number
    of records, and what is declared, are public.

    Args:
      epsilon: spent by each fit, the estimate of bounds included.
      delta: by default a tenth of 1 / examples, at most 1e-5.
      bounds: (low, high) of the features, each a number or one for each feature. From public
        knowledge: taken from the records, they would tell of them.
      target_bounds: (low, high) of the target, likewise.
      bounds_fraction: share of epsilon for estimating those of the two that are not given, from
        noisy histograms. The rest, composed exactly, goes to the training.
      batch_size: expected; a sixteenth of the records, or 512, or all of them by default.
      steps: noisy gradients.
      learning_rate: of the first step; from the noise by default.
      clip: bound on one record's gradient norm, in units of scaled features and target.
      budget: a `hg.Budget` that must hold every fit; copies of the estimator share it, and a
        pickled one holds the address of its database.
      directory: keeps the run, so that a fit goes on after a crash; one for each fit. By
        default nothing is kept.
      random_state: a number, for tests: not private against whoever knows it.

    Attributes:
      coef_: [features], for features within bounds.
      intercept_: a number.
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
        target_bounds: Any = None,
        bounds_fraction: float | None = None,
        batch_size: int | None = None,
        steps: int = 200,
        learning_rate: float | None = None,
        clip: float = 0.2,
        budget: Budget | None = None,
        directory: str | Path | None = None,
        random_state: int | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.bounds = bounds
        self.target_bounds = target_bounds
        self.bounds_fraction = bounds_fraction
        self.batch_size = batch_size
        self.steps = steps
        self.learning_rate = learning_rate
        self.clip = clip
        self.budget = budget
        self.directory = directory
        self.random_state = random_state

    def _expose(self) -> None:
        assert self._target is not None
        scale, centre = float(self._target.half[0]), float(self._target.centre[0])
        self.coef_ = scale * self._params["dense1"][:, 0] / self._features.half
        shift = self.coef_ @ self._features.centre
        self.intercept_ = float(centre + scale * self._params["bias1"][0] - shift)


class DPMLPRegressor(_Regressor):
    """A network with tanh layers for a number, by DP-SGD.

    ```python
    model = DPMLPRegressor(epsilon=3.0, bounds=(0, 1), target_bounds=(0, 500))
    ```

    Where there are few records a linear model is often better: noise grows with the number of
    weights. Parameters, attributes and the guarantee are those of `DPLinearRegression`, but:

    Args:
      hidden_layer_sizes: units of each hidden layer.
      epsilon: as there, as are all that follow.
      delta: as there.
      bounds: as there.
      target_bounds: as there.
      bounds_fraction: as there.
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
        target_bounds: Any = None,
        bounds_fraction: float | None = None,
        batch_size: int | None = None,
        steps: int = 200,
        learning_rate: float | None = None,
        clip: float = 0.2,
        budget: Budget | None = None,
        directory: str | Path | None = None,
        random_state: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epsilon = epsilon
        self.delta = delta
        self.bounds = bounds
        self.target_bounds = target_bounds
        self.bounds_fraction = bounds_fraction
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
