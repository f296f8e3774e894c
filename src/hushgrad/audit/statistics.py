"""What tells members apart, from the predictions of one example and its label."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import special

__all__ = [
    "entropies",
    "log_complements",
    "log_softmax",
    "margins",
    "modified_entropies",
]

# All in float64: an overfitted model's probabilities differ from 1 by far less than float32 can
# tell, and those differences are what an attack looks at.
LogProbabilities = Float[np.ndarray, "n classes"]
Labels = Int[np.ndarray, " n"]


def log_softmax(logits: Float[np.ndarray, "n classes"]) -> LogProbabilities:
    """Logarithms of the probabilities that logits stand for, also of those within 1e-16 of 1."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    shifted = logits.astype(float) - logits.max(axis=1, keepdims=True).astype(float)
    rest = np.exp(shifted)
    rest[rows, top] = 0.0
    return shifted - np.log1p(rest.sum(axis=1, keepdims=True))


def log_complements(log_p: LogProbabilities) -> LogProbabilities:
    """log(1 - p) for each class, exact where p is close to 1 too."""
    rows, top = np.arange(len(log_p)), log_p.argmax(axis=1)
    rest = log_p.copy()
    rest[rows, top] = -np.inf
    # Only the likeliest class can have a p above one half, where 1 - p loses its digits.
    with np.errstate(divide="ignore"):
        found = np.log1p(-np.minimum(np.exp(log_p), 1.0))
    found[rows, top] = special.logsumexp(rest, axis=1)
    return found


def entropies(log_p: LogProbabilities) -> Float[np.ndarray, " n"]:
    """In nats."""
    return -np.sum(np.exp(log_p) * log_p, axis=1)


def modified_entropies(log_p: LogProbabilities, labels: Labels) -> Float[np.ndarray, " n"]:
    """Zero for certain and right, large for certain and wrong (Song and Mittal 2021, eq. 8)."""
    rows = np.arange(len(log_p))
    log_q = log_complements(log_p)
    terms = np.exp(log_p) * log_q
    terms[rows, labels] = np.exp(log_q[rows, labels]) * log_p[rows, labels]
    return -terms.sum(axis=1)


def margins(log_p: LogProbabilities, labels: Labels) -> Float[np.ndarray, " n"]:
    """The label's logit less the largest of the others."""
    rows = np.arange(len(log_p))
    rest = log_p.copy()
    rest[rows, labels] = -np.inf
    return log_p[rows, labels] - rest.max(axis=1)
