"""Where Keras has its arrays: on one device, or as its distribution says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from jax.sharding import NamedSharding

from hushgrad.errors import InputError
from hushgrad.training.layout import Layout
from hushgrad.training.team import Team

__all__ = ["check_devices", "layout"]

_MEND = (
    "set before the model is made, as "
    "keras.distribution.set_distribution(keras.distribution.DataParallel(...)) does"
)


def layout() -> Layout:
    """Of Keras's distribution; of one device where there is none, or it splits no batch."""
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.batch_dim_name is None:
        return Layout(None)
    return Layout(distribution.device_mesh.backend_mesh, distribution.batch_dim_name)


def check_devices(team: Team, variables: Sequence[Any]) -> None:
    """Refuses weights that are not where the distribution would have them.

    Raises:
      InputError: if they are elsewhere, or the distribution lacks a process's devices.
    """
    distribution = keras.distribution.distribution()
    mesh = None if distribution is None else distribution.device_mesh.backend_mesh
    team.check(mesh, "keras.distribution", _MEND)
    if distribution is None or mesh is None:
        return
    if team.size > 1 and distribution.auto_shard_dataset:
        raise InputError(
            "keras.distribution shares data sets out over processes, and fit does that itself: "
            "give DataParallel or ModelParallel auto_shard_dataset=False"
        )
    everywhere = set(mesh.devices.flat)
    for variable in variables:
        sharding = variable.value.sharding
        if not isinstance(sharding, NamedSharding) or sharding.device_set != everywhere:
            raise InputError(
                f"{variable.path} is not on the devices of keras.distribution.distribution(): "
                f"that must be {_MEND}"
            )
