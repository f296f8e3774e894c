"""What a model says of some examples: all that an attack may look at."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special

from hushgrad._check import whole
from hushgrad.audit import statistics
from hushgrad.errors import InputError

__all__ = ["Outputs"]

_SMALLEST = 1e-30
_SUMS = 1e-3
_FIELDS = ("losses", "logits", "probabilities", "labels", "features")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Outputs:
    """What a model says of n examples; whatever of it there is.

    ```python
    members = hg.audit.Outputs(logits=model(x_train), labels=y_train)
    others = hg.audit.Outputs.of_keras(model, x_test, y_test)
    members.loss, members.modified_entropy, members.logit_margin
    ```

    Arrays are copied and the copies cannot be written to. Labels [n, k] of zeros and ones make
    the examples multi-label: k yes-or-no questions each. Predictions [n] or [n, 1] are of two
    classes: the logit or probability of class 1.

    Attributes:
      losses: float[n], of any loss function.
      logits: float[n, c], [n, k] or [n].
      probabilities: the same shapes; those of one example sum to 1 if there are classes.
      labels: int[n] in [0, c), or [n, k] of zeros and ones.
      features: float[n, f], whatever else trained attackers are to look at.
      multi_label: whether the labels are yes or no; found from the labels' shape, and to be said
        only if each example happens to have exactly one yes.

    Raises:
      InputError: if there is nothing or no example, lengths differ, a number is NaN or infinite,
        or labels or probabilities are out of range.
    """

    losses: ArrayLike | None = None
    logits: ArrayLike | None = None
    probabilities: ArrayLike | None = None
    labels: ArrayLike | None = None
    features: ArrayLike | None = None
    multi_label: bool | None = None

    def __post_init__(self) -> None:
        given = {
            name: _array(name, getattr(self, name))
            for name in _FIELDS
            if getattr(self, name) is not None
        }
        _check_lengths(given)
        if "labels" in given:
            given["labels"] = _labels(given["labels"])
        multi = _multi_label(self.multi_label, given)
        for name in ("logits", "probabilities"):
            if name in given:
                given[name] = _check_predictions(name, given[name], given.get("labels"), multi)
        if "probabilities" in given:
            given["probabilities"] = _probabilities(given["probabilities"], multi)
        for name, array in given.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "multi_label", multi)

    @classmethod
    def of_keras(
        cls,
        model: Any,
        x: Any,
        y: ArrayLike | None = None,
        *,
        batch_size: int = 256,
        logits: bool | None = None,
    ) -> Outputs:
        """What a Keras model predicts, in test mode.

        Also of a model that `hushgrad.keras.privatize` returned.

        Args:
          model: with `predict`.
          x: inputs, as `predict` takes them.
          y: labels: class numbers [n], one-hot or multi-label [n, k].
          batch_size: how many are predicted at once.
          logits: whether it says logits, not probabilities; by default that is seen
            from the numbers: those outside of [0, 1] are logits.

        Raises:
          InputError: as by `Outputs`.
        """
        said = np.asarray(model.predict(x, batch_size=whole("batch_size", batch_size), verbose=0))
        if said.ndim == 2 and said.shape[1] == 1:
            said = said[:, 0]
        if logits is None:
            logits = bool(np.any((said < 0) | (said > 1)))
        labels = None if y is None else np.asarray(y)
        if labels is not None and labels.ndim == 2 and _one_hot(labels) and labels.shape[1] > 1:
            labels = labels.argmax(axis=1)
        if logits:
            return cls(logits=said, labels=labels)
        return cls(probabilities=said, labels=labels)

    @classmethod
    def of_loss(
        cls,
        loss: Callable[..., Any],
        params: Any,
        data: Any,
        *,
        labels: ArrayLike | None = None,
        block: int = 256,
    ) -> Outputs:
        """Losses of examples one by one, by the loss that `hushgrad.train` takes.

        ```python
        members = hg.audit.Outputs.of_loss(loss, run.params, (x, y), labels=y)
        ```

        Args:
          loss: of one example: loss(params, *example) -> scalar.
          params: a pytree.
          data: arrays with a leading axis of one length: a tuple of the arguments.
          labels: for slices by class, if there are any.
          block: how many losses are computed at once.

        Raises:
          InputError: if the arrays' lengths differ, or as by `Outputs`.
        """
        import jax

        arrays = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        leaves = jax.tree.leaves(arrays)
        lengths = {len(leaf) if np.ndim(leaf) else 0 for leaf in leaves}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"data must be arrays of one length and at least one row, got {sorted(lengths)}"
            )
        count, block = lengths.pop(), min(whole("block", block), *map(len, leaves))
        losses = jax.jit(jax.vmap(loss, in_axes=(None, *[0] * len(arrays))))
        parts = []
        for start in range(0, count, block):
            # The last block is filled up, so that one program does for all.
            rows = np.minimum(np.arange(start, start + block), count - 1)
            taken = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], arrays)
            parts.append(np.asarray(losses(params, *taken)))
        found = np.concatenate(parts)[:count]
        if found.ndim == 2 and found.shape[1] == 1:
            found = found[:, 0]
        return cls(losses=found, labels=labels)

    def __len__(self) -> int:
        return next(len(a) for name in _FIELDS if (a := getattr(self, name)) is not None)

    def take(self, rows: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Outputs:
        """Those of some examples only."""
        part = copy.copy(self)
        for name in _FIELDS:
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(part, name, array[rows])
        return part

    @property
    def predictions(self) -> bool:
        """Whether there are logits or probabilities."""
        return self.logits is not None or self.probabilities is not None

    @property
    def loss(self) -> Float[np.ndarray, " n"]:
        """`losses` if they are there, else the cross entropy: summed over a multi-label's labels.

        Raises:
          InputError: if neither losses nor both predictions and labels are there.
        """
        if self.losses is not None:
            return np.asarray(self.losses, float)
        return -self._of_label("loss")

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """Probability that the model gives to the label; to all labels, of a multi-label."""
        return np.exp(self._of_label("confidence"))

    @property
    def entropy(self) -> Float[np.ndarray, " n"]:
        """Of the predictions, in nats, whatever the label; a multi-label's are summed."""
        return self._over_questions(statistics.entropies(self._log_p("entropy")))

    @property
    def modified_entropy(self) -> Float[np.ndarray, " n"]:
        """Small for members (Song and Mittal 2021, arXiv 2003.10595, eq. 8)."""
        log_p = self._log_p("modified_entropy")
        labels = self._flat_labels("modified_entropy")
        return self._over_questions(statistics.modified_entropies(log_p, labels))

    @property
    def logit_margin(self) -> Float[np.ndarray, " n"]:
        """log(p / (1 - p)) of the label's probability p (Carlini et al. 2022, 2112.03570)."""
        if self.multi_label:
            log_p = self._of_label("logit_margin")
            # 1 - exp(x) keeps its digits near zero as expm1.
            return log_p - np.log(np.maximum(-np.expm1(log_p), _SMALLEST))
        log_p, labels = self._log_p("logit_margin"), self._flat_labels("logit_margin")
        rows = np.arange(len(labels))
        return log_p[rows, labels] - statistics.log_complements(log_p)[rows, labels]

    @property
    def hinge(self) -> Float[np.ndarray, " n"]:
        """The label's logit less the largest of the others; the least one, of a multi-label."""
        found = statistics.margins(self._log_p("hinge"), self._flat_labels("hinge"))
        return found.reshape(len(self), -1).min(axis=1)

    @property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """Whether the likeliest class is the label; all of them, of a multi-label."""
        found = self._log_p("correct").argmax(axis=1) == self._flat_labels("correct")
        return found.reshape(len(self), -1).all(axis=1)

    def _log_p(self, wanted: str) -> Float[np.ndarray, "rows classes"]:
        """Log-probabilities of classes; a multi-label's questions are rows of two classes."""
        if self.logits is not None:
            logits = np.asarray(self.logits, float)
            if logits.ndim == 1 or self.multi_label:
                flat = logits.reshape(-1)
                return special.log_expit(np.stack([-flat, flat], axis=1))
            return statistics.log_softmax(logits)
        if self.probabilities is not None:
            p = np.asarray(self.probabilities, float)
            if p.ndim == 1 or self.multi_label:
                p = np.stack([1 - p.reshape(-1), p.reshape(-1)], axis=1)
            return np.log(np.maximum(p, _SMALLEST))
        raise InputError(f"{wanted} needs logits or probabilities, got neither; pass one of them")

    def _flat_labels(self, wanted: str) -> Int[np.ndarray, " rows"]:
        if self.labels is None:
            raise InputError(f"{wanted} needs labels, got none; pass the true classes as labels")
        return np.asarray(self.labels).reshape(-1)

    def _of_label(self, wanted: str) -> Float[np.ndarray, " n"]:
        labels = self._flat_labels(wanted)
        found = self._log_p(wanted)[np.arange(len(labels)), labels]
        return self._over_questions(found)

    def _over_questions(self, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " n"]:
        return values.reshape(len(self), -1).sum(axis=1)


