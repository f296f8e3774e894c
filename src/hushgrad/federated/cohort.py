"""The clients of one round, and their examples as blocks of one shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from hushgrad.errors import DataError
from hushgrad.federated.work import Work, chance_of, order_of
from hushgrad.sampling import Users
from hushgrad.training.data import source_of
from hushgrad.training.secret import RunSecret

__all__ = [
    "Block",
    "Cohort",
    "Share",
    "arrays_of",
    "block_of",
    "kinds",
    "shared_out",
    "stacked_client",
]

_CHECKED = "a client's examples must be arrays with one row for each"


class Cohort(Mapping[int, tuple[Any, ...]]):
    """Clients by number, whose examples are read when they are asked for.

    Any mapping from a client's number to its examples, a tuple of arrays, will do in its place.

    Args:
      users: all clients' examples.
      numbers: who takes part.
      chance: of each client, for those who have more examples than are to be used; from the
        operating system by default.
    """

    def __init__(
        self,
        users: Users,
        numbers: Any,
        chance: Callable[[int], RunSecret] | None = None,
    ) -> None:
        self._users, self._numbers = users, [int(n) for n in numbers]
        self._chance = chance or (lambda _: RunSecret.fresh())
        self._known = set(self._numbers)
        self._source = source_of(users.data)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        """The examples of one client."""
        if number not in self._known:
            raise KeyError(number)
        return self._source.read(
            self._users.rows(number, self._chance(number).generator("rows", 0))
        )

    def size(self, number: int) -> int:
        """How many examples a client takes part with."""
        return self._users.size(number)

    def __iter__(self) -> Iterator[int]:
        """Their numbers."""
        return iter(self._numbers)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._numbers)


class Share(NamedTuple):
    """Clients that go into one block.

    Attributes:
      numbers: who they are.
      room: rows that are laid out for each one's examples.
    """

    numbers: tuple[int, ...]
    room: int


class Block(NamedTuple):
    """Some clients, as arrays with a leading axis of them.

    Attributes:
      batch: the arguments of `Work` after the parameters.
      mask: which are clients; the others fill up.
    """

    batch: tuple[Any, ...]
    mask: Bool[np.ndarray, " block"]


def shared_out(cohort: Mapping[int, Any], work: Work, rows: int, times: int = 1) -> list[Share]:
    """Clients of about one size together, so many at most; equally many in each.

    Sizes are rounded up to powers of two times a local batch, so that few programs are compiled
    and no more than half of a block's memory is padding.

    Args:
      cohort: of clients.
      work: that will be done.
      rows: most clients in a share.
      times: a number of shares to aim at, or a multiple of it.

    Raises:
      DataError: if a client's examples are not arrays of one length.
    """
    by_room: dict[int, list[int]] = {}
    for number in sorted(cohort):
        by_room.setdefault(_room(_size_in(cohort, number), work.batch_size), []).append(number)
    shares = []
    for room, numbers in sorted(by_room.items()):
        # As many shares for each of those who work, or one each.
        least = -(-len(numbers) // rows)
        count = min(len(numbers), -(-least // times) * times)
        cuts = [len(numbers) * i // count for i in range(count + 1)]
        pairs = itertools.pairwise(cuts)
        shares += [Share(tuple(numbers[first:last]), room) for first, last in pairs]
    return shares


def block_of(
    cohort: Mapping[int, Any],
    share: Share,
    work: Work,
    chance: Callable[[int], RunSecret],
    rows: int,
    like: Any = None,
) -> Block:
    """The examples of some clients, padded to so many.

    Args:
      cohort: has them.
      share: of the cohort.
      work: that will be done.
      chance: of each client.
      rows: of the block.
      like: `kinds` of a client's examples, which all must have.

    Raises:
      DataError: if a client's examples are not arrays, or unlike others'.
    """
    found = [arrays_of(number, cohort[number]) for number in share.numbers]
    like = like or kinds(found[0])
    for number, examples in zip(share.numbers, found, strict=True):
        if kinds(examples) != like:
            raise DataError(
                f"client {number} has examples of other shapes or types than others: "
                f"{kinds(examples)[1]}, not {like[1]}"
            )
    return _block(work, [chance(number) for number in share.numbers], found, share.room, rows)


def stacked_client(work: Work, chance: RunSecret, examples: Any) -> tuple[Any, ...]:
    """The arguments of `Work` after the parameters, for one client alone."""
    found = arrays_of(0, examples)
    room = _room(_size(0, found), work.batch_size)
    return jax.tree.map(lambda x: x[0], _block(work, [chance], [found], room, 1).batch)


def arrays_of(number: int, examples: Any) -> tuple[Any, ...]:
    """A client's examples as NumPy arrays.

    Raises:
      DataError: if they are none.
    """
    found = tuple(examples) if isinstance(examples, tuple | list) else (examples,)
    arrays = jax.tree.map(np.asarray, found)
    for leaf in jax.tree.leaves(arrays):
        if not leaf.ndim or leaf.dtype.kind not in "biufcV" or leaf.dtype.names:
            raise DataError(f"{_CHECKED}, got {leaf.dtype}{leaf.shape} from client {number}")
    return arrays


def _block(work: Work, chances: list[RunSecret], found: list[Any], room: int, rows: int) -> Block:
    most = work.passes * room // work.batch_size
    order = np.full((rows, most, work.batch_size), -1, np.int32)
    steps, words = np.zeros(rows, np.int32), np.zeros((rows, 2), np.uint32)
    for i, (chance, examples) in enumerate(zip(chances, found, strict=True)):
        made = order_of(len(jax.tree.leaves(examples)[0]), work, chance)
        order[i, : len(made)], steps[i] = made, len(made)
        words[i] = chance_of(chance)

    def padded(*leaves: np.ndarray) -> np.ndarray:
        out = np.zeros((rows, room, *leaves[0].shape[1:]), leaves[0].dtype)
        for i, leaf in enumerate(leaves):
            out[i, : len(leaf)] = leaf
        return out

    mask = np.arange(rows) < len(found)
    return Block((jax.tree.map(padded, *found), order, steps, words), mask)


def _room(size: int, batch: int) -> int:
    """Rows that are laid out for a client of some size."""
    batches = max(1, -(-size // batch))
    return batch << (batches - 1).bit_length()


def _size_in(cohort: Mapping[int, Any], number: int) -> int:
    if isinstance(cohort, Cohort):
        return cohort.size(number)
    return _size(number, cohort[number])


def _size(number: int, examples: Any) -> int:
    examples = examples if isinstance(examples, tuple | list) else (examples,)
    sizes = {len(leaf) for leaf in jax.tree.leaves(examples) if np.ndim(leaf)}
    if len(sizes) != 1:
        raise DataError(f"{_CHECKED}, got lengths {sorted(sizes)} from client {number}")
    return sizes.pop()


def kinds(examples: Any) -> Any:
    """Structure, types and shapes of a client's examples, whatever their number."""
    leaves, structure = jax.tree.flatten(examples)
    return structure, [f"{leaf.dtype}{leaf.shape[1:]}" for leaf in leaves]
