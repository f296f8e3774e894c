"""The likelihood ratio attack: is a model more like those with an example, or those without?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from hushgrad.errors import InputError

__all__ = [
    "label_logit",
    "lira_leave_one_out",
    "lira_offline",
    "lira_online",
    "log_density",
    "logit_of_loss",
    "offset_score",
    "partners",
]

_CENTRES = ("median", "mean")
_ATTACKS = ("online", "offline")
# A share of the whole spread that is rounding, not spread.
_ROUNDING = 1e-12
_FEWEST = 4


def label_logit(logits: Float[Array, "*n classes"], label: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """log(p / (1 - p)) of the probability that logits give to the label: the attack's statistic.

    ```python
    def statistic(params, x, y):                      # of ONE example
        return hg.audit.label_logit(model(params, x), y)

    found = shadows.statistics(statistic, (x, y))
    ```

    Exact in float32 too, where a loss would be rounded to zero. Under `jax.jit` and `vmap`.
    """
    logits = jnp.asarray(logits)
    classes = jnp.arange(logits.shape[-1])
    own = classes == jnp.asarray(label)[..., None]
    return jnp.max(logits, axis=-1, where=own, initial=-jnp.inf) - jax.nn.logsumexp(
        logits, axis=-1, where=~own
    )


def logit_of_loss(losses: ArrayLike) -> Float[np.ndarray, "..."]:
    """log(p / (1 - p)) of p = exp(-loss), in float64.

    ```python
    statistics = hg.audit.logit_of_loss(shadows.statistics(loss, data))
    ```

    A loss of zero is taken as half the least that its type can tell from zero in 1 - p: float32
    losses say nothing above 17. `label_logit` does not lose these digits.

    Args:
      losses: cross entropies in nats, any shape.

    Raises:
      InputError: if one is below zero or NaN.
    """
    given = np.asarray(losses)
    if given.dtype.kind != "f":
        given = given.astype(float)
    found = given.astype(float)
    if not np.all(found >= 0):
        raise InputError(
            f"losses must be cross entropies of zero or more, got {_first(found, ~(found >= 0))}"
        )
    found = np.maximum(found, float(np.finfo(given.dtype).epsneg) / 2)
    return -found - np.log(-np.expm1(-found))


def lira_online(
    target: Float[ArrayLike, "examples *copies"],
    statistics: Float[ArrayLike, "shadows examples *copies"],
    members: Bool[ArrayLike, "shadows examples"],
    *,
    fixed_variance: bool = False,
    centre: str = "median",
) -> Float[np.ndarray, " examples"]:
    """Logarithms of the likelihood of "in" over that of "out", for each example.

    ```python
    shadows = hg.audit.train_shadows(loss, init, (x, y), optimizer=adam, batch_size=64, epochs=40)
    scores = hg.audit.lira_online(
        statistic_of_target, shadows.statistics(statistic, (x, y)), shadows.members
    )
    hg.audit.Roc.of(scores[was_member], scores[~was_member])
    ```

    For each example the statistic of the shadows that had it is normal, and so is that of the
    others (Carlini et al. 2022, arXiv 2112.03570, algorithm 1). Where no shadow was on a side, or
    their statistics are all the same, the mean over the other examples stands in.

    Args:
      target: the audited model's statistic: best `label_logit`. A last axis holds several
        of each example, as of augmented copies; their scores are averaged.
      statistics: the same of every shadow.
      members: which shadow had which example.
      fixed_variance: one variance for all examples: better below about 64 shadows.
      centre: "median" or "mean" of the shadows.

    Raises:
      InputError: if shapes do not match, a number is not finite, or one side is empty or without
        any spread for all examples.
    """
    target, statistics, members = _checked(target, statistics, members)
    fits = [
        _Side.of(statistics, side[..., None]).fit(centre, fixed_variance)
        for side in (members, ~members)
    ]
    return _online(target[None], *fits)[0]


def lira_offline(
    target: Float[ArrayLike, "examples *copies"],
    statistics: Float[ArrayLike, "shadows examples *copies"],
    members: Bool[ArrayLike, "shadows examples"],
    *,
    fixed_variance: bool = False,
    centre: str = "median",
) -> Float[np.ndarray, " examples"]:
    """How many standard deviations the statistic is above that of shadows without the example.

    ```python
    scores = hg.audit.lira_offline(statistic_of_target, statistics, shadows.members)
    ```

    For attackers who cannot train on the examples they ask about. The one-sided test of Carlini et
    al. 2022, section V-C, before it is made a probability, which would round to one. Arguments
    and errors as `lira_online`'s; shadows that had an example are not looked at for it.
    """
    target, statistics, members = _checked(target, statistics, members)
    fit = _Side.of(statistics, ~members[..., None]).fit(centre, fixed_variance)
    return _offline(target[None], fit)[0]


def lira_leave_one_out(
    statistics: Float[ArrayLike, "shadows examples *copies"],
    members: Bool[ArrayLike, "shadows examples"],
    *,
    attack: str = "online",
    fixed_variance: bool = False,
    centre: str = "median",
) -> Float[np.ndarray, "shadows examples"]:
    """Each shadow in turn attacked with all the others: many targets from few trainings.

    ```python
    scores = hg.audit.lira_leave_one_out(statistics, shadows.members)
    hg.audit.Roc.of(scores[shadows.members], scores[~shadows.members])
    ```

    A shadow whose members are exactly those that the target lacks is left out with it, as
    `train_shadows` makes them: else there would be one less on the target's own side, a worse fit
    that bends scores (an AUC of 0.43 where nothing can be told, with eight shadows).

    Args:
      statistics: as `lira_online`'s.
      members: as there.
      attack: "online" or "offline".
      fixed_variance: as there.
      centre: as there.

    Raises:
      InputError: as there, or if there are less than four shadows.
    """
    if attack not in _ATTACKS:
        raise InputError(f"attack must be 'online' or 'offline', got {attack!r}")
    statistics, members = checked_shadows(statistics, members, copies=True)
    inside, outside = removed(members)
    out = _Side.of(statistics, ~members[..., None]).fit(centre, fixed_variance, outside)
    if attack == "offline":
        return _offline(statistics, out)
    into = _Side.of(statistics, members[..., None]).fit(centre, fixed_variance, inside)
    return _online(statistics, into, out)


def log_density(
    target: Float[ArrayLike, "examples *copies"],
    shadows: Sequence[ArrayLike],
    *,
    fixed_variance: bool = False,
    centre: str = "median",
) -> Float[np.ndarray, " examples"]:
    """Log-density of each example's statistic under the normal distribution of some shadows'.

    ```python
    hg.audit.log_density(target, inside) - hg.audit.log_density(target, outside)
    ```

    For shadows that are not the same for all examples; the difference is that of `lira_online`.
    TensorFlow Privacy's scores have the other sign: "both" is the difference negated, "in"
    is the log-density of shadows inside negated, "out" is that of those outside.

    Args:
      target: as `lira_online`'s.
      shadows: for each example [shadows] or [shadows, copies] of its own number of shadows,
        which may be none.
      fixed_variance: as there.
      centre: as there.

    Raises:
      InputError: as there.
    """
    target = _target(target)
    fit = _ragged(shadows, target.shape).fit(centre, fixed_variance)
    return _density(target[None], fit).mean(axis=2)[0]


def offset_score(
    target: Float[ArrayLike, "examples *copies"],
    *sides: Sequence[ArrayLike],
    centre: str = "median",
) -> Float[np.ndarray, " examples"]:
    """Each example's statistic less that of shadows: how much more the model knows than others.

    ```python
    hg.audit.offset_score(target, outside)            # or (target, inside, outside)
    ```

    Calibration by difficulty (Watson et al. 2022, arXiv 2111.08440). Of several sides the mean of
    their centres is taken. Arguments and errors as `log_density`'s.
    """
    target = _target(target)
    if not sides:
        raise InputError("sides must be shadows inside, outside or both, got none")
    centres = [_ragged(side, target.shape).centres(centre)[0] for side in sides]
    return (target - np.mean(centres, axis=0)).mean(axis=1)


def partners(members: Bool[np.ndarray, "shadows examples"]) -> Int[np.ndarray, " shadows"]:
    """For each shadow the one that had exactly the other examples; -1 where there is none."""
    signs = np.where(members, 1.0, -1.0)
    opposite = signs @ signs.T == -members.shape[1]
    return np.where(opposite.sum(axis=1) == 1, opposite.argmax(axis=1), -1)


def removed(
    members: Bool[np.ndarray, "shadows examples"],
) -> tuple[Int[np.ndarray, "targets examples"], Int[np.ndarray, "targets examples"]]:
    """Who is left out of those in and those out when each shadow is the target; -1 is nobody."""
    if len(members) < _FEWEST:
        raise InputError(
            f"statistics must be of at least {_FEWEST} shadows to leave one out, got {len(members)}"
        )
    own, other = np.arange(len(members))[:, None], partners(members)[:, None]
    return np.where(members, own, other), np.where(members, other, own)


def checked_shadows(
    statistics: Any, members: Any, *, copies: bool
) -> tuple[np.ndarray, Bool[np.ndarray, "shadows examples"]]:
    """Statistics [shadows, examples, copies] (or without copies) and who had what."""
    statistics, members = np.asarray(statistics, float), np.asarray(members)
    wanted = "[shadows, examples] or [shadows, examples, copies]"
    if statistics.ndim not in ((2, 3) if copies else (2,)) or not statistics.size:
        raise InputError(
            f"statistics must be {wanted if copies else '[shadows, examples]'} and not empty, got "
            f"shape {statistics.shape}"
        )
    if members.dtype != bool or members.shape != statistics.shape[:2]:
        raise InputError(
            f"members must be boolean of shape {statistics.shape[:2]} as statistics, got "
            f"{members.dtype} of shape {members.shape}"
        )
    _finite("statistics", statistics, "train the shadow again with a lower learning rate")
    return (_with_copies(statistics, 2) if copies else statistics), members


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """A normal distribution for each target and example."""

    centre: Float[np.ndarray, "targets examples copies"]
    spread: Float[np.ndarray, "targets examples copies"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Side:
    """The shadows that are in, or those that are out, for each example.

    Attributes:
      values: of all shadows.
      ordered: of those on this side, from below; infinity after them.
      ranks: where each shadow stands there.
      count: how many are on this side.
      mean: of these.
      squares: of these, around the mean, summed.
    """

    values: Float[np.ndarray, "shadows examples copies"]
    ordered: Float[np.ndarray, "shadows examples copies"]
    ranks: Int[np.ndarray, "shadows examples copies"]
    count: Int[np.ndarray, "examples 1"]
    mean: Float[np.ndarray, "examples copies"]
    squares: Float[np.ndarray, "examples copies"]

    @classmethod
    def of(cls, values: np.ndarray, inside: Bool[np.ndarray, "shadows examples 1"]) -> _Side:
        counted = np.where(inside, values, np.inf)
        order = np.argsort(counted, axis=0, kind="stable")
        ranks = np.empty_like(order)
        places = np.broadcast_to(np.arange(len(values))[:, None, None], order.shape)
        np.put_along_axis(ranks, order, places, axis=0)
        count = inside.sum(axis=0)
        mean = np.where(inside, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = np.where(inside, (values - mean) ** 2, 0.0).sum(axis=0)
        ordered = np.take_along_axis(counted, order, axis=0)
        return cls(values, ordered, ranks, count, mean, squares)

    def fit(self, centre: str, fixed: bool, left_out: np.ndarray | None = None) -> _Fit:
        """For every target without whom `left_out` [targets, examples] names; for one without any.

        In closed form: what is left of count, sum and squares, and of the sorted values.
        """
        centres = self.centres(centre, left_out)
        gone, far = self._gone(left_out)
        left = self.count - gone
        # Around the mean of all, the sum of those that are left is what the other took away.
        total, squares = -far, np.maximum(self.squares - far**2, 0.0)
        if fixed:
            away = centres - self.mean
            number = left.sum() if left_out is None else left.sum(axis=(1, 2), keepdims=True)
            number = number * centres.shape[2]
            bias = (total - left * away).sum(axis=(1, 2), keepdims=True) / number
            around = squares - 2 * away * total + left * away**2
            variance = around.sum(axis=(1, 2), keepdims=True) / number - bias**2
            known = np.broadcast_to(variance > 0, variance.shape)
        else:
            divisor = np.maximum(left, 1)
            variance = squares / divisor - (total / divisor) ** 2
            known = (left > 1) & (variance > _ROUNDING * self.squares)
        spread = np.sqrt(np.where(known, variance, 0.0))
        spread = _filled(spread, known, "have different statistics")
        return _Fit(centres, np.broadcast_to(spread, centres.shape))

    def centres(self, kind: str, left_out: np.ndarray | None = None) -> np.ndarray:
        """Medians or means of those that are left, [targets, examples, copies]."""
        if kind not in _CENTRES:
            raise InputError(f"centre must be 'median' or 'mean', got {kind!r}")
        gone, far = self._gone(left_out)
        left = self.count - gone
        if kind == "mean":
            found = self.mean - far / np.maximum(left, 1)
        else:
            rank = np.full((1, 1, 1), len(self.values))
            if left_out is not None:
                taken = np.take_along_axis(self.ranks, np.maximum(left_out, 0)[..., None], axis=0)
                rank = np.where(gone, taken, len(self.values))
            low, high = (self._place(place, rank) for place in ((left - 1) // 2, left // 2))
            found = np.where(left > 0, low / 2 + high / 2, 0.0)
        return _filled(found, left > 0, "are on either side")

    def _gone(self, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Whether somebody is left out, and how far from the mean."""
        if left_out is None:
            return np.zeros((1, 1, 1), bool), np.zeros((1, 1, 1))
        gone = left_out[..., None] >= 0
        value = np.take_along_axis(self.values, np.maximum(left_out, 0)[..., None], axis=0)
        return gone, np.where(gone, value - self.mean, 0.0)

    def _place(self, place: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """The value at a place among those that are left, of whom the one at `rank` is not."""
        place = np.broadcast_to(np.maximum(place, 0), np.broadcast_shapes(place.shape, rank.shape))
        place = place + (place >= rank)
        place = np.broadcast_to(place, (len(place), *self.values.shape[1:]))
        found = np.take_along_axis(self.ordered, np.minimum(place, len(self.values) - 1), axis=0)
        return np.where(np.isfinite(found), found, 0.0)


def _filled(found: np.ndarray, known: np.ndarray, wanted: str) -> np.ndarray:
    """The mean over known examples wherever one is not known."""
    known = np.broadcast_to(known, found.shape)
    if known.all():
        return found
    count = known.sum(axis=1, keepdims=True)
    if not count.all():
        raise InputError(f"members must be such that shadows {wanted}: train more shadows")
    return np.where(known, found, np.where(known, found, 0.0).sum(axis=1, keepdims=True) / count)


def _density(values: np.ndarray, fit: _Fit) -> np.ndarray:
    return stats.norm.logpdf(values, fit.centre, fit.spread)


def _online(values: np.ndarray, inside: _Fit, outside: _Fit) -> np.ndarray:
    return (_density(values, inside) - _density(values, outside)).mean(axis=2)


def _offline(values: np.ndarray, outside: _Fit) -> np.ndarray:
    return ((values - outside.centre) / outside.spread).mean(axis=2)


def _checked(
    target: Any, statistics: Any, members: Any
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "shadows examples"]]:
    target = _target(target)
    statistics, members = checked_shadows(statistics, members, copies=True)
    if target.shape != statistics.shape[1:]:
        raise InputError(
            f"target must have the shape of each shadow's statistics, {statistics.shape[1:]} with "
            f"copies, got {target.shape}"
        )
    return target, statistics, members


