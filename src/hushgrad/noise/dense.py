"""Any lower-triangular matrix, for short runs: the least error there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, UInt32
from scipy import linalg

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.noise.banded import Banded
from hushgrad.noise.columns import of_columns
from hushgrad.noise.gaussian import gaussian, normals_for, plus, step_key
from hushgrad.noise.optimise import cached, descended
from hushgrad.noise.packed import packed, unpacked
from hushgrad.noise.participation import OncePerPass, Participation, Periodic, Spaced
from hushgrad.noise.strategy import Strategy, widest, within
from hushgrad.noise.workload import Workload

__all__ = ["Dense", "DenseState", "dense"]

_ONCE = Spaced(1, 1)
# A step draws all earlier steps' normals again, and the matrix is part of the mechanism's record.
_MOST_STEPS = 1024


class DenseState(NamedTuple):
    """What the noise of later steps depends on. As secret as the key.

    Attributes:
      step: how many were made.
      keys: of all steps.
    """

    step: Int[Array, ""]
    keys: UInt32[Array, "steps 8"]


def dense(
    stddev: float | Float[Array, ""],
    *,
    steps: int,
    pattern: Participation = _ONCE,
    workload: Workload | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise that takes shares off all earlier steps', each step its own shares.

    ```python
    noise = hg.noise.dense(stddev=1.1 * clip, steps=200)
    state = noise.init(params)
    private_sum, state = noise.update(clipped.grads, state, key=key)    # step after step
    ```

    The noise of all steps is C^-1 z with z independent normals and C the lower-triangular matrix
    of least squared error for the workload, in which columns of steps that one participant may
    both be in are orthogonal (Denisov et al. 2022, arXiv 2202.08312; Choquette-Choo et al. 2022,
    arXiv 2211.06530). The state holds the keys of the steps; a step draws the normals of all steps
    before it again, so that memory does not grow and time does.

    Formal guarantee: as `banded`, with the sensitivity of `Dense.of(...)`.

    Args:
      stddev: of z, in the units of the sums.
      steps: how many are made, at most 1,024; noise of a step after these is not a number.
      pattern: when somebody may take part; once by default.
      workload: what the noise is kept small for; prefix sums by default.

    Raises:
      InputError: as `gaussian`; or if `steps` is not positive or too large.
    """
    return Dense.of(steps, pattern, workload).transformation(stddev, steps)


