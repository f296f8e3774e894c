"""Shadow models: many trainings on random halves of one pool, in one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from hushgrad._check import whole
from hushgrad.errors import InputError
from hushgrad.gradients import clipped_grad
from hushgrad.gradients.inputs import batch_size as common_length
from hushgrad.mechanism import Mechanism
from hushgrad.sampling import Poisson
from hushgrad.training.step import initial_state, release

__all__ = ["Shadows", "train_private_shadows", "train_shadows"]

_BLOCK = 256
# Models that are trained side by side unless it is said. Products of stacks of matrices are slower
# on CPUs than one after the other (784-256-10, batch 100: 4.2 ms a model's step for 16 at once, 1.3
# for one), unless a model is so small that only the number of operations counts.
_AT_ONCE = 16
_SMALL = 10_000
# Beyond so many standard deviations no batch is ever drawn.
_DEVIATIONS = 10
# XLA runs convolutions in a loop on CPUs thirteen times slower than outside of one (6 ms a step of
# 28x28 images by batches of 100, 82 in a scan, 38 side by side).
_SLOW_IN_LOOPS = "conv_general_dilated"


@dataclasses.dataclass(frozen=True, eq=False)
class Shadows:
    """Models that differ by which half of a pool they were trained on.

    Attributes:
      params: of all of them, with a leading axis.
      members: which of them had which example of the pool. Each had half of it, and each example
        was in half of them: shadow 2k + 1 had exactly what shadow 2k had not.
      at_once: how many are evaluated side by side.
    """

    params: PyTree[Array]
    members: Bool[np.ndarray, "shadows pool"]
    at_once: int

    def __len__(self) -> int:
        return len(self.members)

    def statistics(
        self, fn: Callable[..., Any], data: tuple[Any, ...], *, block: int = _BLOCK
    ) -> Float[np.ndarray, "shadows examples ..."]:
        """A function of every model and every example.

        ```python
        losses = shadows.statistics(loss, (x, y))               # [shadows, examples]
        logits = shadows.statistics(
            lambda params, x, y: hg.audit.label_logit(model(params, x), y), (x, y)
        )
        ```

        Args:
          fn: `fn(params, *example)` of ONE example: its loss, or another array.
          data: arrays with a leading axis: the pool or others.
          block: how many examples are taken at once.

        Raises:
          InputError: if the arrays differ in length or have none.
        """
        rows = _rows(tuple(data))
        block = min(whole("block", block), max(rows, 1))
        arrays, found = jax.tree.map(np.asarray, tuple(data)), []
        for first in range(0, len(self), self.at_once):
            group = slice(first, first + self.at_once)
            params = jax.tree.map(lambda p, group=group: p[group], self.params)
            parts = [_evaluated(fn, params, *taken) for taken in _blocks(arrays, rows, block)]
            found.append(np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :rows])
        return np.concatenate(found)


def train_shadows(
    loss: Callable[..., Any],
    init: Callable[[Array], PyTree] | PyTree,
    data: tuple[Any, ...],
    *,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    shadows: int = 64,
    seed: int = 0,
    at_once: int | None = None,
) -> Shadows:
    """Trains many models, each on a random half of the pool, in one compiled program.

    ```python
    shadows = hg.audit.train_shadows(
        loss, init, (x, y), optimizer=optax.adam(1e-3), batch_size=64, epochs=40, shadows=64
    )
    statistics = shadows.statistics(statistic, (x, y))
    scores = hg.audit.lira_leave_one_out(statistics, shadows.members)
    ```

    What a model gives away of its examples is measured against models that are alike but for
    these (Carlini et al. 2022, arXiv 2112.03570). Shadows come in pairs, each on what the
    other lacks. Batches of one size come from a shuffle of the model's half in each epoch; what
    does not fill a batch is left out of that epoch.

    Not private: for models that never leave the auditor.

    Args:
      loss: `loss(params, *example) -> scalar` for one example.
      init: `init(key) -> params`, for a start of its own for each; or parameters that all start
        from.
      data: the pool: arrays with a leading axis of even length.
      optimizer: from optax.
      batch_size: at most half of the pool.
      epochs: passes of each shadow over its half.
      steps: number of steps, in place of `epochs`.
      shadows: how many, an even number.
      seed: of halves, starts and shuffles.
      at_once: how many are trained side by side, by `vmap`, in as much more memory; by default
        up to 16, or one where that is faster: on CPUs, but for very small models.

    Raises:
      InputError: if an argument is out of range, arrays differ in length, parameters are not
        floating point or the loss is no scalar.
    """
    rows = _even("data", _rows(tuple(data)), "examples: leave one out")
    batch = whole("batch_size", batch_size)
    if batch > rows // 2:
        raise InputError(
            f"batch_size must be at most half of the pool, {rows // 2} examples, got {batch}"
        )
    each = rows // 2 // batch
    if (epochs is None) == (steps is None):
        raise InputError(f"give either epochs or steps, got epochs={epochs!r} and steps={steps!r}")
    count = whole("steps", steps) if epochs is None else whole("epochs", epochs) * each
    recipe = _Shuffled(loss, optimizer, batch, count)
    return _train(recipe, init, tuple(data), rows, shadows, seed, at_once)


def train_private_shadows(
    loss: Callable[..., Any],
    init: Callable[[Array], PyTree] | PyTree,
    data: tuple[Any, ...],
    *,
    optimizer: optax.GradientTransformation,
    mechanism: Mechanism,
    shadows: int = 64,
    seed: int = 0,
    at_once: int | None = None,
) -> Shadows:
    """The same with DP-SGD: how well an attack does on models that were trained privately.

    ```python
    m = hg.dp_sgd(examples=len(x) // 2, batch_size=250, epochs=20, delta=1e-5, epsilon=3.0)
    shadows = hg.audit.train_private_shadows(loss, init, (x, y), optimizer=sgd, mechanism=m)
    ```

    Sampler, engine, noise and divisor are the mechanism's, as in `hushgrad.train`; batches and
    noise keys come from `seed` by JAX's generator and no ledger is kept: the models are the
    attacker's own. Whoever knows the seed can take the noise away, so they are NOT private and
    must not be released.

    Args:
      loss: as `train_shadows`'s.
      init: as there.
      data: as there.
      optimizer: as there.
      mechanism: from `hushgrad.dp_sgd` or its kin, for half of the pool, by Poisson sampling.
      shadows: as there.
      seed: as there.
      at_once: as there.

    Raises:
      InputError: as there, or if the mechanism is for another number of examples or samples in
        another way.
    """
    rows = _even("data", _rows(tuple(data)), "examples: leave one out")
    if not isinstance(mechanism, Mechanism):
        raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
    if mechanism.examples != rows // 2:
        raise InputError(
            f"mechanism must be for the {rows // 2} examples that each shadow has, half of the "
            f"pool, got examples={mechanism.examples}"
        )
    if not isinstance(mechanism.sampling, Poisson):
        raise InputError(
            f"mechanism must sample by hg.sampling.Poisson, got {mechanism.sampling!r}"
        )
    recipe = _Private(loss, optimizer, mechanism)
    return _train(recipe, init, tuple(data), rows, shadows, seed, at_once)


class _Recipe(Protocol):
    """How one model is trained: a state, and a step from one to the next."""

    @property
    def loss(self) -> Callable[..., Any]:
        """Of one example."""
        ...

    @property
    def steps(self) -> int:
        """How many there are."""
        ...

    def start(self, params: PyTree[Array], members: Int[Array, " half"]) -> Any:
        """The state before the first step, a tuple that begins with the parameters."""
        ...

    def step(self, state: Any, number: Array, key: Array, members: Array, data: Any) -> Any:
        """The state after a step; `key` is the model's."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Shuffled:
    """Batches of one size from a shuffle in each epoch."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    batch: int
    steps: int

    def start(self, params: Any, members: Array) -> Any:
        return params, self.optimizer.init(params), members

    def step(self, state: Any, number: Array, key: Array, members: Array, data: Any) -> Any:
        params, optimizer, order = state
        each = len(members) // self.batch
        epoch, place = number // each, number % each
        # All models begin an epoch together, so this stays a branch under vmap.
        order = lax.cond(
            place == 0,
            lambda: jax.random.permutation(jax.random.fold_in(key, epoch), members),
            lambda: order,
        )
        rows = lax.dynamic_slice_in_dim(order, place * self.batch, self.batch)
        grads = jax.grad(self._mean)(params, _take(data, rows))
        updates, optimizer = self.optimizer.update(grads, optimizer, params)
        return optax.apply_updates(params, updates), optimizer, order

    def _mean(self, params: Any, batch: Any) -> Array:
        axes = (None, *[0] * len(batch))
        return jnp.mean(jax.vmap(self.loss, in_axes=axes)(params, *batch))


@dataclasses.dataclass(frozen=True, eq=False)
class _Private:
    """A mechanism's own steps; batches are padded to a size that none exceeds."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    mechanism: Mechanism

    @property
    def steps(self) -> int:
        return self.mechanism.steps

    def start(self, params: Any, members: Array) -> Any:
        return initial_state(params, self.mechanism, self.optimizer)

    def step(self, state: Any, number: Array, key: Array, members: Array, data: Any) -> Any:
        m, half = self.mechanism, len(members)
        expected = half * m.sampling_rate
        size = min(half, int(expected + _DEVIATIONS * expected**0.5) + 16)
        batch_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
        drawn = jax.random.uniform(batch_key, (half,)) < m.sampling_rate
        places = jnp.nonzero(drawn, size=size, fill_value=0)[0]
        mask = jnp.arange(size) < drawn.sum()
        clipped = clipped_grad(self.loss, m.clip)
        out = clipped(state.params, *_take(data, members[places]), mask=mask, norm=state.norm)
        noise = jax.random.bits(noise_key, (8,), jnp.uint32)
        return release(m, self.optimizer, state, out.grads, out.centred_bits, noise)


