"""Where a run's arrays are: on one device, or shared out over a mesh of one or more processes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from hushgrad.errors import InputError
from hushgrad.training.step import State

__all__ = ["Layout", "fsdp"]

# Of the axis that examples are shared out along.
_DATA = ("data", "batch")
# Arrays of fewer numbers are on every device: to share them out costs more than it saves.
_SMALL = 2**10


class Layout:
    """One device, or a mesh of them.

    Args:
      mesh: with an axis along which examples are shared out; any other axes are for
        parameters. None for one device.
      axis: its name; by default it is "data" or "batch".

    Attributes:
      shards: among how many devices examples are shared out.
      devices: how many there are in all.

    Raises:
      InputError: if it is no mesh, or has no such axis.
    """

    def __init__(self, mesh: Mesh | None, axis: str = "") -> None:
        self._mesh, self._axis = mesh, axis
        self.shards = self.devices = 1
        if mesh is None:
            return
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
        self._axis = axis or next((name for name in mesh.axis_names if name in _DATA), "")
        if not self._axis:
            raise InputError(
                f"mesh must have an axis named 'data' or 'batch', along which examples are shared "
                f"out, got the axes {mesh.axis_names}"
            )
        self.shards, self.devices = mesh.shape[self._axis], mesh.size
        # The engine leaves it to the compiler how what lies between is shared out.
        automatic = (AxisType.Auto,) * len(mesh.axis_names)
        self._mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)

    @property
    def mesh(self) -> Mesh | None:
        """The devices; None for one."""
        return self._mesh

    @property
    def axis(self) -> str:
        """Of the mesh: along which examples are shared out."""
        return self._axis

    def plain(self) -> dict[str, Any] | None:
        """The mesh as plain data."""
        if self._mesh is None:
            return None
        return {"axes": dict(self._mesh.shape), "devices": self._mesh.device_ids.ravel().tolist()}

    def rounded(self, block_size: int) -> int:
        """A block of as many rows or more, that has as many for each device; some are padding."""
        return -(-block_size // self.shards) * self.shards

    def mine(self, rows: int) -> np.ndarray | None:
        """Which rows of a block this process has devices for; None for all of them."""
        if self._mesh is None or not self._mesh.is_multi_process:
            return None
        sharding = NamedSharding(self._mesh, PartitionSpec(self._axis))
        found = sharding.addressable_devices_indices_map((rows,)).values()
        return np.unique(np.concatenate([np.arange(rows)[index] for index in found]))

    def batch(self, rows: PyTree[Any], size: int) -> PyTree[Any]:
        """A block of so many rows, shared out, from those of them that are `mine`."""
        if self._mesh is None:
            return rows
        sharding, mine = NamedSharding(self._mesh, PartitionSpec(self._axis)), self.mine(size)
        if mine is None:
            return jax.device_put(rows, sharding)

        def shared(leaf: np.ndarray) -> Array:
            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(size)
                first = np.searchsorted(mine, start)
                return leaf[first : first + stop - start]

            return jax.make_array_from_callback((size, *leaf.shape[1:]), sharding, part)

        return jax.tree.map(shared, rows)

    def params(self, params: PyTree[Array]) -> PyTree[Array]:
        """Parameters where they were put on the mesh; all others on every device of it."""
        return jax.tree.map(self._placed, params)

    def state(self, state: State, optimizer: optax.GradientTransformation) -> State:
        """A state, all that is shaped like the parameters where those are."""
        if self._mesh is None:
            return state
        params = self.params(state.params)
        inner = optax.tree_map_params(
            optimizer,
            _like,
            state.optimizer,
            params,
            transform_non_params=self._placed,
        )
        average = state.average
        if isinstance(average, optax.EmaState):
            mean = jax.tree.map(
                lambda m, p: None if m is None else _like(m, p),
                average.ema,
                params,
                is_leaf=lambda leaf: leaf is None,
            )
            average = optax.EmaState(self._placed(average.count), mean)
        norm = None if state.norm is None else self._placed(state.norm)
        return self.noise(State(params, inner, state.noise, norm, average))

    def noise(self, state: State) -> State:
        """A state whose noise's is where the parameters are."""
        if self._mesh is None:
            return state
        structure, leaves = jax.tree.structure(state.params), jax.tree.leaves(state.params)

        def part(part: Any) -> Any:
            if jax.tree.structure(part, is_leaf=lambda leaf: leaf is None) != structure:
                return jax.tree.map(self._placed, part)
            kept = structure.flatten_up_to(part)
            placed = [k if k is None else _like(k, p) for k, p in zip(kept, leaves, strict=True)]
            return jax.tree.unflatten(structure, placed)

        if not isinstance(state.noise, tuple):
            return state
        return state._replace(noise=type(state.noise)(*(part(each) for each in state.noise)))

    def places(self, tree: PyTree[Array]) -> tuple[NamedSharding, ...] | None:
        """Of a tree's arrays; None on one device."""
        if self._mesh is None:
            return None
        return tuple(leaf.sharding for leaf in jax.tree.leaves(tree))

    def _placed(self, leaf: Any) -> Any:
        if self._mesh is None:
            return leaf
        sharding, spec = getattr(leaf, "sharding", None), PartitionSpec()
        if isinstance(sharding, NamedSharding) and _same(sharding.mesh, self._mesh):
            spec = sharding.spec
        return _put(leaf, NamedSharding(self._mesh, spec))


