"""One training of a Keras model: what it releases, and its batches."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import dp_accounting
import jax
import numpy as np
from jaxtyping import Array, Float, UInt32

from hushgrad.clip import Flat, Microbatches, Rule
from hushgrad.errors import InputError
from hushgrad.keras.account import Account
from hushgrad.keras.data import Rows, given
from hushgrad.keras.devices import layout
from hushgrad.mechanism import Mechanism
from hushgrad.noise import Independent, Strategy
from hushgrad.planning import planned
from hushgrad.sampling import Poisson, Sampler, Shuffle, Stream, blocks
from hushgrad.training.draw import Mine, Part, parts
from hushgrad.training.feed import ahead
from hushgrad.training.layout import Layout
from hushgrad.training.secret import RunSecret
from hushgrad.training.team import Team

__all__ = ["Drawn", "RowSession", "Session", "Settings", "StreamSession"]

_CPU_BLOCK, _BLOCK = 64, 1024
_READ_AHEAD = 8
# Steps that are planned at once where nobody said how many there will be.
_OPEN_END = 256
# How often in an epoch epsilon is computed for the logs.
_MARKS = 5


class Settings(NamedTuple):
    """What a private model is made with, beside what it is.

    Attributes:
      clip: bound on one example's gradient.
      noise_multiplier: noise over the clip's sensitivity, or None to find it from epsilon.
      sampling: how `fit` draws batches from data that can be drawn from.
      block_size: examples that are processed at once, or None for the device's default.
      microbatches: in a batch, each clipped as one; None for as many as there are examples.
      strategy: how the noises of steps depend on each other, or a kind of which each training
        finds its own.
    """

    clip: Rule
    noise_multiplier: float | None
    sampling: type[Sampler] | Sampler = Poisson
    block_size: int | None = None
    microbatches: int | None = None
    strategy: type[Strategy] | Strategy = Independent

    def block(self, batch_size: int, layout: Layout) -> int:
        """Examples that are processed at once: on a CPU, as many as its caches hold."""
        if self.block_size is not None:
            return layout.rounded(self.block_size)
        most = _CPU_BLOCK if jax.default_backend() == "cpu" else _BLOCK
        each = 1 if self.microbatches is None else batch_size // self.microbatches
        whole = layout.shards * each
        # Devices, and microbatches, have as many examples each.
        return -(-min(most, batch_size) // whole) * whole

    def grouped(self, batch_size: int) -> Settings:
        """The settings with a clip for the microbatches of a batch.

        Raises:
          InputError: if they do not divide it.
        """
        count = self.microbatches
        if count is None or count == batch_size:
            return self
        if batch_size % count:
            raise InputError(
                f"num_microbatches must divide the batch, got num_microbatches={count} for a "
                f"batch of {batch_size}; leave it out to clip each example"
            )
        assert isinstance(self.clip, Flat)
        assert self.noise_multiplier is not None
        # Noise is over one clip there, and over what an example may move here: two of them.
        return self._replace(
            clip=Microbatches(self.clip.norm, batch_size // count),
            noise_multiplier=self.noise_multiplier / 2,
            sampling=Shuffle,
        )


class Drawn(NamedTuple):
    """One step's batch.

    Attributes:
      blocks: of its examples, with their masks, where the layout has them.
      key: of its noise.
      charge: charges the step, durably; to be called before its sum is released.
    """

    blocks: Iterator[tuple[tuple[Any, ...], Any]]
    key: UInt32[np.ndarray, "8"]
    charge: Callable[[], None]


class Session(abc.ABC):
    """A training that is going on.

    Attributes:
      layout: where arrays are.
      team: the processes that train together.
      agreed: whether all processes have the same program.
      mechanism: what it releases.
      norm: what an adaptive clip clips to in the next step, else None.
      noise: the state of noise that later steps depend on; None before the first step.
      nonfinite: how many gradients were not finite.
      per_epoch: steps in an epoch, where that is known.
    """

    mechanism: Mechanism
    norm: Float[Array, ""] | None = None
    noise: Any = None
    nonfinite: Any = 0
    per_epoch: int | None = None

    def __init__(self, account: Account, settings: Settings, team: Team) -> None:
        self._account, self._settings = account, settings
        self.layout, self.team = layout(), team
        self.agreed = self.team.size == 1
        self._secret: RunSecret | None = None
        self._step, self._shown = 0, (-1, 0.0)

    @abc.abstractmethod
    def draw(self, batch: Any) -> Drawn:
        """The next step's batch, where `batch` is what Keras has for it."""

    def end(self) -> None:
        """Gives back what was reserved and not charged."""
        self._account.close()

    def epsilon_shown(self) -> float:
        """What will have been spent a fifth of an epoch later at most; exact at its end."""
        epoch = self.per_epoch or _OPEN_END
        every, done = -(-epoch // _MARKS), (self._step - 1) % epoch + 1
        mark = self._step + min(-(-done // every) * every, epoch) - done
        mark = min(mark, self._first + self.mechanism.steps)
        if self._shown[0] != mark:
            self._shown = mark, self._account.epsilon_after(mark - self._step)
        return self._shown[1]

    def _open(self, mechanism: Mechanism, content: Any = ()) -> RunSecret:
        self._secret = self._account.open(mechanism, self.team, content)
        if self._step == 0:
            self.norm = self.layout.params(mechanism.clip.init())
        self.mechanism, self._first, self.noise = mechanism, self._step, None
        return self._secret

    def _drawn(self, made: Iterator[Part], size: int) -> Drawn:
        """A step's batch, from its blocks of so many rows."""
        assert self._secret is not None
        number, failure = self._step - self._first, None

        def placed() -> Iterator[tuple[tuple[Any, ...], Any]]:
            nonlocal failure
            for part in made:
                failure = part.failure
                yield self.layout.batch((part.batch, part.mask), size)

        def charge() -> None:
            self._account.charge(number, failure)
            self._step += 1

        return Drawn(placed(), self._secret.noise_key(number), charge)

    def _mechanism(
        self, examples: int, batch_size: int, steps: int, sampling: type[Sampler] | None = None
    ) -> Mechanism:
        """Of so many steps; by the settings' sampling unless another is given."""
        settings = self._settings.grouped(batch_size)
        delta, noise = self._account.delta_for(examples), settings.noise_multiplier

        def noise_for(relation: str, event: Callable[[float], dp_accounting.DpEvent]) -> float:
            if noise is not None:
                return noise
            return self._account.noise_for(event, delta, relation)

        with warnings.catch_warnings():
            if sampling is Stream:  # its examples are not known, so delta is not compared to them
                warnings.simplefilter("ignore", UserWarning)
            return planned(
                examples,
                batch_size,
                (None, steps),
                settings.clip,
                delta,
                noise_for,
                settings.sampling if sampling is None else sampling,
                settings.strategy,
                "example",
            )


class RowSession(Session):
    """Batches are drawn from rows.

    Args:
      account: of the model.
      settings: of the model.
      team: the processes that train together.
      rows: the data.
      batch_size: expected in a batch.
      steps: in all.

    Raises:
      BudgetError: if the account does not hold it; nothing has been spent.
    """

    def __init__(
        self,
        account: Account,
        settings: Settings,
        team: Team,
        rows: Rows,
        batch_size: int,
        steps: int,
    ) -> None:
        super().__init__(account, settings, team)
        mechanism = self._mechanism(rows.size, batch_size, steps)
        self._block = size = settings.block(batch_size, self.layout)
        mine = self.layout.mine(size)
        if mine is not None:
            drawn = rows.drawn(np.zeros(len(mine), np.int64), np.random.default_rng(0))
            mine = Mine(mine, rows.read(drawn))
        secret = self._open(mechanism, rows.told)
        self._parts = ahead(parts(mechanism, rows, size, secret, mine=mine), _READ_AHEAD)

    def draw(self, batch: Any) -> Drawn:
        """The next step's batch; what Keras has for it is no data."""
        return self._drawn(_step_of(self._parts), self._block)

    def end(self) -> None:
        """Stops reading ahead, and gives back what was not charged."""
        self._parts.close()
        super().end()


class StreamSession(Session):
    """Batches are given.

    Args:
      account: of the model.
      settings: of the model.
      team: the processes that train together.
      steps: in all, or None where nobody said how many.
      class_weight: by class, or None.

    Raises:
      InputError: if the noise would have to be found and the steps are not known, or several
        processes train together, whose batches would not be one.
    """

    def __init__(
        self,
        account: Account,
        settings: Settings,
        team: Team,
        steps: int | None,
        class_weight: Mapping[int, float] | None,
    ) -> None:
        super().__init__(account, settings, team)
        self._steps, self._class_weight = steps, class_weight
        if self.team.size > 1:
            raise InputError(
                f"batches that are given are for one process, got {self.team.size} that train "
                "together: give fit data that can be drawn from, as arrays, a PyDataset or "
                "anything with items, of which each reads its part"
            )
        if settings.noise_multiplier is None and steps is None:
            raise InputError(
                "noise_multiplier must be given for a stream of unknown length: without the number "
                "of steps it cannot be found from epsilon; or give fit steps_per_epoch"
            )

    def draw(self, batch: Any) -> Drawn:
        """The batch that is given."""
        whole = given(batch, self._class_weight)
        size = len(jax.tree.leaves(whole[0])[0])
        if self._secret is None:
            warnings.warn(
                "data come as a stream, so every step is charged as if everybody were in it, once; "
                "data that can be drawn from (arrays, a PyDataset, anything with items) cost far "
                "less",
                stacklevel=2,
            )
        if self._secret is None or self._step - self._first == self.mechanism.steps:
            self._plan(size)
        block = self._settings.block(self.mechanism.batch_size, self.layout)
        return self._drawn(self._blocks(whole, size, block), block)

    def _plan(self, size: int) -> None:
        """Opens a mechanism for the steps that were announced, or for some of an open end."""
        self._account.close()
        if self._secret is None and self._steps is not None:
            mechanism = self._mechanism(size * self._steps, size, self._steps, Stream)
        else:
            batch_size = size if self._secret is None else self.mechanism.batch_size
            steps = _OPEN_END if self._account.budget is None else 1
            mechanism = self._mechanism(batch_size * steps, batch_size, steps, Stream)
            # The last of them may be all that the limit still holds.
            mechanism = mechanism.after(max(1, self._account.room(mechanism)))
        self._open(mechanism)

    def _blocks(self, batch: Any, size: int, block_size: int) -> Iterator[Part]:
        assert self._secret is not None
        number = self._step - self._first
        rng = self._secret.generator("rows", number)
        pieces = list(blocks(np.arange(size), block_size))
        for rows, mask in pieces:
            words = rng.integers(0, 2**32, size=(len(rows), 2), dtype=np.uint32)
            read = (words, *jax.tree.map(lambda a, rows=rows: a[rows], batch))
            yield Part(number, rows is pieces[-1].rows, read, mask, None)


def _step_of(made: Iterator[Part]) -> Iterator[Part]:
    """The blocks of one step."""
    for part in made:
        yield part
        if part.last:
            return