def _array(name: str, value: Any) -> np.ndarray:
    """A copy as floats, or as it is for labels; all of it finite."""
    array = np.asarray(value)
    # bfloat16 is no kind of number to numpy.
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise InputError(f"{name} must be an array of numbers, got dtype {array.dtype}")
    most = 1 if name == "losses" else 2
    if not 1 <= array.ndim <= most:
        raise InputError(
            f"{name} must have {'one axis' if most == 1 else 'one or two axes'}, examples first, "
            f"got shape {array.shape}"
        )
    if not len(array):
        raise InputError(f"{name} must be of one example at least, got shape {array.shape}")
    array = np.array(array, np.float64 if array.dtype.itemsize > 4 else np.float32)
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        raise InputError(
            f"{name} must be finite, got NaN or infinity in {int(bad.sum())} of {len(array)} rows, "
            f"first in row {int(bad.argmax())}; leave these examples out"
        )
    return array[:, None] if name == "features" and array.ndim == 1 else array


def _check_lengths(given: dict[str, np.ndarray]) -> None:
    if not given:
        raise InputError(f"Outputs must have at least one of {', '.join(_FIELDS)}, got none")
    lengths = {name: len(array) for name, array in given.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise InputError(f"Outputs must be of the same examples, got {said}")


def _labels(labels: np.ndarray) -> np.ndarray:
    if np.any(labels != np.round(labels)) or np.any(labels < 0):
        wrong = labels[(labels != np.round(labels)) | (labels < 0)].flat[0]
        raise InputError(f"labels must be class numbers 0, 1, 2, ..., got {wrong:g}")
    labels = labels.astype(np.int64)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _one_hot(labels: np.ndarray) -> bool:
    return bool(np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1))


