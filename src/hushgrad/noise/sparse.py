"""Noise only on the rows of a table that a private selection chooses (DP-AdaFEST).

A step of ordinary DP-SGD moves every row of an embedding, also the many that no example of
the batch looked up: each needs noise. Here each step first counts, with noise, how many of its
examples look up each row, and only rows with a high count get a gradient and noise (Ghazi et al.
2023, "Sparsity-Preserving Differentially Private Training of Large Embedding Models", arXiv
2311.08357). All others stay as they are, to the bit.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree
from scipy import stats

from hushgrad._check import finite, positive, whole
from hushgrad.errors import InputError
from hushgrad.noise.gaussian import Independent, plus, step_key, wide
from hushgrad.noise.normal import ROW_STREAM, Wanted, standard_normals
from hushgrad.noise.participation import Participation
from hushgrad.noise.strategy import Strategy
from hushgrad.noise.workload import Workload

__all__ = ["Chosen", "Counted", "Sparse", "sparse"]

# Of the rows, where nobody says how many may be chosen, and at least so many.
_SHARE, _FEWEST = 8, 1024
# Halvings of an interval of float32.
_HALVINGS = 48


class Counted(NamedTuple):
    """A sum of gradients, and beside it how often each row of a table was looked up.

    Attributes:
      sums: of clipped gradients.
      counts: of the examples that look up each row, each example's marks clipped together.
    """

    sums: PyTree[Array]
    counts: Float[Array, " rows"]


class Chosen(NamedTuple):
    """What the last step's choice was: as safe to publish as what the step released.

    Attributes:
      rows: how many rows were chosen and released.
      dropped: how many more had a count above the threshold, but were beyond the capacity.
    """

    rows: Int[Array, ""]
    dropped: Int[Array, ""]


def sparse(
    stddev: float | Float[Array, ""],
    counts_stddev: float | Float[Array, ""],
    threshold: float | Float[Array, ""],
    *,
    table: str,
    capacity: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise to a sum, of one table's rows only to those that noisy counts choose.

    ```python
    noise = hg.noise.sparse(stddev=1.1, counts_stddev=2.0, threshold=6.0, table="embedding")
    counted = hg.noise.Counted(clipped.grads, clipped.counts)
    private_sum, state = noise.update(counted, noise.init(counted), key=key)
    ```

    Takes a `Counted` (also somewhere inside a larger tree) and puts the private sum in its
    place. Normal numbers are drawn for the counts, for `capacity` rows and for all that is not
    the table, each from a stream of its own of `key`, as in `gaussian`.

    Formal guarantee: that of one Gaussian mechanism on the counts, with `counts_stddev`, and on
    the whole sum, with `stddev`. What is released is made of its outcome: the noisy counts say
    which rows are kept, and rows that are not kept are thrown away with their noise, which
    for that reason need not be drawn.

    Args:
      stddev: of the noise on the sum; under `jit` this and what follows may be traced.
      counts_stddev: of the noise on the counts, in examples.
      threshold: a row is chosen whose noisy count is above it.
      table: where the parameter stands in the sum, such as "embedding" or "encoder.words".
      capacity: how many rows are chosen at most, a public number; by default an eighth of them,
        and 1,024 at least. Where more have passed, the threshold rises until they fit.

    Raises:
      InputError: if a number is not positive and finite, `key` is missing or not uint32[8], or
        there is no `Counted` with such a table and a count for each of its rows.
    """
    for name, value in (("stddev", stddev), ("counts_stddev", counts_stddev)):
        if not isinstance(value, Tracer):
            positive(name, value.item() if isinstance(value, jax.Array) else value)
    if capacity is not None:
        whole("capacity", capacity)

    def init(params: optax.Params) -> optax.OptState:
        del params
        zero = jnp.zeros((), jnp.int32)
        return Chosen(zero, zero)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        key: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del state, params, extra
        key = step_key(key)
        plain, counts, number = _opened(updates, table)
        leaves, treedef = jax.tree.flatten(plain)
        rows = leaves[number]
        most = min(len(rows), capacity or max(_FEWEST, len(rows) // _SHARE))
        on_counts, normals = _normals(key, leaves, number, most)
        noisy = counts + jnp.asarray(counts_stddev, counts.dtype) * on_counts
        kept, chosen = _choice(noisy, threshold, most)
        made, normals[number] = normals[number], None
        assert made is not None
        leaves = plus(leaves, normals, stddev)
        # In place: the sum's own array is emptied and gets noise, where it is given up.
        leaves[number] = _with_noise(rows, kept, stddev, made)
        return jax.tree.unflatten(treedef, leaves), chosen

    return optax.GradientTransformationExtraArgs(init, update)


def _normals(
    key: Array, leaves: list[Array], number: int, most: int
) -> tuple[Float[Array, " rows"], list[Float[Array, "..."] | None]]:
    """For the counts, and for each array; of the table for as many rows as may be chosen."""
    types = [wide(leaf) for leaf in leaves]
    shapes = [leaf.shape for leaf in leaves]
    count, *row = shapes[number]
    shapes[number] = (most, *row)
    wanted = [
        Wanted(stream, shape, dtype)
        for stream, (shape, dtype) in enumerate(zip(shapes, types, strict=True))
        if dtype is not None
    ]
    counts = Wanted(ROW_STREAM, (count,), jnp.dtype("float32"))
    first, *others = standard_normals(key, [counts, *wanted])
    made = iter(others)
    return first, [None if dtype is None else next(made) for dtype in types]


def _with_noise(
    rows: Float[Array, "rows ..."],
    kept: Bool[Array, " rows"],
    stddev: float | Float[Array, ""],
    normals: Float[Array, "most ..."],
) -> Float[Array, "rows ..."]:
    """The rows that are kept with noise, and zeros in place of the others."""
    (ids,) = jnp.nonzero(kept, size=len(normals), fill_value=len(kept))
    wanted = jnp.expand_dims(kept, tuple(range(1, rows.ndim)))
    # What is kept fits; noise in seats that are left empty goes nowhere.
    return (
        jnp.where(wanted, rows.astype(normals.dtype), 0)
        .at[ids]
        .add(jnp.asarray(stddev, normals.dtype) * normals, mode="drop")
    )


def _choice(
    noisy: Float[Array, " rows"], threshold: float | Float[Array, ""], most: int
) -> tuple[Bool[Array, " rows"], Chosen]:
    """Which rows are kept, at most so many. Looks at noisy counts alone."""
    passed = noisy > threshold
    count = jnp.sum(passed, dtype=jnp.int32)
    kept = passed & (noisy > _raised(noisy, threshold, most, count))
    rows = jnp.sum(kept, dtype=jnp.int32)
    return kept, Chosen(rows, count - rows)


def _raised(
    noisy: Float[Array, " rows"],
    threshold: float | Float[Array, ""],
    most: int,
    count: Int[Array, ""],
) -> Float[Array, ""]:
    """The least threshold, up to rounding, above which there are no more than `most`."""
    low = jnp.asarray(threshold, noisy.dtype)

    def halved(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) / 2
        fits = jnp.sum(noisy > middle) <= most
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    # Above the largest there is none, so the upper end always fits.
    turns = jnp.where(count > most, _HALVINGS, 0)
    ends = jax.lax.fori_loop(0, turns, halved, (low, jnp.maximum(low, jnp.max(noisy))))
    return jnp.where(count > most, ends[1], low)


def _opened(updates: Any, table: str) -> tuple[Any, Float[Array, " rows"], int]:
    """The tree without its counts, the counts, and which of its arrays is the table.

    Raises:
      InputError: if there are none, or they are not those of such a table.
    """
    nodes, treedef = jax.tree.flatten(updates, is_leaf=_is_counted)
    places = [place for place, node in enumerate(nodes) if _is_counted(node)]
    if len(places) != 1:
        raise InputError(
            f"updates must hold one hg.noise.Counted(sums, counts), got {len(places)}: sparse "
            "noise needs the counts of looked-up rows beside the sum, as hg.train has them"
        )
    place = places[0]
    sums, counts = nodes[place]
    named = {
        jax.tree_util.keystr(path, simple=True, separator=".") or "params": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(sums)
    }
    if table not in named:
        raise InputError(f"table must be one of {', '.join(named)}, got {table!r}")
    rows = named[table]
    if not rows.ndim or counts.shape != rows.shape[:1] or wide(rows) is None:
        raise InputError(
            f"counts must be one for each row of {table!r}, numbers with a fraction, got "
            f"{counts.shape} for {rows.dtype}{list(rows.shape)}"
        )
    before = len(jax.tree.leaves(nodes[:place]))
    nodes[place] = sums
    return jax.tree.unflatten(treedef, nodes), counts, before + list(named).index(table)


def _is_counted(node: Any) -> bool:
    return isinstance(node, Counted)


@dataclasses.dataclass(frozen=True)
class Sparse(Strategy):
    """Noise on the rows of a table that each step's noisy counts choose: `sparse`.

    ```python
    m = hg.dp_adafest(..., strategy=hg.noise.Sparse("embedding"), epsilon=3.0)
    ```

    Formal guarantee: let z be the mechanism's noise multiplier and C its clip. A step counts how
    many examples look up each row. An example marks each row that it looks up once, and its
    marks are scaled down to a Euclidean norm of at most C1 = `norm`: adding or removing it
    changes the counts by at most C1, and the sum of gradients by at most C. With noise of
    deviation sigma_1 C1 on the counts and sigma_2 C on the sum, where

        sigma_1 = `ratio` sigma_2   and   1 / sigma_1^2 + 1 / sigma_2^2 = 1 / z^2,

    both are one Gaussian mechanism with noise multiplier z, and are accounted as that: divided
    by their deviations, they are one vector with noise of deviation 1 on every coordinate, which
    an example changes by at most 1 / z. What is released is computed from this vector (`sparse`).
    Both parts are of one batch, whose sampling amplifies both. The clip bounds the gradient by
    all parameters together or by parts; one that moves (`Adaptive`) has its share taken from
    1 / z^2 first.

    Attributes:
      table: the parameter, by where it stands: "embedding", "encoder.words". Its first axis has
        the rows; the loss may use it in lookups alone.
      threshold: a row is chosen whose noisy count is above so many deviations of the noise on
        it. It so says how many rows that nobody looks up pass, whatever the data: by default
        (3.09) one in a thousand. In examples, it is threshold * sigma_1 * C1.
      ratio: sigma_1 / sigma_2. More leaves less noise to gradients, and chooses worse.
      norm: C1. An example with n rows adds min(1, C1 / sqrt(n)) to each. More than 1 only gives
        examples with fewer rows than C1^2 a smaller part in the choice.
      capacity: as in `sparse`: bounds memory and time.

    Raises:
      InputError: if an argument is out of range.
    """

    kind = "sparse"
    correlated = False
    counts = True

    table: str
    _: dataclasses.KW_ONLY
    threshold: float = 3.09
    ratio: float = 2.0
    norm: float = 1.0
    capacity: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or not self.table:
            raise InputError(f"table must be a parameter's name, got {self.table!r}")
        object.__setattr__(self, "threshold", finite("threshold", self.threshold))
        object.__setattr__(self, "ratio", positive("ratio", self.ratio))
        object.__setattr__(self, "norm", positive("norm", self.norm))
        if self.capacity is not None:
            object.__setattr__(self, "capacity", whole("capacity", self.capacity))

    @classmethod
    def for_run(cls, steps: int, pattern: Participation, workload: Workload) -> Sparse:
        """None is known without the table's name.

        Raises:
          InputError: always.
        """
        raise InputError(
            "strategy must say which table's rows it chooses, got the kind alone: give "
            "hg.noise.Sparse('embedding')"
        )

    def transformation(
        self, stddev: float | Float[Array, ""], steps: int
    ) -> optax.GradientTransformationExtraArgs:
        """As `noise` where an example changes the sum by at most 1."""
        return self.noise(stddev, 1.0, steps)

    def noise(
        self,
        noise_multiplier: float | Float[Array, ""],
        sensitivity: float | Float[Array, ""],
        steps: int,
    ) -> optax.GradientTransformationExtraArgs:
        """`sparse` for sigma_2 = `noise_multiplier`, whatever the number of steps."""
        counts = noise_multiplier * self.ratio * self.norm
        return sparse(
            noise_multiplier * sensitivity,
            counts,
            self.threshold * counts,
            table=self.table,
            capacity=self.capacity,
        )

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """sigma_2 of z, rounded up."""
        square = Fraction(noise_multiplier) ** 2 * (1 + 1 / Fraction(self.ratio) ** 2)
        root = noise_multiplier * math.sqrt(1 + 1 / self.ratio**2)
        while Fraction(root) ** 2 < square:
            root = math.nextafter(root, math.inf)
        return root

    def sensitivity(self, steps: int, pattern: Participation) -> float:
        """As of independent noise, in units of all that a step releases."""
        return Independent().sensitivity(steps, pattern)

    def variances(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Of a coordinate that is chosen in every step."""
        return (1 + 1 / self.ratio**2) * np.arange(1.0, steps + 1)

    def describe(self, noise_multiplier: float) -> str:
        """After "so many steps with clipped gradients and", as in a statement."""
        rows = self.sum_noise_multiplier(noise_multiplier)
        most = "" if self.capacity is None else f", at most {self.capacity:,}"
        passing = stats.norm.sf(self.threshold)
        return (
            f"Gaussian noise with multiplier {noise_multiplier:.6g} in all, of which "
            f"{self.ratio * rows:.6g} on counts of the examples that look up each row of "
            f"{self.table!r} (their marks clipped to norm {self.norm:g}), and {rows:.6g} on "
            "gradients. Of that table only rows whose noisy count is above "
            f"{self.threshold:g} deviations are released{most}; a row that nobody looks up is with "
            f"probability {passing:.2g}"
        )
