"""What a model of sequences says of examples of different lengths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from hushgrad.audit import statistics
from hushgrad.audit.outputs import Outputs
from hushgrad.errors import InputError

__all__ = ["of_sequences", "token_ranks"]


def of_sequences(logits: Iterable[Any], labels: Iterable[Any]) -> Outputs:
    """Outputs of a language or translation model, one row for each example.

    ```python
    members = hg.audit.of_sequences(
        (model(text) for text in train), (text[1:] for text in train)
    )
    ```

    An example is one sequence, or a list of all sequences of one person. Its loss is the mean
    cross entropy of its tokens; its features, for trained attacks, are the mean rank of the true
    tokens, zero for the likeliest (Song and Shmatikov 2019, arXiv 1811.00513), and the share
    of them that are the likeliest.

    Args:
      logits: for each example [tokens, vocabulary], or a list of such; drawn one by one, so a
        generator may be longer than the memory is large.
      labels: for each example the true tokens [tokens], or a list of such.

    Raises:
      InputError: if lengths differ, a token is out of range or a logit not finite.
    """
    losses, features = [], []
    examples = iter(labels)
    for place, said in enumerate(logits):
        try:
            truth = next(examples)
        except StopIteration:
            raise InputError(
                f"labels must be of as many examples as logits, got only {place}"
            ) from None
        ranks, log_p = _of_example(place, said, truth)
        losses.append(-log_p.mean())
        features.append([ranks.mean(), np.mean(ranks == 0)])
    if next(examples, None) is not None:
        raise InputError(
            f"labels must be of as many examples as logits, got more than {len(losses)}"
        )
    if not losses:
        raise InputError("logits must be of one example at least, got none")
    return Outputs(losses=np.array(losses), features=np.array(features))


def token_ranks(logits: ArrayLike, labels: ArrayLike) -> Float[np.ndarray, " tokens"]:
    """How many tokens of the vocabulary have a larger logit than the true one.

    Args:
      logits: float[tokens, vocabulary].
      labels: int[tokens].
    """
    said, truth = np.asarray(logits), np.asarray(labels).astype(int)
    own = said[np.arange(len(truth)), truth]
    return np.sum(said > own[:, None], axis=1).astype(float)


def _of_example(place: int, logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and log-probabilities of all its tokens."""
    many = isinstance(logits, (list, tuple)) and np.ndim(logits[0]) == 2
    pairs = list(zip(logits, labels, strict=False)) if many else [(logits, labels)]
    if many and len(logits) != len(labels):
        raise InputError(
            f"labels of example {place} must be {len(logits)} sequences as its logits, got "
            f"{len(labels)}"
        )
    ranks, log_p = [], []
    for said, truth in pairs:
        said, truth = np.asarray(said, float), np.asarray(truth).reshape(-1)
        _check(place, said, truth)
        truth = truth.astype(int)
        ranks.append(token_ranks(said, truth))
        log_p.append(statistics.log_softmax(said)[np.arange(len(truth)), truth])
    return np.concatenate(ranks), np.concatenate(log_p)


def _check(place: int, said: np.ndarray, truth: np.ndarray) -> None:
    if said.ndim != 2 or said.shape[0] != len(truth) or not said.size:
        raise InputError(
            f"logits of example {place} must be [tokens, vocabulary] for its {len(truth)} labels "
            f"and at least one token, got shape {said.shape}"
        )
    if not np.isfinite(said).all():
        raise InputError(f"logits of example {place} must be finite, got NaN or infinity")
    if np.any(truth != np.round(truth)) or truth.min() < 0 or truth.max() >= said.shape[1]:
        raise InputError(
            f"labels of example {place} must be tokens in [0, {said.shape[1]}), got "
            f"{truth.min()} to {truth.max()}"
        )
