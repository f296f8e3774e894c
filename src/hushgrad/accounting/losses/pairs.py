"""What one release may look like with and without somebody: pairs of distributions.

A pair (P, Q) dominates a release if no neighbouring data sets give outputs that are
easier to tell apart; then composing the pairs bounds the composed releases (Zhu, Dong
and Wang 2022, arXiv 2106.08567). Here both are mixtures of unit Gaussians on a line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

__all__ = ["Mixture", "Pair", "Release", "dominating"]

# Of the inverse of a loss: its table, the steps that improve on it, and when to stop: what
# is off by so many deviations changes a mass by a square of that.
_TABLE, _NEWTON, _CLOSE = 513, 40, 1e-8

_Array = Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Unit Gaussians around `means`, drawn with probabilities `weights`."""

    means: tuple[float, ...]
    weights: tuple[float, ...]

    def density(self, x: _Array) -> _Array:
        """Of the mixture at every x."""
        return sum(
            (
                w * np.exp(-0.5 * np.square(x - m)) / math.sqrt(2 * math.pi)
                for m, w in zip(self.means, self.weights, strict=True)
            ),
            start=np.zeros_like(x),
        )

    def log_ratio(self, x: _Array) -> _Array:
        """Logarithm of the density over that of N(0, 1), exact where it is near zero."""
        return self.log_ratio_and_slope(x)[0]

    def log_ratio_and_slope(self, x: _Array) -> tuple[_Array, _Array]:
        """The logarithm and its derivative."""
        if len(self.means) == 1:
            (mean,) = self.means
            return mean * x - 0.5 * mean * mean, np.full_like(x, mean)
        parts = list(zip(self.means, self.weights, strict=True))
        terms = [m * x - 0.5 * m * m for m, _ in parts]
        most = np.maximum.reduce(terms)
        shares = [w * np.exp(t - most) for t, (_, w) in zip(terms, parts, strict=True)]
        total = sum(shares, start=np.zeros_like(x))
        slope = sum((m * s for (m, _), s in zip(parts, shares, strict=True)), np.zeros_like(x))
        near = [w * np.expm1(np.minimum(t, 1.0)) for t, (_, w) in zip(terms, parts, strict=True)]
        small = sum(near, start=np.zeros_like(x))
        # Near -1, where the sum nearly cancels, the other way is the exact one.
        exact = (most < 1.0) & (small > -0.5)
        log = np.where(exact, np.log1p(np.maximum(small, -0.5)), most + np.log(total))
        return log, slope / total

    def upper(self, tail: float) -> float:
        """A point with at most `tail` of the mixture above it."""
        each = np.array(self.weights) * len(self.weights)
        with np.errstate(divide="ignore"):
            quantiles = special.ndtri_exp(np.minimum(math.log(tail) - np.log(each), math.log(0.5)))
        return float(np.max(np.where(each > tail, np.array(self.means) - quantiles, -np.inf)))

    def reflected(self) -> Mixture:
        """The mixture of -x."""
        return Mixture(tuple(-m for m in self.means), self.weights)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two mixtures; the privacy loss log(P/Q) grows with x.

    Attributes:
      p, q: the mixtures.
      negative: if given, the pair whose losses count in place of this one's where they
        are negative; the mass that is then missing has no loss.
      crowded: if given, a probability, and the pair that with it takes this one's place,
        for all to see.
    """

    p: Mixture
    q: Mixture
    negative: Pair | None = None
    crowded: tuple[float, Pair] | None = None

    def loss(self, x: _Array) -> _Array:
        """The privacy loss at every x."""
        return self.p.log_ratio(x) - self.q.log_ratio(x)

    def range(self, tail: float) -> tuple[float, float]:
        """Between these lies P but for at most `tail` on either side."""
        return -self.p.reflected().upper(tail), self.p.upper(tail)

    def ends(self, tail: float) -> tuple[float, float]:
        """Between these lie the losses under P but for at most `tail` on either side."""
        low = self if self.negative is None else self.negative
        least, most = np.array([low.range(tail)[0]]), np.array([self.range(tail)[1]])
        ends = float(low.loss(least)[0]), float(self.loss(most)[0])
        if self.crowded is None:
            return ends
        other = self.crowded[1].ends(tail)
        return min(ends[0], other[0]), max(ends[1], other[1])

    def inverse(self, losses: _Array, low: float, high: float) -> _Array:
        """Where the loss takes these values, in [low, high]: by table, then by Newton's steps."""
        x = np.linspace(low, high, _TABLE)
        y = np.maximum.accumulate(self.loss(x))
        cell = np.clip(np.searchsorted(y, losses) - 1, 0, len(x) - 2)
        a, b = x[cell], x[cell + 1]
        rise = np.maximum(y[cell + 1] - y[cell], 1e-300)
        at = np.clip(a + (b - a) * (losses - y[cell]) / rise, a, b)
        for _ in range(_NEWTON):
            up, down = self.p.log_ratio_and_slope(at), self.q.log_ratio_and_slope(at)
            off = up[0] - down[0] - losses
            a, b = np.where(off <= 0, at, a), np.where(off >= 0, at, b)
            with np.errstate(divide="ignore", invalid="ignore"):
                newton = at - off / (up[1] - down[1])
            moved = np.where((newton > a) & (newton < b), newton, 0.5 * (a + b))
            done = np.max(np.abs(moved - at), initial=0) < _CLOSE
            at = moved
            if done:
                break
        return at


