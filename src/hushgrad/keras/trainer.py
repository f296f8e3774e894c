"""Keras's trainer interface, with every update clipped, noised and charged."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import keras
import numpy as np

from hushgrad.errors import InputError
from hushgrad.keras.account import Account
from hushgrad.keras.data import Rows, rows_of, split
from hushgrad.keras.devices import check_devices, layout
from hushgrad.keras.example import (
    check_apart,
    check_layers,
    layers_of,
    seeds_of,
    warn_of_adapted,
)
from hushgrad.keras.session import Drawn, RowSession, Session, Settings, StreamSession
from hushgrad.keras.steering import check_steering
from hushgrad.keras.step import State, Step
from hushgrad.keras.together import AgreedCallbacks
from hushgrad.training.interrupt import noted
from hushgrad.training.team import Team, watched

__all__ = ["PrivateTrainer"]

# Of float16: gradients above 1/16 of its range overflow, those below 1e-10 vanish.
_LOSS_SCALE = 1024.0
# In files of weights.
_COST = "hushgrad"
# Arguments of fit that are numbers, or lists of them.
_COUNTS = "epochs", "initial_epoch", "validation_steps", "validation_batch_size", "validation_freq"
_UNPROTECTED = (
    "Training loss and metrics carry no noise: they are for your eyes, not for publication."
)


class _Ticks(keras.utils.PyDataset):
    """As many steps as an epoch has. What Keras is shown is no data, but shaped like it."""

    def __init__(self, count: int, sample: tuple[Any, ...]) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._count, self._sample = count, sample

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self._sample


# It stands before a class of models among the bases of a third, and calls what that has.
_Model = keras.Model if TYPE_CHECKING else object


class PrivateTrainer(_Model):
    """A `keras.Model` whose `fit` and `train_on_batch` are private; stands before it in bases.

    Every update goes through `train_function`, which charges a step before it is made.
    """

    unpenalised = False
    # Files of weights tell what they cost, where only a private model reads them.
    tells_cost = True

    def make_private(self, settings: Settings, account: Account) -> None:
        """Sets up what a private model keeps; to be called in `__init__`."""
        self._settings, self._account = settings, account
        self._session: Session | None = None
        self._steps: dict[Any, Step] = {}
        self._checked = False
        self._loss_scale, self._alive = 1.0, None

    @property
    def account(self) -> Account:
        """What was spent."""
        return self._account

    def epsilon(self, delta: float | None = None, accountant: str = "pld") -> float:
        """Upper bound on epsilon of all that was trained so far.

        Args:
          delta: in (0, 1); the model's own by default.
          accountant: "pld" (tight) or "rdp".
        """
        return self._account.epsilon(delta, accountant)

    def privacy_statement(self) -> str:
        """What is promised, to whom and against what, in plain words."""
        return self._account.statement()

    @property
    def noise_multiplier(self) -> float | None:
        """Of the last training, or what is to come; None while it is not known."""
        spent = self._account.spent
        return spent[-1].mechanism.noise_multiplier if spent else self._settings.noise_multiplier

    @property
    def losses(self) -> list[Any]:
        """As Keras's; while an example's loss is computed, without those of the weights."""
        losses = super().losses
        if not self.unpenalised:
            return losses
        weights = [v for v in self.trainable_weights if v.regularizer is not None]
        return losses[: len(losses) - len(weights)]

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *arguments: Any, **options: Any
    ) -> None:
        """As Keras's. Losses are of one example: their reduction over a batch does not matter.

        Raises:
          InputError: if a layer mixes examples, or the optimizer is another library's.
        """
        optimizer, options = self.prepared(optimizer, {**options, "loss": loss})
        super().compile(optimizer, options.pop("loss"), *arguments, **options)

    def prepared(self, optimizer: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The optimizer and the other arguments that Keras's own compile is to be given."""
        check_layers(self)
        optimizer = keras.optimizers.get(optimizer)
        narrow = any(layer.compute_dtype == "float16" for layer in [self, *layers_of(self)])
        self._loss_scale = _LOSS_SCALE if narrow else 1.0
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            # A scale that follows overflows would follow the data; this one stays.
            self._loss_scale, optimizer = optimizer.initial_scale, optimizer.inner_optimizer
        self._steps, self._checked = {}, False
        warn_of_adapted(self)
        for loss in keras.tree.flatten(options.get("loss")):
            if getattr(loss, "reduction", None) == "mean_with_sample_weight":
                raise InputError(
                    f"loss={loss!r} divides by the weights of a batch, which would take each "
                    "example's weight away: take reduction='sum_over_batch_size'"
                )
        return optimizer, {**options, "auto_scale_loss": False}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the model that was saved was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> keras.callbacks.History:
        """Trains as Keras's `fit` does, privately.

        Batches of `batch_size` expected examples are drawn by the sampler, whatever `shuffle` says,
        from arrays, pytrees of them, a `PyDataset` and anything with `len(x)` and `x[i]`. A stream
        (a generator, tf.data, a data loader) is trained on as it comes, and charged without
        amplification. Losses and metrics of training data carry no noise and are not covered.

        Formal guarantee: the weights after every step are private with `epsilon()`.

        Raises:
          InputError, DataError: if an argument or the data is wrong; nothing has been spent.
          BudgetError: if the limit or the budget does not hold the epochs asked for.
          LedgerError: if a charge cannot be written; its step is not made.
          ProcessError: if another process failed or is gone; see `hushgrad.keras.privatize`.
        """
        self._ready("fit")
        if epochs <= initial_epoch:
            return _no_history(self)
        options: dict[str, Any] = {
            "epochs": epochs,
            "verbose": verbose,
            "callbacks": callbacks,
            "initial_epoch": initial_epoch,
            "validation_data": validation_data,
            "validation_steps": validation_steps,
            "validation_batch_size": validation_batch_size or batch_size,
            "validation_freq": validation_freq,
        }
        team = Team()
        with team.together(), watched():
            with team.alike() as facts:
                self._account.history.validated |= check_steering(callbacks)
                check_devices(team, self.variables)
                if validation_split and validation_data is None:
                    parts, held_out = split((x, y, sample_weight), validation_split)
                    (x, y, sample_weight), options["validation_data"] = parts, held_out
                rows = rows_of(x, y, sample_weight, class_weight)
                facts |= self._facts(options, batch_size, steps_per_epoch)
            epochs -= initial_epoch
            if rows is None:
                session = self._of_stream(team, x, steps_per_epoch, epochs, class_weight)
                options |= {"x": x, "steps_per_epoch": steps_per_epoch, "shuffle": False}
            else:
                # Data that cannot be read are found before anything is reserved.
                sample = rows.sample(2 * layout().shards)
                session = self._of_rows(team, rows, batch_size, steps_per_epoch, epochs)
                options["x"] = _Ticks(session.per_epoch or 1, sample)
            if team.size > 1:
                options["callbacks"] = AgreedCallbacks(team, self, session.per_epoch, options)
            if verbose:
                print(_UNPROTECTED)
            return self._carried_out(session, lambda: super(PrivateTrainer, self).fit(**options))

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on a batch that is given, charged without amplification by sampling.

        Raises:
          InputError: if the noise is not known: `noise_multiplier` must be given.
          BudgetError: if the limit or the budget holds no further step.
        """
        self._ready("train_on_batch")
        if self._settings.noise_multiplier is None:
            raise InputError(
                "noise_multiplier must be given for train_on_batch: how many steps follow is not "
                "known, so it cannot be found from epsilon"
            )
        session = StreamSession(self._account, self._settings, Team(), 1, class_weight)
        session.per_epoch = 1
        return self._carried_out(
            session,
            lambda: super(PrivateTrainer, self).train_on_batch(
                x, y, sample_weight=sample_weight, return_dict=return_dict
            ),
        )

    def make_train_function(self, force: bool = False) -> None:
        """The function that all updates go through."""
        if self.train_function is None or force:
            self.train_function = self._train

    def train_step(self, state: Any, data: Any) -> Any:
        """One step on a batch that was drawn, charged before its release.

        Raises:
          InputError: if it was not drawn: call `fit` or `train_on_batch`.
        """
        session = self._session
        if session is None or not isinstance(data, Drawn):
            raise InputError("train_step is for drawn batches alone: call fit or train_on_batch")
        state, step = State(*state), self._compiled(session)
        if session.noise is None:
            session.noise = step.noise(state.trainable, session.mechanism)
        carried = session.norm, session.noise
        logs, metrics, sums = {}, state.metrics, step.zeros(state.trainable)
        for block, mask in data.blocks:
            if not session.agreed:
                step.check_alike(session.team, state, sums, block, mask, data.key, carried)
                session.agreed = True
            logs, metrics, sums = step.sum(state, metrics, sums, block, mask, session.norm)
        session.nonfinite = session.nonfinite + sums.nonfinite
        data.charge()
        trainable, frozen, optimizer, (session.norm, session.noise) = step.release(
            state, sums, data.key, carried
        )
        return logs, tuple(State(trainable, frozen, optimizer, metrics))

    def test_step(self, state: Any, data: Any) -> Any:
        """As Keras's; but seeds, what moves with data that are evaluated stays as it was."""
        logs, (trainable, frozen, metrics) = super().test_step(state, data)
        return logs, (trainable, self._kept(state[1], frozen), metrics)

    def predict_step(self, state: Any, data: Any) -> Any:
        """As Keras's; but seeds, what moves with data that are looked at stays as it was."""
        outputs, frozen = super().predict_step(state, data)
        return outputs, self._kept(state[1], frozen)

    def _kept(self, before: list[Any], after: list[Any]) -> list[Any]:
        seeds = seeds_of(self)
        pairs = zip(self.non_trainable_variables, before, after, strict=True)
        return [new if id(v) in seeds else old for v, old, new in pairs]

    def save_own_variables(self, store: Any) -> None:
        """As Keras's, with what the weights have cost."""
        super().save_own_variables(store)
        if self.tells_cost:
            told = json.dumps(self._account.to_dict()).encode()
            store[_COST] = np.frombuffer(told, np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """As Keras's; what the weights have cost is counted from then on."""
        if _COST in store.keys():  # noqa: SIM118  (it is no dictionary)
            told = np.asarray(store[_COST]).tobytes().decode()
            self._account.take_over(json.loads(told))
            store = {name: store[name] for name in store.keys() if name != _COST}  # noqa: SIM118
        super().load_own_variables(store)

    def updated(self, optimizer: Any, grads: Any, trainable: Any) -> tuple[Any, Any]:
        """The variables and the optimizer's after an update with noisy gradients."""
        own = self.optimizer
        if own.loss_scale_factor:  # it divides by what losses were not multiplied with
            grads = [g * own.loss_scale_factor for g in grads]
        apply = getattr(own, "private_update", own.stateless_apply)
        return apply(optimizer, grads, trainable)

    def _train(self, state: Any, iterator: Any) -> Any:
        """So many steps as an execution has."""
        session, logs = self._session, None
        if session is None:
            raise InputError("train_function charges what fit or train_on_batch begin: call those")
        for _ in range(self.steps_per_execution):
            try:
                batch = next(iterator)
            except StopIteration:
                if logs is None:
                    raise
                break
            self._alive = state
            # Ctrl-C in the middle of a step would lose the weights that are given away in it.
            with noted() as interrupted:
                logs, state = self.train_step(state, session.draw(batch))
                self._alive = state
            if interrupted():
                raise KeyboardInterrupt
        return {**(logs or {}), "epsilon": session.epsilon_shown()}, state

    def _of_stream(
        self, team: Team, x: Any, steps_per_epoch: int | None, epochs: int, class_weight: Any
    ) -> Session:
        per_epoch = _announced(x) if steps_per_epoch is None else steps_per_epoch
        steps = None if per_epoch is None else per_epoch * epochs
        session = StreamSession(self._account, self._settings, team, steps, class_weight)
        session.per_epoch = per_epoch
        return session

    def _of_rows(
        self,
        team: Team,
        rows: Rows,
        batch_size: int | None,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> RowSession:
        if not self._checked:
            inner: Any = getattr(self, "model", self)
            check_apart(inner, rows.two())
            self._checked = True
        size = min(batch_size or rows.batch_size, rows.size)
        per_epoch = math.ceil(rows.size / size) if steps_per_epoch is None else steps_per_epoch
        session = RowSession(self._account, self._settings, team, rows, size, per_epoch * epochs)
        session.per_epoch = per_epoch
        return session

    def _facts(
        self, options: dict[str, Any], batch_size: int | None, steps_per_epoch: int | None
    ) -> dict[str, Any]:
        """What several processes that fit together must agree on, by name."""
        held = keras.tree.flatten(options["validation_data"])
        return {
            "batch_size": batch_size,
            "block_size": self._settings.block_size,
            "steps_per_epoch": steps_per_epoch,
            "steps_per_execution": self.steps_per_execution,
            "validation_data": [list(getattr(part, "shape", ())) for part in held],
            **{name: options[name] for name in _COUNTS},
        }

    def _ready(self, method: str) -> None:
        if not self.compiled:
            raise InputError(f"{method} comes after compile(optimizer=..., loss=...)")
        if self._session is not None:
            raise InputError(f"{method} cannot be called while another training goes on")

    def _carried_out(self, session: Session, train: Callable[[], Any]) -> Any:
        """Trains; whatever happens, the model keeps its last weights and the session ends."""
        self._session, self._alive = session, None
        try:
            return train()
        except BaseException:
            # Keras takes the weights out of a model while it trains.
            self._put_back()
            raise
        finally:
            self._session = self._alive = None
            session.end()
            bad = 0
            # Of processes that are gone nothing is known.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                bad = int(session.nonfinite)
            if bad:
                warnings.warn(
                    f"{bad:,} gradients were not finite and counted as zero: look for NaN in the "
                    "data, or a learning rate that is too large",
                    stacklevel=3,
                )

    def _put_back(self) -> None:
        if self._alive is None:
            return
        state = State(*self._alive)
        for variables, values in (
            (self.trainable_variables, state.trainable),
            (self.non_trainable_variables, state.frozen),
            (self.optimizer.variables, state.optimizer),
            (self.metrics_variables, state.metrics),
        ):
            for variable, value in zip(variables, values, strict=True):
                if not value.is_deleted():
                    variable.assign(value)

    def _compiled(self, session: Session) -> Step:
        """The step's functions, which do not depend on how many steps there are."""
        m, devices = session.mechanism.after(1), session.layout.plain()
        facts = m.clip, m.noise_multiplier, m.batch_size, m.strategy, json.dumps(devices)
        if facts not in self._steps:
            compiled = not self.run_eagerly
            self._steps[facts] = Step(self, m, self._loss_scale, compiled, session.layout)
        return self._steps[facts]


def _no_history(model: Any) -> keras.callbacks.History:
    """Of no epoch at all."""
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    return history


def _announced(x: Any) -> int | None:
    """How many batches a stream says it has."""
    try:
        return len(x)
    except TypeError:
        return None
