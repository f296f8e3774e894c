"""The best of a random number of runs, at little more than the price of one."""

from __future__ import annotations

import dataclasses
import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dp_accounting
import jax
import numpy as np
from dp_accounting import dp_event
from jaxtyping import Array, PyTree
from scipy import optimize

from hushgrad import accounting
from hushgrad._check import positive
from hushgrad.errors import InputError, ResumeError
from hushgrad.mechanism import Guarantee, Plan
from hushgrad.training.budget import Budget
from hushgrad.training.directory import RunDirectory
from hushgrad.training.run import Run
from hushgrad.training.secret import RunSecret

__all__ = ["Selection", "Tuned", "tune"]

_FILE = "tuning.json"


@dataclasses.dataclass(frozen=True)
class Selection(Guarantee):
    """The best of K runs of one mechanism, where K is random and secret.

    K follows the truncated negative binomial distribution (Papernot and Steinke 2022,
    arXiv 2110.03620): `shape` 1 is the geometric, 0 the logarithmic one.

    Attributes:
      mechanism: of every single run.
      mean: expected number of runs.
      shape: of the distribution, zero or more.
    """

    mechanism: Plan
    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.mechanism, Plan):
            raise InputError(f"mechanism must come from hg.dp_sgd(...), got {self.mechanism!r}")
        if positive("mean", self.mean) <= 1:
            raise InputError(f"mean must be above 1 run, got {self.mean!r}")
        if self.shape != 0:
            positive("shape", self.shape)
        accounting.epsilon(self.event, self.delta, "rdp", relation=self.neighbouring_relation)

    @property
    def delta(self) -> float:
        """That of the mechanism."""
        return self.mechanism.delta

    @property
    def steps(self) -> int:
        """One: the release of the best."""
        return 1

    @property
    def unit(self) -> str:
        """That of the mechanism."""
        return self.mechanism.unit

    @property
    def neighbouring_relation(self) -> str:
        """That of the mechanism."""
        return self.mechanism.neighbouring_relation

    @property
    def event(self) -> dp_accounting.DpEvent:
        """The choice of the best, in `dp_accounting`'s language."""
        return dp_event.RepeatAndSelectDpEvent(
            self.mechanism.event, float(self.mean), float(self.shape)
        )

    @property
    def gamma(self) -> float:
        """The distribution's other parameter, which its mean determines."""
        root = optimize.root_scalar(
            lambda g: _mean(g, self.shape) - self.mean, bracket=(1e-12, 1 - 1e-12), xtol=1e-15
        )
        return float(root.root)

    def after(self, steps: int | None) -> Guarantee:
        """Itself, or nothing at all: there is one release."""
        return self.mechanism.after(0) if steps == 0 else self

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        chosen = {"mean": self.mean, "shape": self.shape}
        return {"best_of": self.mechanism.to_dict(), "runs": chosen}

    def epsilon(
        self, delta: float | None = None, accountant: str = "rdp", *, steps: int | None = None
    ) -> float:
        """Upper bound on epsilon, by Renyi divergences: no tight bound is known."""
        return super().epsilon(delta, accountant, steps=steps)

    def delta_at(self, epsilon: float, accountant: str = "rdp") -> float:
        """Upper bound on delta at `epsilon`, likewise."""
        return super().delta_at(epsilon, accountant)

    def draw(self, rng: np.random.Generator) -> int:
        """A number of runs; it is as secret as the noise."""
        gamma, shape = self.gamma, self.shape
        if shape:
            chance = shape * gamma**shape * (1 - gamma) / -math.expm1(shape * math.log(gamma))
        else:
            chance = (1 - gamma) / -math.log(gamma)
        left, count = rng.random(), 1
        while left >= chance and chance > 0:
            left -= chance
            chance *= (1 - gamma) * (count + shape) / (count + 1)
            count += 1
        return count