@dataclasses.dataclass(frozen=True)
class Release:
    """One noisy sum: with some probability somebody's part in it is some number of clips.

    Attributes:
      noise_multiplier: standard deviation of the noise over one clip.
      rate: probability that somebody takes part at all.
      parts: by how many clips the sum then changes, if not always by one.
      weights: probabilities of the `parts`.
      fixed_size: those who take part are drawn without replacement.
      crowded: probability that there is no room, so that who takes part takes another's place.
    """

    noise_multiplier: float
    rate: float = 1.0
    parts: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] = (1.0,)
    fixed_size: bool = False
    crowded: float = 0.0

    @property
    def moves(self) -> bool:
        """Somebody's part changes anything at all."""
        return self.rate > 0 and any(self.parts)

    @property
    def seen(self) -> float:
        """Probability that somebody's part changes anything."""
        return self.rate * sum(w for p, w in zip(self.parts, self.weights, strict=True) if p)

    @property
    def is_gaussian(self) -> bool:
        """Everybody takes part, always in the same way."""
        return self.rate == 1 and len(self.parts) == 1 and not self.crowded

    def moving(self, times: float) -> Release:
        """The same, with parts that change the sum by so many times as much."""
        return dataclasses.replace(self, parts=tuple(times * part for part in self.parts))

    def mixture(self) -> Mixture:
        """Of the sum's shift, in standard deviations of the noise."""
        means = [part / self.noise_multiplier for part in self.parts]
        weights = [self.rate * w for w in self.weights]
        if self.rate < 1:
            means, weights = [0.0, *means], [1 - self.rate, *weights]
        return Mixture(tuple(means), tuple(weights))


_NOTHING = Mixture((0.0,), (1.0,))


def dominating(release: Release, relation: str) -> Sequence[Pair]:
    """The release's dominating pairs, one for each direction of the relation.

    Adding and removing somebody are different directions where who takes part is
    drawn; a sequence of releases goes all in one direction. A replaced example may
    push the sum from one side of what it was to the other (Lebeda, Regehr, Kamath and
    Steinke 2024, arXiv 2405.20769). Replaced by the special example, which adds
    nothing, it is as if it were removed.

    Where as many are drawn as ever, without replacement, whoever is replaced moves the
    sum by two clips if drawn. By Balle, Barthe and Gaboardi 2018 (arXiv 1807.01647,
    advanced joint convexity), delta at e^epsilon >= 1 is at most that of removing
    somebody with such a part, and below 1, by symmetry, that of adding.

    Where a sample is cut to so many, let N of the others be drawn. If that leaves room, who
    takes part adds to the sum. If not, who takes part is kept with less than their `rate`
    and stands where another stood, all else the same: the sum moves by two clips. Neither
    N nor the others tell anything of them, so by joint convexity delta is at most the mean
    of both cases' deltas, which is that of a pair that shows the case.
    """
    shifted = release.mixture()
    if release.fixed_size:
        shifted = release.moving(2.0).mixture()
        added = Pair(_NOTHING, shifted.reflected())
        return (Pair(shifted, _NOTHING, negative=added),)
    if relation == "replace-one":
        return (Pair(shifted, shifted.reflected()),)
    if release.crowded:
        apart = dataclasses.replace(release, crowded=0.0)
        both = zip(
            dominating(apart, relation), dominating(apart.moving(2.0), relation), strict=True
        )
        return tuple(
            dataclasses.replace(roomy, crowded=(release.crowded, full)) for roomy, full in both
        )
    return Pair(shifted, _NOTHING), Pair(_NOTHING, shifted.reflected())
