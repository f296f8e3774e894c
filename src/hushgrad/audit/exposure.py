"""Secrets in a text that a model was trained on: how much likelier it finds them than others."""

from __future__ import annotations

import dataclasses
import itertools
import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree
from numpy.typing import ArrayLike
from scipy import integrate, special, stats

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.gradients.inputs import batch_size

__all__ = [
    "Secrets",
    "exposure_by_extrapolation",
    "exposure_by_interpolation",
    "log_perplexity",
    "secrets",
]

_BLOCK = 64
# A skew-normal distribution has three parameters.
_FEWEST = 10
# Draws for each secret before the pattern is taken to have no more.
_TRIES = 100
# Below, a distribution function has lost its digits, and its density is integrated.
_TAIL = 1e-6


@dataclasses.dataclass(frozen=True)
class Secrets:
    """Random texts of one pattern, some to be inserted, the others to compare with.

    Attributes:
      pattern: of all of them.
      inserted: how often a text is to be inserted -> such texts.
      references: texts that are not.
    """

    pattern: str
    inserted: Mapping[int, tuple[str, ...]]
    references: tuple[str, ...]

    def texts(self) -> list[str]:
        """Each secret as often as it is to be in the training data."""
        return [text for times, each in self.inserted.items() for text in each * times]


def secrets(
    pattern: str,
    vocabulary: Sequence[str] | Sequence[Sequence[str]],
    *,
    repetitions: Mapping[int, int],
    references: int,
    seed: int = 0,
) -> Secrets:
    """Draws different texts of a pattern at random (Carlini et al. 2019, arXiv 1802.08232).

    ```python
    s = hg.audit.secrets(
        "my pin is {}{}{}{}", "0123456789", repetitions={1: 10, 16: 10}, references=1000
    )
    train_texts += s.texts()              # ten secrets once, ten others sixteen times
    ```

    All are equally likely, so a model that never saw them orders secrets and references at random.

    Args:
      pattern: with a `{}` for each slot.
      vocabulary: words for every slot, or a list of words for each.
      repetitions: how often a text is inserted -> how many such texts there are.
      references: how many are not inserted; interpolation tells no exposure above log2 of it.
      seed: of the draws; whoever knows it knows the secrets.

    Raises:
      InputError: if the pattern has no slots or other fields than `{}`, a vocabulary is empty or
        repeats itself, a number is out of range, or there are not so many different texts.
    """
    words = _words(vocabulary, _slots(pattern))
    if not isinstance(repetitions, Mapping) or not repetitions:
        raise InputError(f"repetitions must say how many texts of which, got {repetitions!r}")
    counts = {whole("repetitions", t): whole("repetitions", n) for t, n in repetitions.items()}
    wanted = sum(counts.values()) + whole("references", references)
    rng = np.random.default_rng(whole("seed", seed, at_least=0))
    texts = _draw(pattern, words, wanted, rng)
    rest = iter(texts)
    inserted = {times: tuple(itertools.islice(rest, count)) for times, count in counts.items()}
    return Secrets(pattern, inserted, tuple(rest))


def log_perplexity(
    loss: Callable[..., Any],
    params: PyTree[Array],
    sequences: Any,
    *,
    block: int = _BLOCK,
) -> Float[np.ndarray, " sequences"]:
    """Minus log2 of the probability of each sequence, by a language model.

    ```python
    found = hg.audit.log_perplexity(loss, run.params, tokens)      # int[sequences, length]
    exposure = hg.audit.exposure_by_interpolation(found[: len(own)], found[len(own) :])
    ```

    Args:
      loss: `loss(params, *sequence) -> scalar`, the cross entropy of ONE sequence in nats; its
        mean over tokens serves as well where all are of one length.
      params: a pytree.
      sequences: an array with a leading axis, or a tuple of the loss's arguments.
      block: how many are taken at once.

    Raises:
      InputError: if arrays differ in length or are empty, or a loss is NaN.
    """
    data = tuple(sequences) if isinstance(sequences, tuple) else (sequences,)
    count = batch_size(data)
    if not count:
        raise InputError("sequences must hold one at least, got none")
    block = min(whole("block", block), count)

    @jax.jit
    def run(params: Any, data: Any) -> Array:
        return lax.map(lambda one: loss(params, *one), data, batch_size=block)

    found = np.asarray(run(params, jax.tree.map(jnp.asarray, data)), float)
    return _scores("loss of sequences", found) / math.log(2)


def exposure_by_interpolation(
    secret_scores: Float[ArrayLike, " secrets"], reference_scores: Float[ArrayLike, " references"]
) -> Float[np.ndarray, " secrets"]:
    """log2 of the number of references, less log2 of each secret's rank among them.

    ```python
    hg.audit.exposure_by_interpolation([0.0, 3.5, 20.0], range(1, 17))    # 4, 2, -0.09
    ```

    In bits: a model that never saw a secret exposes at least k bits of it with probability
    2 ** -k. References of the same score stand before a secret, so a model that finds all alike
    exposes nothing. At most log2 of the number of references, even of a secret known by heart
    (Carlini et al. 2019, arXiv 1802.08232, section 4.3).

    Args:
      secret_scores: log-perplexities, or others that are lower where a text is likelier.
      reference_scores: of texts of the same kind that were not in the training data.

    Raises:
      InputError: if there are none, or one is NaN.
    """
    own = _scores("secret_scores", secret_scores)
    others = np.sort(_scores("reference_scores", reference_scores))
    ranks = np.searchsorted(others, own, side="right") + 1
    return np.log2(len(others)) - np.log2(ranks)