def _train(
    recipe: _Recipe, init: Any, data: Any, rows: int, shadows: int, seed: int, at_once: int | None
) -> Shadows:
    count = _even("shadows", whole("shadows", shadows), "models, since they come in pairs")
    seed = whole("seed", seed, at_least=0)
    root = jax.random.key(seed)
    pairs = jax.vmap(lambda n: jax.random.split(jax.random.fold_in(root, n)))(jnp.arange(count))
    if callable(init):
        start = jax.jit(lambda keys: lax.map(init, keys))(pairs[:, 0])
    else:
        start = jax.tree.map(lambda p: jnp.stack([jnp.asarray(p)] * count), init)
    arrays = jax.tree.map(jnp.asarray, data)
    loops = _check_loss(recipe.loss, start, arrays)
    if at_once is None:
        at_once = _side_by_side(start, count)
    at_once = min(whole("at_once", at_once), count)
    members = _members(np.random.default_rng(seed), count, rows)
    halves = jnp.asarray(np.stack([np.flatnonzero(row) for row in members]), jnp.int32)
    members.setflags(write=False)
    run = _scanned if loops or at_once > 1 else _stepped
    return Shadows(run(recipe, at_once, start, pairs[:, 1], halves, arrays), members, at_once)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scanned(
    recipe: _Recipe, at_once: int, start: PyTree[Array], keys: Array, halves: Array, data: Any
) -> PyTree[Array]:
    """All trainings as one program."""

    def one(params: PyTree[Array], key: Array, members: Array) -> PyTree[Array]:
        def step(state: Any, number: Array) -> tuple[Any, None]:
            return recipe.step(state, number, key, members, data), None

        return lax.scan(step, recipe.start(params, members), jnp.arange(recipe.steps))[0][0]

    each = start, keys, halves
    if at_once == 1:
        return lax.map(lambda given: one(*given), each)
    return lax.map(lambda given: one(*given), each, batch_size=at_once)