@dataclasses.dataclass(frozen=True)
class Dense(Strategy):
    """A lower-triangular matrix: `dense`.

    Attributes:
      steps: how many rows and columns it has.
      entries: its rows up to the diagonal, packed, in float16.

    Raises:
      InputError: if `steps` is not positive or too large, `entries` not what a strategy wrote, or
        an entry on the diagonal not positive.
    """

    steps: int
    entries: str

    kind = "dense"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _few(self.steps))
        if not np.all(np.diagonal(self._given()) > 0):
            raise InputError("entries must be positive on the diagonal")

    @classmethod
    def of(
        cls, steps: int, pattern: Participation = _ONCE, workload: Workload | None = None
    ) -> Dense:
        """The matrix of least error for a way to take part."""
        steps, workload = _few(steps), workload or Workload()
        facts = {"steps": steps, "pattern": repr(pattern), **dataclasses.asdict(workload)}
        found = cached("dense", facts, lambda: _found(steps, pattern, workload))
        return cls(steps, packed(found[np.tril_indices(steps)].astype(np.float16)))

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Dense:
        """As `of`."""
        return cls.of(steps, pattern, workload)

    @property
    def matrix(self) -> Float[np.ndarray, "steps steps"]:
        """C: exactly the inverse of the float32 matrix that the draws are multiplied with."""
        return _lower_inverse(self._weights().astype(float))

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `dense`, with this matrix.

        Raises:
          InputError: if more steps are asked for than it has.
        """
        gaussian(stddev)  # or an error
        within(steps, self.steps)  # or an error
        weights = self._weights()

        def init(params: optax.Params) -> optax.OptState:
            del params
            return DenseState(jnp.zeros((), jnp.int32), jnp.zeros((self.steps, 8), jnp.uint32))

        def update(
            updates: optax.Updates,
            state: optax.OptState,
            params: optax.Params | None = None,
            *,
            key: UInt32[Array, "8"] | None = None,
            **extra: Any,
        ) -> tuple[optax.Updates, optax.OptState]:
            del params, extra
            key = step_key(key)
            assert isinstance(state, DenseState)
            leaves, treedef = jax.tree.flatten(updates)
            keys = state.keys.at[state.step].set(key, mode="drop")
            row = jnp.where(
                state.step < self.steps,
                jnp.asarray(weights)[jnp.minimum(state.step, self.steps - 1)],
                jnp.nan,
            )

            def add(step: Array, sums: list[Array | None]) -> list[Array | None]:
                weight = row[jnp.minimum(step, self.steps - 1)]
                drawn = normals_for(keys[jnp.minimum(step, self.steps - 1)], leaves)
                return [
                    None
                    if total is None or made is None
                    else total + weight.astype(total.dtype) * made
                    for total, made in zip(sums, drawn, strict=True)
                ]

            shapes = jax.eval_shape(lambda: normals_for(key, leaves))
            zeros = [None if s is None else jnp.zeros(s.shape, s.dtype) for s in shapes]
            made = lax.fori_loop(0, state.step + 1, add, zeros)
            state = DenseState(state.step + 1, keys)
            return jax.tree.unflatten(treedef, plus(leaves, made, stddev)), state

        return optax.GradientTransformationExtraArgs(init, update)

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """The norm of the worst columns' sum, in the first `steps` rows."""
        matrix, place = self.matrix, np.arange(self.steps)
        shifted = np.minimum(place[:, None] + place, self.steps - 1)
        columns = matrix[shifted, place[:, None]]
        # Who sees fewer steps knows no more, though columns cut off are less orthogonal.
        shorter = columns[: within(steps, self.steps), :steps]
        return min(of_columns(shorter, pattern), of_columns(columns, pattern))

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of the noise in the sum of steps 1..t, for each t, in a draw's variance."""
        weights = self._weights()[: within(steps, self.steps)].astype(float)
        return (np.cumsum(weights, axis=0) ** 2).sum(axis=1)

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        return (
            f"Gaussian noise with multiplier {noise_multiplier:.6g} correlated by a dense matrix "
            f"over {self.steps:,} steps"
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Dense:
        """The strategy that `to_dict` wrote."""
        return cls(plain["steps"], plain["entries"])

    def _given(self) -> Float[np.ndarray, "steps steps"]:
        found = np.zeros((self.steps, self.steps))
        count = self.steps * (self.steps + 1) // 2
        found[np.tril_indices(self.steps)] = unpacked("entries", self.entries, np.float16, count)
        return found

    def _weights(self) -> Float[np.ndarray, "steps steps"]:
        return _lower_inverse(self._given()).astype(np.float32)


def _few(steps: int) -> int:
    if whole("steps", steps) > _MOST_STEPS:
        raise InputError(
            f"steps must be at most {_MOST_STEPS:,} for a dense matrix, got {steps:,}: use "
            "hushgrad.noise.banded or hushgrad.noise.blt"
        )
    return steps


def _lower_inverse(matrix: np.ndarray) -> np.ndarray:
    return np.tril(linalg.solve_triangular(matrix, np.eye(len(matrix)), lower=True))


def _meets(steps: int, pattern: Participation) -> np.ndarray:
    """Whether one participant may be in both of two steps."""
    step = np.arange(steps)
    apart = np.abs(step[:, None] - step)
    if isinstance(pattern, Periodic):
        return (apart % pattern.length == 0) & (apart > 0)
    if isinstance(pattern, OncePerPass):
        return step[:, None] // pattern.length != step // pattern.length
    return (apart >= pattern.apart) & (apart > 0) & (pattern.turns > 1)


def _found(steps: int, pattern: Participation, workload: Workload) -> np.ndarray:
    """The root of the X = C^T C of least tr(A X^-1 A^T) for what one participant may move.

    That is a sum of the diagonal: of any of its ones, but where the turns are `Periodic` only of
    each period's, in which a turn may move more and another less.
    """
    meets = _meets(steps, pattern)
    wanted = workload.matrix(steps)
    wanted = wanted.T @ wanted
    free = np.tril(~meets, -1)
    step = np.arange(steps)
    length = min(pattern.length, steps) if isinstance(pattern, Periodic) else steps
    who, turns = step % length, -(-steps // length)
    start = _for_once(wanted) if not meets.any() else _of_banded(steps, pattern, workload)
    size = np.sqrt(turns / np.bincount(who)[who])
    start = np.where(meets, 0.0, start * size * size[:, None])

    def squares_of(logits: np.ndarray) -> np.ndarray:
        shares = np.exp(logits)
        return turns * shares / np.bincount(who, shares)[who]

    def whole_of(numbers: np.ndarray) -> np.ndarray:
        made = np.zeros((steps, steps))
        made[free] = numbers[steps:]
        return made + made.T + np.diag(squares_of(numbers[:steps]))

    def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            factor = linalg.cho_factor(whole_of(numbers), lower=True)
        except linalg.LinAlgError:
            return np.inf, np.zeros_like(numbers)
        inverse = linalg.cho_solve(factor, np.eye(steps))
        steep = inverse @ wanted @ inverse
        error = float(np.sum(wanted * inverse))
        by_logit = squares_of(numbers[:steps]) * np.diagonal(steep)
        by_logit -= squares_of(numbers[:steps]) * (np.bincount(who, by_logit) / turns)[who]
        return float(np.log(error)), -np.concatenate([by_logit, 2 * steep[free]]) / error

    found = whole_of(descended(value, np.concatenate([np.zeros(steps), start[free]])))
    # C^T C = X with C lower-triangular: Cholesky from the other end.
    return linalg.cholesky(found[::-1, ::-1], lower=True)[::-1, ::-1].T


def _for_once(wanted: np.ndarray) -> np.ndarray:
    """Nearly the X for somebody who takes part once, by iteration (Denisov et al., theorem 3.2)."""
    scale, root = np.ones(len(wanted)), np.eye(len(wanted))
    for _ in range(20):
        half = np.sqrt(scale)
        values, vectors = linalg.eigh(half[:, None] * wanted * half)
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        scale = np.diagonal(root)
    size = np.sqrt(np.diagonal(root))
    return root / size / size[:, None]


def _of_banded(steps: int, pattern: Participation, workload: Workload) -> np.ndarray:
    """The X of a matrix that is near, and has nothing where two turns meet."""
    columns = Banded.of(steps, widest(steps, pattern), workload).columns
    made = np.zeros((steps, steps))
    for lag in range(columns.shape[1]):
        made[np.arange(lag, steps), np.arange(steps - lag)] = columns[: steps - lag, lag]
    return made.T @ made
