"""Many short runs of a mechanism at once, with and without its worst participant."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt32

from hushgrad._check import fraction, whole
from hushgrad.audit.verdict import Verdict, verdict
from hushgrad.errors import InputError
from hushgrad.mechanism import Mechanism, Plan
from hushgrad.sampling import CheckIn, CyclicPoisson, Poisson, Stream, TruncatedPoisson, Users
from hushgrad.training.data import prepare
from hushgrad.training.draw import Part, parts
from hushgrad.training.job import Job
from hushgrad.training.layout import Layout
from hushgrad.training.options import Options
from hushgrad.training.planting import Planted
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import State, initial_state

__all__ = ["ATTACKS", "Seen", "many_runs", "observer"]

# A participant's gradient before it is clipped, in clips.
_FAR = 10.0
_SERVED = optax.sgd(1.0)
_MOST_STEPS, _FEWEST = 64, 200
# The participant's direction: over two arrays and all their numbers, with either sign, so that
# noise that is missing in some of them, or the same in all, is missed.
_WAY = np.array([1, -1, 1, -1], np.float32) / 2


@dataclasses.dataclass(frozen=True)
class Seen:
    """What an attacker sees of many runs, along the participant's gradient.

    Attributes:
      steps: what each step released, in units of what the participant adds to it.
      rate: how probable it is that they are in a step.
      noise: its standard deviation, in the same units.
    """

    steps: Float[np.ndarray, "runs steps"]
    rate: float
    noise: float


def _likelihood(seen: Seen) -> Float[np.ndarray, " runs"]:
    """Of independent noise and coins: the best attack there is on a sound mechanism."""
    gain = (seen.steps - 0.5) / seen.noise**2
    # log(1 - rate + rate exp(gain)), for large gains too.
    with np.errstate(divide="ignore"):
        out, inside = np.log(1 - seen.rate), np.log(seen.rate) + gain
    return np.logaddexp(out, inside).sum(axis=1)


# Each gives a score to every run: higher where the participant seems to be there.
ATTACKS: Mapping[str, Callable[[Seen], Float[np.ndarray, " runs"]]] = {
    "likelihood ratio": _likelihood,
    "sum of steps": lambda seen: seen.steps.sum(axis=1),
    "largest step": lambda seen: seen.steps.max(axis=1),
    # Noise that serves twice is gone from a difference.
    "spread of steps": lambda seen: np.ptp(seen.steps, axis=1),
    # A step without noise is exactly what the participant adds.
    "exact step": lambda seen: -np.abs(seen.steps - 1).min(axis=1),
}


def many_runs(
    mechanism: Plan,
    *,
    runs: int = 4000,
    steps: int | None = None,
    confidence: float = 0.95,
    seed: int | None = None,
) -> Verdict:
    """Tests that sampler, clip, noise and accountant agree, by attacks on many real runs.

    ```python
    m = hg.dp_sgd(examples=8, batch_size=4, steps=4, clip=1.0, delta=1e-2, noise_multiplier=1.0)
    found = hg.audit.many_runs(m)
    assert not found.refuted, found
    ```

    Each run is that of `hg.train`: its draws, its engine, its noise, its divisor, its keys; only
    ledger and checkpoints are left out, and the arithmetic of all runs is one `vmap`. The
    participant's gradient is ten clips long in a direction of its own, where nobody else has one;
    then again with everybody else's of the same length against it. The attacker sees what each
    step releases and knows all but the draws, as the guarantee allows. See `verdict` for the test,
    and `ATTACKS` for the attacks; confidence is corrected for the two kinds of crowd. What is
    sound is refuted in at most a share of `1 - confidence` of all audits.

    A promise is tested where attackers can measure: with few steps, a delta of 1e-2 or so, and
    all the more easily the less noise. 4,000 runs on each side tell epsilons up to about 6.

    Args:
      mechanism: to be tested, from `hg.dp_sgd` or its kin, or `hg.schedule`.
      runs: with the participant, and as many without, for each kind of crowd.
      steps: tests the promise for a run that is stopped after so many.
      confidence: in (0, 1).
      seed: makes the audit repeatable; from the operating system's entropy by default.

    Raises:
      InputError: if there are too few runs, more than 64 steps, or the mechanism does not draw
        its batches.
    """
    plan = _checked(mechanism, steps)
    runs = whole("runs", runs, at_least=_FEWEST)
    fraction("confidence", confidence)
    secrets, observe = _secrets(4 * runs, seed), observer(plan)
    found = []
    for number, crowd in enumerate((0.0, -1.0)):
        of = secrets[2 * number * runs :]
        present = observe(of[:runs], crowd, True)
        absent = observe(of[runs : 2 * runs], crowd, False)
        scores = {name: (attack(present), attack(absent)) for name, attack in ATTACKS.items()}
        found.append(verdict(scores, plan, confidence=(1 + confidence) / 2))
    worst = max(found, key=lambda one: (one.refuted, one.delta_found - one.delta_promised))
    epsilon = max(one.epsilon for one in found)
    total = sum(one.runs for one in found)
    return dataclasses.replace(worst, epsilon=epsilon, confidence=confidence, runs=total)


def observer(plan: Plan) -> Callable[[list[RunSecret], float, bool], Seen]:
    """A function that makes many runs and gives what they release of one participant.

    Its arguments are the secrets of the runs, one each; everybody else's gradients, in those of
    the participant; and whether the participant is there. Where neighbours are of equal number
    they are replaced by their opposite, else by nothing.
    """
    first, options = plan.phases[0], Options(read_ahead=1)
    # So that batches that are larger than expected are summed in several blocks.
    block = min(first.examples, max(m.batch_size for m in plan.phases))
    source = prepare(_rows(first, 0.0, True), plan, options)
    job = Job(_along, plan, Planted(source, _SERVED), block, options, Layout(None))
    start = initial_state({"a": jnp.zeros(2), "b": jnp.zeros(2)}, first, _SERVED)

    def observe(secrets: list[RunSecret], crowd: float, present: bool) -> Seen:
        source = prepare(_rows(first, crowd, present), plan, options)
        gone = 0 if present or first.neighbouring_relation == "replace-one" else first.group
        drawn = [_by_step(parts(plan, source, block, one), plan.steps, gone) for one in secrets]
        keys = np.stack([[s.noise_key(step) for step in range(plan.steps)] for s in secrets])
        states = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(secrets), *x.shape)), start)
        seen = []
        for step in range(plan.steps):
            after = _steps(job, step, states, _stacked([one[step] for one in drawn]), keys)
            seen.append(_in_units(plan.at(step)[0], states, after))
            states = after
        return Seen(np.stack(seen, axis=1), _rate(first), first.sum_noise_multiplier)

    return observe


def _in_units(m: Mechanism, before: State, after: State) -> Float[np.ndarray, " runs"]:
    """What a step released along the participant's gradient, in what they may add to it."""
    unit = (
        m.clip.sensitivity if before.norm is None else jax.vmap(m.clip.sensitivity_at)(before.norm)
    )
    moved = (before.params["a"] - after.params["a"]) @ _WAY[:2]
    moved += (before.params["b"] - after.params["b"]) @ _WAY[2:]
    return np.asarray(moved * (m.batch_size / m.clip.group) / unit)