def _mean(gamma: float, shape: float) -> float:
    if not shape:
        return (1 / gamma - 1) / -math.log(gamma)
    return shape * (1 / gamma - 1) / -math.expm1(shape * math.log(gamma))


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What `hg.tune` releases: the best candidate and its parameters, and no other.

    Attributes:
      candidate: the best.
      params: what its run trained.
      score: of these.
      selection: what it costs.
      seeded: the choice came from a seed, so it is not private from whoever knows it.
    """

    candidate: Any
    params: PyTree[Array]
    score: float
    selection: Selection
    seeded: bool

    @property
    def epsilon(self) -> float:
        """Spent by all runs and the choice together, at the mechanism's delta (RDP)."""
        return self.selection.epsilon()

    def statement(self) -> str:
        """What is promised, in plain words."""
        s = self.selection
        head = (
            f"The best of a random, secret number of runs ({s.mean:g} on average) was released, "
            f"and nothing of the others:\n    epsilon = {self.epsilon:.4f} at delta = "
            f"{s.delta:g} for all of them together (RDP accounting,\n    Papernot and Steinke "
            "2022). What follows is about one run alone.\n\n"
        )
        return head + accounting.statement(s.mechanism, seeded=self.seeded)


def tune(
    trial: Callable[[Any, Path, int | None], Run],
    candidates: Sequence[Any],
    score: Callable[[Run], float],
    mechanism: Plan,
    *,
    directory: str | Path,
    mean: float = 10.0,
    shape: float = 1.0,
    budget: Budget | None = None,
    seed: int | None = None,
) -> Tuned:
    """Runs a random number of trials and releases the best of them.

    ```python
    def trial(rate, directory, seed):
        where = {"directory": directory, "seed": seed}
        return hg.train(loss, params, data, m, optimizer=optax.sgd(rate), **where)

    best = hg.tune(trial, [0.1, 0.3, 1.0], score, m, directory="runs/tuning")
    best.candidate, best.params, best.epsilon
    ```

    Each trial takes a candidate at random, so how many there are does not change the cost.
    All but the best are removed at the end: how many there were is a secret too.

    Formal guarantee: that of `Selection(mechanism, mean, shape)` for the best candidate, its
    parameters and its score, where the score looks at the run and at other data than its own.

    Args:
      trial: `trial(candidate, directory, seed) -> Run`, by `hg.train`, without a budget.
      candidates: what to choose from.
      score: run -> number, larger is better.
      mechanism: of all trials; clip, optimizer and model may differ among them.
      directory: for the trials.
      mean: expected number of trials, above 1.
      shape: of their number's distribution; 1 is the geometric.
      budget: that must hold the whole tuning.
      seed: makes it repeatable, for tests, and not private against whoever knows it.

    Raises:
      InputError, BudgetError, ResumeError: as `hg.train` does, or if a trial used another
        mechanism.
    """
    if jax.process_count() > 1:
        raise InputError(f"hg.tune works in one process, got {jax.process_count()}")
    selection, candidates = Selection(mechanism, mean, shape), _listed(candidates)
    folder = RunDirectory(directory)
    with folder.locked():
        state = _State.of(folder, selection, len(candidates), budget, seed)
        if budget is not None and state.done is None:
            budget.reserve(selection, state.name, directory=str(folder.path.resolve())).charge(1)
        state.keep()
        while state.done is None:
            number, index = state.next()
            run = trial(candidates[index], state.place(number), state.seed(number))
            _check(run, mechanism)
            state.add(index, float(score(run)))
        if budget is not None:
            budget.reserve(selection, state.name).finish(1)
        index, value = state.done
        run = trial(candidates[index], state.best, state.seed(0))
    return Tuned(candidates[index], run.params, value, selection, seed is not None)


def _listed(candidates: Sequence[Any]) -> list[Any]:
    if not len(candidates):
        raise InputError("candidates must not be empty")
    return list(candidates)