def _target(target: Any) -> Float[np.ndarray, "examples copies"]:
    target = np.asarray(target, float)
    if target.ndim not in (1, 2) or not target.size:
        raise InputError(
            f"target must be [examples] or [examples, copies] and not empty, got shape "
            f"{target.shape}"
        )
    _finite("target", target, "look at the audited model")
    return _with_copies(target, 1)


def _ragged(shadows: Sequence[Any], shape: tuple[int, int]) -> _Side:
    """The same from a list of as many values as each example has."""
    if len(shadows) != shape[0]:
        raise InputError(
            f"shadows must be one array for each of {shape[0]} examples, got {len(shadows)}"
        )
    rows = [np.asarray(row, float) for row in shadows]
    rows = [row[:, None] if row.ndim == 1 else row for row in rows]
    for place, row in enumerate(rows):
        if row.ndim != 2 or row.shape[1] != shape[1]:
            raise InputError(
                f"shadows[{place}] must be [shadows, {shape[1]}] as target, got shape {row.shape}"
            )
        _finite(f"shadows[{place}]", row, "train the shadow again with a lower learning rate")
    most = max(1, *(len(row) for row in rows)) if len(rows) > 1 else max(1, len(rows[0]))
    values = np.zeros((most, *shape))
    inside = np.zeros((most, shape[0], 1), bool)
    for place, row in enumerate(rows):
        values[: len(row), place], inside[: len(row), place] = row, True
    return _Side.of(values, inside)


def _with_copies(array: np.ndarray, ndim: int) -> np.ndarray:
    return array[..., None] if array.ndim == ndim else array


def _finite(name: str, array: np.ndarray, mend: str) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name} must be finite, got {_first(array, bad)} at {where}: {mend}")


def _first(array: np.ndarray, bad: np.ndarray) -> float:
    return float(array[bad].ravel()[0])