def _rate(m: Mechanism) -> float:
    """How probable it is that the participant is in a step, where that is left to a coin."""
    if isinstance(m.sampling, Poisson | TruncatedPoisson | CyclicPoisson):
        return m.sampling.rate
    return 1.0


def _along(params: Any, row: Any, number: Any) -> Any:
    """A loss whose gradient is the row."""
    del number  # tells whose row it is
    return jnp.vdot(params["a"], row[:2]) + jnp.vdot(params["b"], row[2:])


def _rows(m: Mechanism, crowd: float, present: bool) -> Any:
    far = _FAR * m.clip.sensitivity * _WAY
    rows = np.tile(crowd * far, (m.examples, 1))
    other = -far if m.neighbouring_relation == "replace-one" else 0.0 * far
    rows[: m.group] = far if present else other
    data = rows, np.arange(m.examples)
    return Users(np.arange(m.examples), data) if m.unit == "user" else data


def _by_step(drawn: Iterable[Part], steps: int, gone: int) -> list[list[Part]]:
    """The parts of each step, without the first rows, which are not there."""
    found: list[list[Part]] = [[] for _ in range(steps)]
    for part in drawn:
        numbers = part.batch[-1].reshape(len(part.mask), -1)[:, 0]
        found[part.step].append(part._replace(mask=part.mask & (numbers >= gone)))
    return found


def _stacked(runs: list[list[Part]]) -> list[tuple[Any, np.ndarray]]:
    """The blocks of one step of all runs; where a run has fewer, nobody is in the others."""
    most = max(map(len, runs))
    made = []
    for number in range(most):
        chosen = [run[min(number, len(run) - 1)] for run in runs]
        counts = np.array([number < len(run) for run in runs])
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *[part.batch for part in chosen])
        made.append((batch, np.stack([part.mask for part in chosen]) & counts[:, None]))
    return made


class _Held:
    """Stands for the secrets of many runs where their keys were derived before."""

    def __init__(self, keys: UInt32[Array, "steps 8"]) -> None:
        self._keys = keys

    def noise_key(self, step: int) -> UInt32[Array, "8"]:
        return self._keys[step]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _steps(job: Job, step: int, states: State, blocks: Any, keys: Any) -> State:
    """One step of every run."""

    def one(state: State, mine: Any, of: Any) -> State:
        sums = None
        for number, (batch, mask) in enumerate(mine):
            last = number == len(mine) - 1
            sums = job.sums(state, Part(step, last, batch, mask, None), sums)
        assert sums is not None
        held: Any = _Held(of)
        return job.released(state, sums, held, step)

    return jax.vmap(one)(states, blocks, keys)


def _secrets(count: int, seed: int | None) -> list[RunSecret]:
    if seed is None:
        return [RunSecret.fresh() for _ in range(count)]
    root = RunSecret.from_seed(seed)
    return [RunSecret(root.derive("run", number)) for number in range(count)]


def _checked(mechanism: Any, steps: int | None) -> Plan:
    if not isinstance(mechanism, Plan):
        raise InputError(f"mechanism must come from hg.dp_sgd(...), got {mechanism!r}")
    plan = mechanism.after(steps)
    if not 0 < plan.steps <= _MOST_STEPS:
        raise InputError(
            f"mechanism must have between 1 and {_MOST_STEPS} steps to be run so often, got "
            f"{plan.steps:,}: give steps={min(8, max(plan.steps, 1))}, which tests its first ones"
        )
    if any(m.strategy.counts for m in plan.phases):
        raise InputError(
            "mechanism must have noise on all that it sums, got sparse noise, whose runs have a "
            "table to choose from; take hg.train(audit=hg.audit.Canaries(...))"
        )
    given = [m.sampling for m in plan.phases if isinstance(m.sampling, Stream | CheckIn)]
    if given:
        raise InputError(
            f"mechanism must draw its batches, got sampling={given[0]!r}, whose batches are given"
        )
    return plan
