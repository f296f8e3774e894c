"""Optimizers that make the model which is compiled with them train privately."""

from __future__ import annotations

import functools
from typing import Any

import keras

from hushgrad._check import positive
from hushgrad.compat.tensorflow_privacy.privacy.dp_query.gaussian_query import GaussianSumQuery
from hushgrad.compat.tensorflow_privacy.privacy.keras_models.dp_keras_model import (
    privatised,
    settings_of,
)
from hushgrad.errors import InputError
from hushgrad.keras.account import Account
from hushgrad.keras.session import Settings
from hushgrad.keras.trainer import PrivateTrainer
from hushgrad.noise import Tree
from hushgrad.sampling import Shuffle

__all__ = [
    "DPFTRLTreeAggregationOptimizer",
    "DPKerasAdagradOptimizer",
    "DPKerasAdamOptimizer",
    "DPKerasSGDOptimizer",
    "GenericDPAdagradOptimizer",
    "GenericDPAdamOptimizer",
    "GenericDPSGDOptimizer",
    "make_gaussian_query_optimizer_class",
    "make_keras_generic_optimizer_class",
    "make_keras_optimizer_class",
]


class _Private:
    """What every optimizer here has beside what Keras's has."""

    settings: Settings
    account: Account
    _noisy = False

    def _begin(
        self,
        settings: Settings,
        gradient_accumulation_steps: int | None,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        seed: int | None = None,
    ) -> None:
        """Sets up what is private, and what Keras's class has."""
        # Keras's own classes hold them by name; a saved one brings what it had spent.
        spent = options.pop("spent", None)
        options.pop("unconnected_gradients_to_zero", None)
        options.pop("unroll_microbatches", None)
        several = gradient_accumulation_steps
        options["gradient_accumulation_steps"] = None if several in (None, 1) else several
        super().__init__(*arguments, **options)
        self.settings, self.account = settings, Account(None, None, seed=seed, before=spent)

    def get_config(self) -> dict[str, Any]:
        """What the optimizer is made with, and what was spent with it."""
        return {
            **super().get_config(),  # pyright: ignore
            "l2_norm_clip": self.settings.clip.sensitivity,
            "noise_multiplier": self.settings.noise_multiplier,
            "num_microbatches": self.settings.microbatches,
            "spent": self.account.to_dict(),
        }

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
            self._begin(settings, gradient_accumulation_steps, arguments, options)

    DPOptimizerClass.__name__ = DPOptimizerClass.__qualname__ = f"DPKeras{cls.__name__}Optimizer"
    DPOptimizerClass.__module__ = __name__
    return keras.saving.register_keras_serializable("hushgrad")(DPOptimizerClass)


DPKerasSGDOptimizer = make_keras_optimizer_class(keras.optimizers.SGD)
DPKerasAdamOptimizer = make_keras_optimizer_class(keras.optimizers.Adam)
DPKerasAdagradOptimizer = make_keras_optimizer_class(keras.optimizers.Adagrad)


def make_keras_generic_optimizer_class(cls: type[keras.optimizers.Optimizer]) -> type:
    """As `make_keras_optimizer_class`, of a class that takes the clip and the noise from a query.

    Its constructor takes `dp_sum_query`, `num_microbatches=None`, `gradient_accumulation_steps=1`,
    and then what `cls` takes.

    Raises:
      InputError: when it is made with another query than a `GaussianSumQuery`.
    """
    private: Any = make_keras_optimizer_class(cls)

    class DPOptimizerClass(private):
        def __init__(
            self,
            dp_sum_query: GaussianSumQuery,
            num_microbatches: int | None = None,
            gradient_accumulation_steps: int = 1,
            *arguments: Any,
            **options: Any,
        ) -> None:
            if not isinstance(dp_sum_query, GaussianSumQuery):
                raise InputError(
                    f"dp_sum_query must be a GaussianSumQuery, got {dp_sum_query!r}; for a tree's "
                    "noise take DPFTRLTreeAggregationOptimizer, for a clip that moves "
                    "hg.keras.privatize(clip=hg.clip.Adaptive(...))"
                )
            clip, stddev = dp_sum_query.initial_global_state()
            clip = positive("l2_norm_clip", clip)
            super().__init__(
                clip,
                stddev / clip,
                num_microbatches,
                gradient_accumulation_steps,
                *arguments,
                **options,
            )

        @classmethod
        def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
            clip, noise = config.pop("l2_norm_clip"), config.pop("noise_multiplier")
            return super().from_config(
                {**config, "dp_sum_query": GaussianSumQuery(clip, clip * noise)}, custom_objects
            )

    name = f"GenericDP{cls.__name__}Optimizer"
    DPOptimizerClass.__name__ = DPOptimizerClass.__qualname__ = name
    DPOptimizerClass.__module__ = __name__
    return keras.saving.register_keras_serializable("hushgrad")(DPOptimizerClass)


def make_gaussian_query_optimizer_class(cls: type) -> type:
    """The class of `make_keras_optimizer_class` for one of `make_keras_generic_optimizer_class`."""
    own = next(kind for kind in cls.__mro__[1:] if kind.__module__ != __name__)
    return make_keras_optimizer_class(own)


GenericDPSGDOptimizer = make_keras_generic_optimizer_class(keras.optimizers.SGD)
GenericDPAdamOptimizer = make_keras_generic_optimizer_class(keras.optimizers.Adam)
GenericDPAdagradOptimizer = make_keras_generic_optimizer_class(keras.optimizers.Adagrad)


@keras.saving.register_keras_serializable("hushgrad")
class DPFTRLTreeAggregationOptimizer(_Private, keras.optimizers.SGD):
    """SGD whose noise is a tree's over the steps: DP-FTRL, for batches that are not sampled.

    `fit` shuffles the data in each epoch, and each call of it begins a tree; the cost is that
    of the worst order. See `hushgrad.dp_ftrl`, which finds the noise for an epsilon.

    Formal guarantee: as `hushgrad.dp_ftrl`'s.

    Args:
      l2_norm_clip: bound on the norm of an example's (or a microbatch's) gradient.
      noise_multiplier: of a node's noise over it.
      var_list_or_model: taken and not needed.
      num_microbatches: as many as the batch has examples by default; must divide the batch.
      gradient_accumulation_steps: as of the other optimizers.
      restart_period: begin a new tree after so many steps; None for one tree.
      restart_warmup: after how many steps the first tree ends, where it is a shorter one.
      noise_seed: makes all chance repeatable, for tests, and not private against whoever
        knows it.
      *arguments, **options: of `keras.optimizers.SGD`.

    Raises:
      InputError: if a number is out of range.
    """

    def __init__(
        self,
        l2_norm_clip: float,
        noise_multiplier: float,
        var_list_or_model: Any = None,
        num_microbatches: int | None = None,
        gradient_accumulation_steps: int = 1,
        restart_period: int | None = None,
        restart_warmup: int | None = None,
        noise_seed: int | None = None,
        *arguments: Any,
        **options: Any,
    ) -> None:
        del var_list_or_model
        settings = settings_of(l2_norm_clip, noise_multiplier, num_microbatches)._replace(
            sampling=Shuffle, strategy=Tree(restart_period, restart_warmup)
        )
        self._begin(settings, gradient_accumulation_steps, arguments, options, noise_seed)

    def get_config(self) -> dict[str, Any]:
        """What the optimizer is made with but the seed, and what was spent with it."""
        strategy = self.settings.strategy
        assert isinstance(strategy, Tree)
        return {
            **super().get_config(),
            "restart_period": strategy.restart_every,
            "restart_warmup": strategy.first_restart,
        }


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