def _stepped(
    recipe: _Recipe, at_once: int, start: PyTree[Array], keys: Array, halves: Array, data: Any
) -> PyTree[Array]:
    """The same, one compiled step after the other, one model after the other."""
    step = jax.jit(recipe.step, donate_argnums=0)
    trained = []
    for number, (key, members) in enumerate(zip(keys, halves, strict=True)):
        params = jax.tree.map(lambda p, number=number: p[number], start)
        # A copy: what is donated must not serve twice.
        state = jax.tree.map(jnp.copy, recipe.start(params, members))
        for count in range(recipe.steps):
            state = step(state, np.int32(count), key, members, data)
        trained.append(state[0])
    return jax.tree.map(lambda *each: jnp.stack(each), *trained)


@functools.partial(jax.jit, static_argnums=0)
def _evaluated(fn: Callable[..., Any], params: PyTree[Array], *block: Any) -> Array:
    def one(params: PyTree[Array]) -> Array:
        return jax.vmap(fn, in_axes=(None, *[0] * len(block)))(params, *block)

    if len(jax.tree.leaves(params)[0]) == 1:
        # Not a vmap over one: that would make grouped convolutions, slow on CPUs.
        return one(jax.tree.map(lambda p: p[0], params))[None]
    return jax.vmap(one)(params)


