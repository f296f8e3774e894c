"""What all private estimators share: from records to a trained network, and what it cost."""

from __future__ import annotations

import contextlib
import numbers
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from hushgrad._check import fraction, positive
from hushgrad.errors import InputError
from hushgrad.recipes import Network, tabular_mechanism
from hushgrad.sklearn.ranges import Ranges, declared, estimated
from hushgrad.summaries import Histograms, Releases
from hushgrad.training import Budget, Options, train
from hushgrad.training.directory import RunDirectory

__all__ = ["PrivateEstimator"]

_MOST_DELTA, _DELTA_SHARE = 1e-5, 0.1
# Checkpoints of a run that may go on after a crash, in steps.
_OFTEN = 50
_ONE_FIT = (
    "This is about one call of fit. Any other on the same records, as cross-validation and "
    "searches make them, is a release of its own, and all add up: a hg.Budget holds the total. "
    "Scores on held-out private records, by which a search chooses, carry no noise and are not "
    "covered."
)


class PrivateEstimator(BaseEstimator):
    """A model of clipped and scaled features, trained by DP-SGD.

    What the subclasses' docstrings call parameters are their constructors' arguments.
    """

    epsilon: float
    delta: float | None
    bounds: Any
    bounds_fraction: float | None
    batch_size: int | None
    steps: int
    learning_rate: float | None
    clip: float
    budget: Budget | None
    directory: str | Path | None
    random_state: int | None
    declared_: list[str]
    n_features_in_: int

    def privacy_statement(self) -> str:
        """What this fit promises, to whom and against what, in plain words.

        Raises:
          NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        return self.releases_.statement(self.declared_, _ONE_FIT, seeded=self.seeded_)

    def _feature_names(self) -> list[str]:
        known = getattr(self, "feature_names_in_", None)
        return [f"feature {n}" for n in range(self.n_features_in_)] if known is None else [*known]

    def _read(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Records, labels and weights as arrays, checked as scikit-learn does."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=self._y_is_numeric)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, weight

    _y_is_numeric = False

    def _train(
        self,
        X: Float[np.ndarray, "examples features"],
        y: np.ndarray,
        weight: Float[np.ndarray, " examples"],
        *,
        outputs: int = 1,
        task: Literal["classes", "number"] = "classes",
        target_bounds: Any = None,
    ) -> None:
        """Spends the budget; leaves the network's parameters and the ranges.

        Args:
          X: features, as they came.
          y: numbers of classes, or the targets as they came.
          weight: of each example in the loss.
          outputs: of the network.
          task: of the network.
          target_bounds: of a regression.
        """
        seed = _seed(self.random_state)
        network = Network(X.shape[1], outputs, self._hidden(), task)
        releases, known = self._plan(len(X), X.shape[1], task, target_bounds)
        rate = self.learning_rate
        optimizer = network.optimizer(releases.training, rate)
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise InputError(f"budget must be a hg.Budget, got {self.budget!r}")
        with self._place() as (directory, lasting):
            features, target = known
            if releases.histograms is not None:
                features, target = self._estimate(X, y, known, releases, directory, seed)
            data = (
                features.scaled(X).astype(np.float32),
                weight.astype(np.float32),
                y if target is None else target.scaled(y[:, None])[:, 0].astype(np.float32),
            )
            run = train(
                network.loss,
                network.init(0 if seed is None else seed),
                data,
                releases.training,
                optimizer=optimizer,
                directory=directory,
                budget=self.budget,
                seed=seed,
                # Where nothing can go on, only the last checkpoint is of use.
                options=Options(checkpoint_every=_OFTEN if lasting else releases.training.steps),
            )
        self._params = {k: np.asarray(v, np.float64) for k, v in run.params.items()}
        self._network, self._features, self._target = network, features, target
        self.releases_, self.seeded_ = releases, seed is not None
        self.epsilon_, self.delta_ = releases.epsilon, releases.training.delta
        self.n_iter_ = run.steps

    def _plan(
        self, examples: int, columns: int, task: str, target_bounds: Any
    ) -> tuple[Releases, tuple[Any, Any]]:
        """What will be released, and the ranges that are declared; nothing is spent."""
        positive("epsilon", self.epsilon)
        delta = min(_MOST_DELTA, _DELTA_SHARE / examples) if self.delta is None else self.delta
        features = target = None
        if self.bounds is not None:
            features = declared("bounds", self.bounds, columns)
        if target_bounds is not None:
            target = declared("target_bounds", target_bounds, 1)
        needed = columns * (features is None) + (task == "number" and target is None)
        histograms = None
        if needed:
            share = self._share("bounds" if features is None else "target_bounds")
            histograms = Histograms.of(
                examples=examples, columns=needed, epsilon=share * self.epsilon, delta=delta
            )
        elif self.bounds_fraction is not None:
            raise InputError(
                f"bounds_fraction={self.bounds_fraction!r} is for bounds that are not given; "
                "leave one of them out"
            )
        training = tabular_mechanism(
            examples,
            epsilon=self.epsilon,
            delta=delta,
            batch_size=self.batch_size,
            steps=self.steps,
            clip=self.clip,
            before=None if histograms is None else histograms.event,
        )
        return Releases(training, histograms), (features, target)

    def _share(self, name: str) -> float:
        if self.bounds_fraction is None:
            raise InputError(
                f"{name} must be given: (low, high), numbers or one for each column, from public "
                "knowledge and not from the records; or let them be estimated with a share of "
                "epsilon, such as bounds_fraction=0.1"
            )
        return fraction("bounds_fraction", self.bounds_fraction)

    def _estimate(
        self,
        X: np.ndarray,
        y: np.ndarray,
        known: tuple[Ranges | None, Ranges | None],
        releases: Releases,
        directory: Path,
        seed: int | None,
    ) -> tuple[Ranges, Ranges | None]:
        """The ranges that are not declared, at the price of the histograms."""
        assert releases.histograms is not None
        features, target = known
        values = [] if features is not None else list(X.T)
        names = [] if features is not None else self._feature_names()
        if len(values) < releases.histograms.columns:
            values, names = [*values, y], [*names, "the target"]
        found = estimated(
            np.column_stack(values),
            names,
            releases.histograms,
            then=releases.training,
            budget=self.budget,
            directory=directory,
            seed=seed,
        )
        if features is None:
            width = X.shape[1]
            features = Ranges(found.low[:width], found.high[:width])
            found = Ranges(found.low[width:], found.high[width:])
        return features, found if len(found.low) else target

    @contextlib.contextmanager
    def _place(self) -> Iterator[tuple[Path, bool]]:
        """Where the run is kept, and whether it lasts."""
        if self.directory is not None:
            folder = RunDirectory(self.directory)
            if folder.load() is not None and folder.secret() is None:
                raise InputError(
                    f"directory={str(folder.path)!r} holds a fit that is finished, perhaps of "
                    "other records; name another, or None for one that does not last"
                )
            yield folder.path, True
            return
        with tempfile.TemporaryDirectory(prefix="hushgrad-") as name:
            path = Path(name).resolve()
            try:
                yield path, False
            finally:
                # A run that ended badly cannot go on: what it did not spend is given back.
                for run in [] if self.budget is None else self.budget.runs:
                    if run.status == "open" and run.directory == str(path):
                        assert self.budget is not None
                        self.budget.close(run.name)

    def _hidden(self) -> tuple[int, ...]:
        return ()

    def _outputs(self, X: Any) -> Float[np.ndarray, "rows outputs"]:
        """Of the network, for records clipped and scaled as in training."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self._network.apply(self._params, self._features.scaled(X), np.tanh)


def _seed(random_state: Any) -> int | None:
    """NumPy's generators are no source of secrets, so none is taken."""
    if random_state is None:
        return None
    if not isinstance(random_state, numbers.Integral) or random_state < 0:
        raise InputError(
            "random_state must be None, for the operating system's entropy, or a whole number "
            f"of at least 0, for tests, got {random_state!r}"
        )
    return int(random_state)
