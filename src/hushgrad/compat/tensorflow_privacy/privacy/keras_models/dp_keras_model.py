"""Keras models that train privately with any optimizer."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import keras

from hushgrad._check import positive, whole
from hushgrad.clip import Flat
from hushgrad.keras.account import Account
from hushgrad.keras.example import check_model, check_type
from hushgrad.keras.session import Settings
from hushgrad.keras.trainer import PrivateTrainer

__all__ = ["DPModel", "DPSequential", "make_dp_model_class", "privatised", "settings_of"]

_OWN = ("l2_norm_clip", "noise_multiplier", "num_microbatches", "spent")


def settings_of(
    l2_norm_clip: float, noise_multiplier: float, num_microbatches: int | None
) -> Settings:
    """The settings of a private model, from TensorFlow Privacy's names for them.

    Raises:
      InputError: if one is out of range. A noise multiplier of zero is no privacy at all, and
        is refused too: train with an ordinary optimizer.
    """
    noise = positive("noise_multiplier", noise_multiplier)
    count = None if num_microbatches is None else whole("num_microbatches", num_microbatches)
    return Settings(Flat(positive("l2_norm_clip", l2_norm_clip)), noise, microbatches=count)


def privatised(model: keras.Model, settings: Settings, account: Account) -> None:
    """Makes a model that is there a private one, in its place.

    It stays of its class, and is saved as one: the file needs no hushgrad to load.

    Raises:
      InputError: as `hushgrad.keras.privatize` does.
    """
    check_model(model)
    model.__class__ = _private_class(type(model))  # pyright: ignore[reportArgumentType]
    assert isinstance(model, PrivateTrainer)
    model.make_private(settings, account)


@functools.cache
def _private_class(cls: Any) -> Any:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "tells_cost": False}
    return type(cls.__name__, (PrivateTrainer, cls), names)


def make_dp_model_class(cls: type[keras.Model]) -> type[keras.Model]:
    """A subclass of a class of models whose `fit` is private.

    Its constructor takes `l2_norm_clip`, `noise_multiplier` and `num_microbatches=None`, which
    must divide the batch, and then what `cls` takes. `use_xla`, `layer_registry` and
    `sparsity_preserving_dpsgd_config` are taken and change nothing: the engine knows every
    layer, and adds noise to every row. Optimizer and loss are ordinary ones.

    Formal guarantee: as `hushgrad.keras.privatize`'s.

    Raises:
      InputError: if the class has a `train_step` of its own.
    """
    check_type(cls)
    return _dp_class(cls)  # pyright: ignore[reportArgumentType]


@functools.cache
def _dp_class(base: Any) -> Any:
    class DPModelClass(PrivateTrainer, base):
        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            if cls is DPModelClass and base is keras.Model and {"inputs", "outputs"} <= {*options}:
                graph = type(keras.Model(options["inputs"], options["outputs"]))
                return make_dp_model_class(graph)(*arguments, **options)
            return super().__new__(cls)

        def __init__(
            self,
            l2_norm_clip: float,
            noise_multiplier: float,
            num_microbatches: int | None = None,
            use_xla: bool = True,
            layer_registry: Any = None,
            sparsity_preserving_dpsgd_config: Any = None,
            *arguments: Any,
            **options: Any,
        ) -> None:
            if sparsity_preserving_dpsgd_config is not None:
                warnings.warn(
                    "sparsity_preserving_dpsgd_config changes nothing: noise is added to all rows",
                    stacklevel=2,
                )
            settings = settings_of(l2_norm_clip, noise_multiplier, num_microbatches)
            super().__init__(*arguments, **options)
            self.make_private(settings, Account(None, None))

        def get_config(self) -> dict[str, Any]:
            settings = self._settings
            assert isinstance(settings.clip, Flat)
            return {
                **super().get_config(),
                "l2_norm_clip": settings.clip.norm,
                "noise_multiplier": settings.noise_multiplier,
                "num_microbatches": settings.microbatches,
                "spent": self.account.to_dict(),
            }

        @classmethod
        def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
            own = {name: config[name] for name in _OWN}
            rest = {name: value for name, value in config.items() if name not in _OWN}
            model = base.from_config(rest, custom_objects=custom_objects)
            model.__class__ = cls
            spent = own.pop("spent")
            model.make_private(settings_of(**own), Account(None, None, before=spent))
            return model

    DPModelClass.__name__ = DPModelClass.__qualname__ = f"DP{base.__name__}"
    DPModelClass.__module__ = __name__
    return keras.saving.register_keras_serializable("hushgrad")(DPModelClass)


DPModel = make_dp_model_class(keras.Model)
DPSequential = make_dp_model_class(keras.Sequential)