def fsdp(params: PyTree[Any], mesh: Mesh, axis: str = "data") -> PyTree[Array]:
    """Parameters shared out over the devices along one axis of a mesh.

    ```python
    mesh = jax.make_mesh((8,), ("data",))
    run = hg.train(loss, hg.fsdp(params, mesh), data, m, mesh=mesh, ...)
    ```

    Each array is cut along its longest axis that the devices divide, the last only where no
    other is left, and stays whole on each device where there is none or it is small. So are
    its gradients, the noise, and what the optimizer and checkpoints hold of it ("fully sharded
    data parallel", Rajbhandari et al. 2020, arXiv 1910.02054).

    Raises:
      InputError: if the mesh has no such axis.
    """
    if axis not in mesh.axis_names:
        raise InputError(f"axis must be one of {mesh.axis_names}, got {axis!r}")
    count = mesh.shape[axis]

    def placed(leaf: Any) -> Array:
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        fitting = [n for n, size in enumerate(leaf.shape) if size % count == 0 and size]
        spec: list[str | None] = [None] * leaf.ndim
        if fitting and leaf.size >= _SMALL:
            # Noise is made in pieces of rows, which the last axis would cut.
            earlier = [n for n in fitting if n < leaf.ndim - 1]
            spec[max(earlier or fitting, key=lambda n: leaf.shape[n])] = axis
        return _put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(placed, params)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    """An array there; each process puts what its own devices hold of it."""
    if sharding.is_fully_addressable or _is_shared(leaf):
        return jax.device_put(leaf, sharding)
    held = np.asarray(leaf, jnp.asarray(leaf).dtype)
    return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])


def _is_shared(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _same(one: Any, other: Mesh) -> bool:
    return (
        isinstance(one, Mesh)
        and one.axis_names == other.axis_names
        and np.array_equal(one.device_ids, other.device_ids)
    )


def _like(leaf: Any, param: Array) -> Any:
    """An array where a parameter is, whose last axes it has."""
    sharding = param.sharding
    assert isinstance(sharding, NamedSharding)
    more = np.ndim(leaf) - param.ndim
    if more < 0 or np.shape(leaf)[more:] != param.shape:
        return _put(leaf, NamedSharding(sharding.mesh, PartitionSpec()))
    spec = PartitionSpec(*[None] * more, *sharding.spec)
    return _put(leaf, NamedSharding(sharding.mesh, spec))
