"""`privatize`: a Keras model that trains privately."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from typing import Any

import keras

from hushgrad._check import positive, whole
from hushgrad.clip import Rule, as_rule
from hushgrad.clip import from_dict as clip_from_dict
from hushgrad.errors import InputError
from hushgrad.keras.account import Account
from hushgrad.keras.example import check_model
from hushgrad.keras.history import History
from hushgrad.keras.session import Settings
from hushgrad.keras.trainer import PrivateTrainer
from hushgrad.noise import STRATEGIES, Banded, Independent, Strategy
from hushgrad.noise import from_dict as strategy_from_dict
from hushgrad.sampling import (
    SAMPLERS,
    CheckIn,
    CyclicPoisson,
    Poisson,
    Sampler,
    Shuffle,
    Stream,
    from_dict,
    to_dict,
)
from hushgrad.training import Budget

__all__ = ["PrivateModel", "privatize"]

# A stream is no way to draw.
_KINDS: dict[str, type[Sampler]] = {
    sampler.kind: sampler for sampler in SAMPLERS if sampler not in (Stream, CheckIn)
}
# Of models that are there, what their weights have cost.
_HISTORIES: weakref.WeakKeyDictionary[keras.Model, History] = weakref.WeakKeyDictionary()


@keras.saving.register_keras_serializable("hushgrad")
class PrivateModel(PrivateTrainer, keras.Model):
    """A model and its private training; made by `hushgrad.keras.privatize`.

    Attributes:
      model: the ordinary model inside, with the same weights: `private.model.save(file)`
        gives a file that loads without hushgrad.
    """

    def __init__(self, model: keras.Model, settings: Settings, account: Account) -> None:
        check_model(model)
        super().__init__(name=f"private_{model.name}", dtype=model.dtype_policy)
        self.model = model
        # What the model computes in is its own matter.
        self.autocast = False
        # Weights that were trained privately before have cost what they have.
        account.history = _HISTORIES.setdefault(model, account.history)
        self.make_private(settings, account)
        if hasattr(model, "output_names"):
            self.output_names = model.output_names
        self.built = model.built

    @property
    def owns_loss(self) -> bool:
        """Whether the model inside has a compute_loss of its own."""
        return type(self.model).compute_loss is not keras.Model.compute_loss

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """What the model inside computes."""
        return self.model(inputs)

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *arguments: Any, **options: Any
    ) -> None:
        """As Keras's. Losses are of one example: their reduction over a batch does not matter.

        Raises:
          InputError: if the model mixes examples, or has a compute_loss of its own and a loss
            is given.
        """
        if self.owns_loss and loss is not None:
            raise InputError(
                f"loss must be left out: {type(self.model).__name__} has a compute_loss of its "
                "own; if that calls super().compute_loss, compile that model with the loss first"
            )
        super().compile(optimizer, loss, *arguments, **options)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of the model inside where it has one of its own, else the compiled one."""
        owner: Any = self.model if self.owns_loss else super()
        return owner.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )

    def summary(self, *arguments: Any, **options: Any) -> None:
        """Of the model inside."""
        self.model.summary(*arguments, **options)

    def get_config(self) -> dict[str, Any]:
        """The model, its settings and what it has spent."""
        settings, account = self._settings, self._account
        sampling, strategy = settings.sampling, settings.strategy
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "clip": settings.clip.to_dict(),
            "noise_multiplier": settings.noise_multiplier,
            "sampling": sampling.kind if isinstance(sampling, type) else to_dict(sampling),
            "strategy": strategy.kind if isinstance(strategy, type) else strategy.to_dict(),
            "block_size": settings.block_size,
            "epsilon": account.limit,
            "seeded": account.seeded,
            "ledger": None if account.ledger is None else str(account.ledger),
            "account": account.to_dict(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PrivateModel:
        """The model that was saved, which goes on from what it had spent, with fresh secrets.

        Where it had a budget, `private.account.budget` is to be set before it is trained again.
        """
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        sampling, strategy = config["sampling"], config.get("strategy", Independent.kind)
        settings = Settings(
            clip_from_dict(config["clip"]),
            config["noise_multiplier"],
            _KINDS[sampling] if isinstance(sampling, str) else from_dict(sampling),
            config["block_size"],
            strategy=STRATEGIES[strategy]
            if isinstance(strategy, str)
            else strategy_from_dict(strategy),
        )
        ledger = None if config["ledger"] is None else Path(config["ledger"])
        account = Account(config["epsilon"], None, ledger=ledger, before=config["account"])
        account.seeded = config["seeded"]
        return cls(model, settings, account)


def privatize(
    model: keras.Model,
    *,
    clip: float | Rule,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    sampling: str | type[Sampler] | Sampler | None = None,
    strategy: str | type[Strategy] | Strategy = Independent,
    budget: Budget | None = None,
    ledger: str | Path | None = None,
    block_size: int | None = None,
    seed: int | None = None,
) -> PrivateModel:
    """A model that trains with differential privacy, by Keras's own methods.

    ```python
    private = hg.keras.privatize(model, clip=1.0, epsilon=3.0, delta=1e-5)
    private.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    private.fit(x, y, batch_size=256, epochs=15, validation_data=(xt, yt))
    print(private.privacy_statement())
    private.model.save("model.keras")  # an ordinary file
    ```

    The model is not changed and its weights are shared. Every update, by `fit` or `train_on_batch`,
    clips each example's gradient, adds noise and is charged, durably, before it is made.

    Under `keras.distribution` batches, sums and noise are shared out as the weights are. After
    `jax.distributed.initialize` all processes make the same calls: each reads its part of a batch,
    the first one keeps the ledger and the budget, and what ends `fit` on one ends it on all.

    Formal guarantee: all weights ever released, by this private model and by others of the same
    `model`, are (`private.epsilon()`, delta)-differentially private under the sampler's
    neighbouring relation; never more than `epsilon` is spent. What is computed from the data
    in other ways is not covered: training metrics, and what a callback does with them.

    Args:
      model: any Keras model of one example at a time; may be unbuilt.
      clip: bound on one example's gradient norm, or a rule of `hushgrad.clip`.
      noise_multiplier: noise over the clip's sensitivity.
      epsilon: the most that may be spent. Without a noise multiplier `fit` finds the noise, from
        the size of the data, the batch and the epochs, and spends all.
      delta: at which epsilon is counted; a tenth of one over the examples by default, and at
        most 1e-5.
      sampling: how `fit` draws batches: a sampler of `hushgrad.sampling`, or its name; Poisson
        sampling by default, shuffled epochs for correlated noise.
      strategy: how the noises of steps depend on each other: of `hushgrad.noise`, or a kind of
        them or its name, such as "blt", of which each `fit` finds the best for its steps.
      budget: the data set's budget, which must hold every training before its first step.
      ledger: SQLite file for a row of each step; a file of the user's own by default.
      block_size: examples processed at once, which bounds memory.
      seed: makes all chance repeatable, for tests, and not private against whoever knows it.

    Raises:
      InputError: if an argument is out of range, or the model mixes examples or has a train_step
        of its own; the message names the layer and what to use.
    """
    check_model(model)
    for method in ("test_step", "predict_step", "compute_metrics"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            warnings.warn(
                f"{type(model).__name__}.{method} is not called by the private model, only by "
                "private.model",
                stacklevel=2,
            )
    if noise_multiplier is None and epsilon is None:
        raise InputError("give noise_multiplier, or epsilon to find it, or both to stop at epsilon")
    if not isinstance(budget, Budget | None):
        raise InputError(f"budget must be a hg.Budget, got {budget!r}")
    settings = Settings(
        as_rule(clip),
        None if noise_multiplier is None else positive("noise_multiplier", noise_multiplier),
        Poisson,
        None if block_size is None else whole("block_size", block_size),
        strategy=_strategy(strategy),
    )
    settings = settings._replace(sampling=_sampler(sampling, settings))
    where = None if ledger is None else Path(ledger).expanduser()
    account = Account(epsilon, delta, budget=budget, ledger=where, seed=seed)
    return PrivateModel(model, settings, account)


def _strategy(strategy: Any) -> type[Strategy] | Strategy:
    if isinstance(strategy, str):
        strategy = STRATEGIES.get(strategy, strategy)
    if getattr(strategy, "counts", False):
        raise InputError(
            f"strategy={strategy!r} counts the rows of a table that an example looks up, which "
            "goes with hg.train alone; give a Keras model another strategy"
        )
    if strategy in STRATEGIES.values() or isinstance(strategy, tuple(STRATEGIES.values())):
        return strategy
    known = ", ".join(repr(name) for name, kind in STRATEGIES.items() if not kind.counts)
    raise InputError(f"strategy must be of hushgrad.noise, or one of {known}, got {strategy!r}")


def _sampler(sampling: Any, settings: Settings) -> type[Sampler] | Sampler:
    if sampling is None:
        return Shuffle if settings.strategy.correlated else Poisson
    if isinstance(sampling, str):
        sampling = _KINDS.get(sampling.replace("_", "-"), sampling)
    searched = sampling is CyclicPoisson and settings.strategy is Banded
    if searched and settings.noise_multiplier is not None:
        raise InputError(
            "sampling must say its cycle with a noise multiplier: how many bands are the best "
            "depends on epsilon; take hg.sampling.CyclicPoisson(rate, cycle)"
        )
    if sampling in _KINDS.values() or isinstance(sampling, tuple(_KINDS.values())):
        return sampling
    known = ", ".join(repr(kind) for kind in _KINDS)
    raise InputError(f"sampling must be a sampler, or one of {known}, got {sampling!r}")