def _multi_label(said: bool | None, given: dict[str, np.ndarray]) -> bool:
    labels = given.get("labels")
    if labels is None or labels.ndim == 1:
        if said:
            raise InputError("multi_label=True needs labels [n, k] of zeros and ones")
        return False
    if labels.max() > 1:
        raise InputError(
            f"labels of two axes must be zeros and ones, got {int(labels.max())}; class numbers "
            f"have one axis"
        )
    if said is None and _one_hot(labels):
        raise InputError(
            f"labels of shape {labels.shape} have exactly one 1 in each row: pass class numbers, "
            f"labels.argmax(axis=1), or multi_label=True if these are yes-or-no labels"
        )
    if said is False:
        raise InputError(f"multi_label=False needs class numbers [n], got shape {labels.shape}")
    return True


def _check_predictions(
    name: str, array: np.ndarray, labels: np.ndarray | None, multi: bool
) -> np.ndarray:
    if multi:
        assert labels is not None
        if array.shape != labels.shape:
            raise InputError(
                f"{name} must have the shape {labels.shape} of the labels, got {array.shape}"
            )
        return array
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    classes = 2 if array.ndim == 1 else array.shape[1]
    if labels is not None and labels.max() >= classes:
        raise InputError(
            f"labels must be below {classes}, the number of classes in {name}, got "
            f"{int(labels.max())} in row {int(labels.argmax())}"
        )
    return array


def _probabilities(array: np.ndarray, multi: bool) -> np.ndarray:
    outside = (array < -1e-6) | (array > 1 + 1e-6)
    if outside.any():
        raise InputError(
            f"probabilities must lie in [0, 1], got {array[outside].flat[0]:g}; pass unnormalised "
            f"scores as logits"
        )
    if array.ndim == 2 and not multi:
        off = np.abs(array.sum(axis=1) - 1)
        if off.max() > _SUMS:
            row = int(off.argmax())
            raise InputError(
                f"probabilities must sum to 1 in each row, got {array[row].sum():g} in row {row}; "
                f"pass unnormalised scores as logits, and labels [n, k] if there are several"
            )
    return np.clip(array, 0, 1)