def _check(run: Any, mechanism: Plan) -> None:
    if not isinstance(run, Run):
        raise InputError(f"trial must return what hg.train gives, got {run!r}")
    here, there = ((m.event, m.neighbouring_relation, m.unit) for m in (mechanism, run.mechanism))
    if here != there or run.steps > mechanism.steps:
        raise InputError(
            "trial must train with the mechanism that is accounted for, or one of the same cost, "
            f"got {run.mechanism!r}"
        )


class _State:
    """What a tuning must remember over a crash, and must forget at its end."""

    def __init__(
        self, folder: RunDirectory, content: dict[str, Any], secret: RunSecret | None, trials: int
    ) -> None:
        self._folder, self._content, self._secret = folder, content, secret
        self._trials = trials

    @classmethod
    def of(
        cls,
        folder: RunDirectory,
        selection: Selection,
        candidates: int,
        budget: Budget | None,
        seed: int | None,
    ) -> _State:
        facts = {
            "selection": selection.to_dict(),
            "candidates": candidates,
            "budget": None if budget is None else budget.name,
            "seeded": seed is not None,
        }
        secret, found = folder.secret(), folder.read(_FILE)
        if found is None:
            secret = RunSecret.fresh() if seed is None else RunSecret.from_seed(seed)
            found = {**facts, "name": uuid.uuid4().hex, "scores": [], "done": None}
        differing = [name for name, value in facts.items() if found.get(name) != value]
        if secret is not None and seed is not None and secret != RunSecret.from_seed(seed):
            differing.append("seed")
        if secret is None and found["done"] is None:
            differing.append("secret.key, which is gone")
        if differing:
            raise ResumeError(
                f"{str(folder.path)!r} holds another tuning (other {', '.join(differing)}); "
                "repeat the call that began it, or use another directory"
            )
        trials = 0 if secret is None else selection.draw(secret.generator("trials", 0))
        return cls(folder, found, secret, trials)

    def keep(self) -> None:
        """Writes down what a crash must not lose."""
        if self._secret is not None:
            self._folder.keep_secret(self._secret)
        self._write()
        self._finish()

    @property
    def name(self) -> str:
        """In the budget."""
        return self._content["name"]

    @property
    def done(self) -> tuple[int, float] | None:
        """The best candidate and its score, once there is one."""
        return None if self._content["done"] is None else tuple(self._content["done"])

    @property
    def best(self) -> Path:
        """Where the best run is, in the end."""
        return self._folder.path / "best"

    def place(self, number: int) -> Path:
        """Where a trial runs."""
        return self._folder.path / "trials" / str(number)

    def next(self) -> tuple[int, int]:
        """The number of the next trial and its candidate."""
        assert self._secret is not None
        number = len(self._content["scores"])
        rng = self._secret.generator("candidate", number)
        return number, int(rng.integers(self._content["candidates"]))

    def seed(self, number: int) -> int | None:
        """For a trial of a tuning that has one."""
        if not self._content["seeded"]:
            return None
        # A finished run is found whatever its seed.
        return (
            0 if self._secret is None else int.from_bytes(self._secret.derive("seed", number)[:7])
        )

    def add(self, index: int, score: float) -> None:
        """The score of the next trial; a NaN is worse than any number."""
        self._content["scores"].append([index, -math.inf if math.isnan(score) else score])
        self._write()
        self._finish()

    def _finish(self) -> None:
        """Keeps the best and removes all that tells of the others; a crash may come anywhere."""
        scores, trials = self._content["scores"], self._folder.path / "trials"
        if self._content["done"] is None:
            if len(scores) < self._trials:
                return
            best = max(range(len(scores)), key=lambda n: scores[n][1])
            if self.place(best).exists():
                self.place(best).rename(self.best)
            self._content |= {"done": scores[best], "scores": []}
            self._write()
        self._folder.forget_secret()
        self._secret = None
        if trials.exists():
            shutil.rmtree(trials)

    def _write(self) -> None:
        self._folder.write(_FILE, self._content)