def _blocks(arrays: Any, rows: int, block: int) -> Iterator[Any]:
    """Blocks of one size; the last is filled up, so that one program does for all."""
    for first in range(0, rows, block):
        chosen = np.minimum(np.arange(first, first + block), rows - 1)
        yield jax.tree.map(lambda array, chosen=chosen: array[chosen], arrays)


def _members(rng: np.random.Generator, count: int, rows: int) -> Bool[np.ndarray, "shadows pool"]:
    """Pairs of a random half and what it lacks: exactly balanced both ways."""
    first = rng.permuted(np.tile(np.arange(rows) < rows // 2, (count // 2, 1)), axis=1)
    return np.stack([first, ~first], axis=1).reshape(count, rows)


def _check_loss(loss: Callable[..., Any], start: PyTree[Array], data: Any) -> bool:
    """Whether it may run in a loop, or an error if it cannot be used."""
    if not callable(loss):
        raise InputError(f"loss must be a function loss(params, *example), got {loss!r}")
    leaves = jax.tree.leaves(start)
    wrong = [leaf.dtype for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if wrong or not leaves:
        raise InputError(
            f"init must give floating-point parameters, got {wrong[0] if wrong else 'none'}"
        )
    params, example = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (start, data)
    )
    program, shape = jax.make_jaxpr(loss, return_shape=True)(params, *example)
    if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise InputError(f"loss must return one number for one example, got {shape}")
    return jax.default_backend() != "cpu" or _SLOW_IN_LOOPS not in str(program)


def _side_by_side(start: PyTree[Array], count: int) -> int:
    """How many to train at once."""
    size = sum(leaf.size for leaf in jax.tree.leaves(start)) // count
    return 1 if jax.default_backend() == "cpu" and size > _SMALL else _AT_ONCE


def _even(name: str, number: int, mend: str) -> int:
    if number < 2 or number % 2:
        raise InputError(f"{name} must be an even number of {mend}, got {number}")
    return number


def _rows(data: tuple[Any, ...]) -> int:
    try:
        return common_length(data)
    except InputError as error:
        raise InputError(f"data: {error}") from None


def _take(data: Any, rows: Array) -> Any:
    return jax.tree.map(lambda array: array[rows], data)