def exposure_by_extrapolation(
    secret_scores: Float[ArrayLike, " secrets"], reference_scores: Float[ArrayLike, " references"]
) -> Float[np.ndarray, " secrets"]:
    """Minus log2 of the share of all texts that would score as low, by a fitted distribution.

    ```python
    hg.audit.exposure_by_extrapolation(found[: len(own)], found[len(own) :])
    ```

    A skew-normal distribution is fitted to the references (Carlini et al. 2019, section 4.3), so
    it goes on where no reference scores as low as the secret: there it is as good as the
    fit, and no bound of anything.

    Args:
      secret_scores: as `exposure_by_interpolation`'s.
      reference_scores: as there, ten or more.

    Raises:
      InputError: as there, or if scores are infinite or all references score the same.
    """
    own = _scores("secret_scores", secret_scores)
    others = _scores("reference_scores", reference_scores)
    for name, scores in (("secret_scores", own), ("reference_scores", others)):
        if not np.isfinite(scores).all():
            raise InputError(f"{name} must be finite, got infinity: use exposure_by_interpolation")
    if len(others) < _FEWEST:
        raise InputError(
            f"reference_scores must be of at least {_FEWEST} texts to fit a distribution, got "
            f"{len(others)}"
        )
    if np.ptp(others) == 0:
        raise InputError(
            f"reference_scores must differ, got {others[0]:g} for all: use "
            "exposure_by_interpolation"
        )
    fitted: Any = stats.skewnorm.fit(others)
    shape, place, scale = fitted
    shares = stats.skewnorm.cdf(own, shape, place, scale)
    tail = shares < _TAIL
    with np.errstate(divide="ignore", invalid="ignore"):
        found = -np.log2(shares)
    z = (own - place) / scale
    found[tail] = [-_log_tail(one, shape) / math.log(2) for one in z[tail]]
    return found


def _log_tail(z: float, shape: float) -> float:
    """The logarithm of the probability below z, far below the mode, where the density rises."""

    def log_density(at: float) -> float:
        return math.log(2) - at**2 / 2 - math.log(2 * math.pi) / 2 + special.log_ndtr(shape * at)

    top = log_density(z)
    # In units in which the density begins to fall by a factor of e.
    unit = 1e-5 / abs(log_density(z + 1e-5 * max(1, abs(z))) - top) * max(1, abs(z))
    area = integrate.quad(lambda u: math.exp(log_density(z - u * unit) - top), 0, np.inf)[0]
    return float(top + math.log(unit * area))


def _slots(pattern: str) -> int:
    if not isinstance(pattern, str):
        raise InputError(f"pattern must be a text with {{}} for each slot, got {pattern!r}")
    try:
        fields = [field[1:] for field in string.Formatter().parse(pattern) if field[1] is not None]
    except ValueError as error:
        raise InputError(f"pattern {pattern!r} cannot be read: {error}") from None
    if not fields or any(name or spec or conversion for name, spec, conversion in fields):
        raise InputError(
            f"pattern must have {{}} for each slot and no other fields, got {pattern!r}"
        )
    return len(fields)


def _words(vocabulary: Any, slots: int) -> list[list[str]]:
    given = list(vocabulary)
    if all(isinstance(word, str) for word in given):
        given = [given] * slots
    if len(given) != slots:
        raise InputError(
            f"vocabulary must be words, or a list of words for each of {slots} slots, got "
            f"{len(given)} lists"
        )
    lists = [list(words) for words in given]
    for words in lists:
        if not words or not all(isinstance(word, str) for word in words):
            raise InputError(f"vocabulary must hold words for every slot, got {words[:5]!r}")
        if len(set(words)) < len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise InputError(f"vocabulary must hold each word once, got {twice!r} twice")
    return lists


def _draw(pattern: str, words: list[list[str]], wanted: int, rng: np.random.Generator) -> list[str]:
    """Different texts; words of different lengths may make the same one twice."""
    total = math.prod(map(len, words))
    if total <= 4 * wanted:
        # Sorted first: what is drawn must not depend on how duplicates fell out.
        every = sorted({pattern.format(*chosen) for chosen in itertools.product(*words)})
        found = [every[place] for place in rng.permutation(len(every))]
    else:
        texts: dict[str, None] = {}
        for _ in range(_TRIES * wanted):
            if len(texts) == wanted:
                break
            chosen = [each[rng.integers(len(each))] for each in words]
            texts[pattern.format(*chosen)] = None
        found = list(texts)
    if len(found) < wanted:
        raise InputError(
            f"pattern {pattern!r} gives only {len(found)} different texts, and {wanted} are "
            "asked for: take a larger vocabulary, more slots or fewer texts"
        )
    return found[:wanted]


def _scores(name: str, values: Any) -> Float[np.ndarray, " n"]:
    found = np.array(values, float)
    if found.ndim != 1 or not found.size:
        raise InputError(f"{name} must be one number for each text, got shape {found.shape}")
    if np.isnan(found).any():
        raise InputError(f"{name} must not be NaN, got NaN at {int(np.isnan(found).argmax())}")
    return found
