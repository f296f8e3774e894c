"""Optimizers that make the model which is compiled with them train privately."""

from __future__ import annotations

import functools
from typing import Any

import keras

from hushgrad.compat.tensorflow_privacy.privacy.keras_models.dp_keras_model import (
    privatised,
    settings_of,
)
from hushgrad.errors import InputError
from hushgrad.keras.account import Account
from hushgrad.keras.session import Settings
from hushgrad.keras.trainer import PrivateTrainer

__all__ = [
    "DPKerasAdagradOptimizer",
    "DPKerasAdamOptimizer",
    "DPKerasSGDOptimizer",
    "make_keras_optimizer_class",
]


class _Private:
    """What every optimizer here has beside what Keras's has."""

    settings: Settings
    account: Account
    _noisy = False

    def apply(self, *arguments: Any, **options: Any) -> Any:
        """Refused but for noisy gradients: those of a whole batch can be clipped no more.

        Raises:
          InputError: if it is called outside of a private model's training.
        """
        if not self._noisy:
            raise InputError(
                f"{type(self).__name__} works through model.compile(optimizer=...) and model.fit, "
                "which clip each example's gradient; to that of a whole batch it cannot be applied"
            )
        return super().apply(*arguments, **options)  # pyright: ignore

    def private_update(self, variables: Any, grads: Any, trainable: Any) -> tuple[Any, Any]:
        """An update with noisy gradients, by the model that is private through this."""
        self._noisy = True
        try:
            return self.stateless_apply(variables, grads, trainable)  # pyright: ignore
        finally:
            self._noisy = False


def make_keras_optimizer_class(cls: type[keras.optimizers.Optimizer]) -> type:
    """A subclass of an optimizer's class that makes the model it is given to private.

    ```python
    optimizer = DPKerasSGDOptimizer(
        l2_norm_clip=1.0, noise_multiplier=0.5, num_microbatches=32, learning_rate=0.25
    )
    model.compile(optimizer=optimizer, loss=loss)
    model.fit(x, y, epochs=1, batch_size=32)
    print(model.privacy_statement())
    ```

    Its constructor takes `l2_norm_clip`, `noise_multiplier`, `num_microbatches=None` (as many as
    the batch has examples; it must divide the batch), `gradient_accumulation_steps=1`, and then
    what `cls` takes. Each of the accumulated steps has noise of its own and is charged. Batches
    are Poisson samples where each example is clipped by itself, and shuffled ones where
    `num_microbatches` is smaller than the batch, since there nothing is proved for Poisson's.

    Formal guarantee: as `hushgrad.keras.privatize`'s.
    """

    class DPOptimizerClass(_Private, cls):
        def __init__(
            self,
            l2_norm_clip: float,
            noise_multiplier: float,
            num_microbatches: int | None = None,
            gradient_accumulation_steps: int = 1,
            *arguments: Any,
            **options: Any,
        ) -> None:
            settings = settings_of(l2_norm_clip, noise_multiplier, num_microbatches)
            # Keras's own classes hold them by name; a saved one brings what it had spent.
            spent, options = options.get("spent"), {**options}
            options.pop("spent", None)
            options.pop("unconnected_gradients_to_zero", None)
            options.pop("unroll_microbatches", None)
            several = gradient_accumulation_steps
            options["gradient_accumulation_steps"] = None if several in (None, 1) else several
            super().__init__(*arguments, **options)
            self.settings, self.account = settings, Account(None, None, before=spent)

        def get_config(self) -> dict[str, Any]:
            return {
                **super().get_config(),
                "l2_norm_clip": self.settings.clip.sensitivity,
                "noise_multiplier": self.settings.noise_multiplier,
                "num_microbatches": self.settings.microbatches,
                "spent": self.account.to_dict(),
            }

    DPOptimizerClass.__name__ = DPOptimizerClass.__qualname__ = f"DPKeras{cls.__name__}Optimizer"
    DPOptimizerClass.__module__ = __name__
    return keras.saving.register_keras_serializable("hushgrad")(DPOptimizerClass)


DPKerasSGDOptimizer = make_keras_optimizer_class(keras.optimizers.SGD)
DPKerasAdamOptimizer = make_keras_optimizer_class(keras.optimizers.Adam)
DPKerasAdagradOptimizer = make_keras_optimizer_class(keras.optimizers.Adagrad)


# Where Keras defines it: that is what it compares with to know who has changed it.
_owner = next(cls for cls in keras.Model.__mro__ if "compile" in vars(cls))
_compile = _owner.compile


@functools.wraps(_compile)
def _compile_privately(
    self: Any, optimizer: Any = "rmsprop", *arguments: Any, **options: Any
) -> None:
    """Keras's compile, which makes a model private for an optimizer of these."""
    if isinstance(optimizer, _Private) and not isinstance(self, PrivateTrainer):
        privatised(self, optimizer.settings, optimizer.account)
        optimizer, options = self.prepared(optimizer, options)
    _compile(self, optimizer, *arguments, **options)


# The one place where Keras is changed: scripts of TensorFlow Privacy give their optimizer to
# `compile`, and an optimizer alone sees no example's gradient.
_owner.compile = _compile_privately
