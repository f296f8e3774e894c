"""What stays the same over all steps of a run, and how one step is made of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hushgrad.gradients import clipped_grad
from hushgrad.mechanism import Mechanism, Plan
from hushgrad.training.draw import Mine, Part, parts
from hushgrad.training.feed import ahead
from hushgrad.training.layout import Layout
from hushgrad.training.options import Options
from hushgrad.training.planting import Planted
from hushgrad.training.secret import RunSecret
from hushgrad.training.step import State, Sums, accumulate, empty_sums, release

__all__ = ["Job"]


class Job:
    """A loss, its data, a mechanism and an optimizer.

    Args:
      loss: of one unit: of one example, or of all of a user's.
      mechanism: what releases are made of.
      planted: the data, the optimizer, and what an audit does with sums.
      block_size: rows processed at once; on several devices, rounded up to as many for each.
      options: of the run.
      layout: where arrays are.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        mechanism: Plan,
        planted: Planted,
        block_size: int,
        options: Options,
        layout: Layout,
    ) -> None:
        self.mechanism, self.optimizer, source = mechanism, planted.optimizer, planted.source
        self.source, self.block_size, self.options = source, block_size, options
        self.layout, self._rows = layout, layout.rounded(block_size)
        loss = source.loss(loss)
        devices = layout.shards
        self._engine = {
            m.clip: clipped_grad(loss, m.clip, devices=devices) for m in mechanism.phases
        }
        self._planted = planted
        self._clipped = {clip: planted.summand(engine) for clip, engine in self._engine.items()}
        # What is compiled does not depend on how many steps there are.
        self._one = {m: m.after(1) for m in mechanism.phases}
        rows = layout.mine(self._rows)
        drawn = source.drawn(np.zeros(self._rows, np.int64), np.random.default_rng(0))
        mask = np.zeros(self._rows, bool)
        if rows is not None:
            drawn, mask = jax.tree.map(lambda a: a[rows], (drawn, mask))
        self._first = source.read(drawn), mask
        self._mine = None if rows is None else Mine(rows, self._first[0])

    def parts(self, secret: RunSecret, start: int) -> Generator[Part, None, None]:
        """All blocks of all steps from `start` on, read ahead."""
        made = parts(self.mechanism, self.source, self._rows, secret, start, self._mine)
        return ahead(made, self.options.read_ahead)

    def sums(self, state: State, part: Part, sums: Sums | None) -> Sums:
        """Adds a block to a step's sums of clipped gradients."""
        clipped = self._clipped[self.mechanism.at(part.step)[0].clip]
        places = self.layout.places(self.layout.params(self._planted.shaped(state.params)))
        if sums is None:
            first = self.layout.batch(self._first, self._rows)
            sums = empty_sums(clipped, state.params, *first, places)
        batch, mask = self.layout.batch((part.batch, part.mask), self._rows)
        return accumulate(clipped, state.params, sums, batch, mask, state.norm, places)

    def released(self, state: State, sums: Sums, secret: RunSecret, step: int) -> State:
        """The state after a step: its sums with noise, seen by the optimizer."""
        phase, first = self.mechanism.at(step)
        one = self._one[phase]
        if step == first:
            state = self.with_noise(state, step)
        key, average = secret.noise_key(step), self.options.average
        places = self.layout.places(state)
        return release(
            one, self.optimizer, state, sums.grads, sums.centred_bits, key, average, places
        )

    def skipped(self, state: State, secret: RunSecret, start: int, end: int) -> State:
        """The state with the noise's as it is after steps that were made and are lost."""
        grads = jax.tree.map(jnp.zeros_like, self._planted.shaped(state.params))
        for step in range(start, end):
            phase, first = self.mechanism.at(step)
            if step == first:
                state = self.with_noise(state, step)
            if phase.strategy.correlated:
                noise = _noise_after(self._one[phase], state, grads, secret.noise_key(step))
                state = state._replace(noise=noise)
        return state

    def with_noise(self, state: State, step: int) -> State:
        """The state with the noise's as the phase of a step begins with."""
        phase = self.mechanism.at(step)[0]
        shaped = self._planted.shaped(state.params)
        begun = state._replace(noise=phase.noise(state.norm).init(shaped))
        return self.layout.noise(begun)

    def trace(self, state: State) -> list[Any]:
        """The whole step, traced; also finds errors in the loss before any is spent."""
        kinds = dict.fromkeys(self._one.values())
        return [program for phase in kinds for program in self._trace(phase, state)]

    def _trace(self, phase: Mechanism, state: State) -> list[Any]:
        # As on one device, wherever the arrays are: the same run may go on on other devices.
        clipped = self._planted.summand(dataclasses.replace(self._engine[phase.clip], devices=1))
        average = self.options.average
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        shaped = self._planted.shaped
        noise = jax.eval_shape(lambda s: phase.noise(s.norm).init(shaped(s.params)), state)
        state = state._replace(noise=noise)
        first = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((self.block_size, *x.shape[1:]), x.dtype), self._first
        )
        sums = jax.eval_shape(lambda s, b, m: empty_sums(clipped, s.params, b, m), state, *first)
        key = jax.ShapeDtypeStruct((8,), jnp.uint32)
        return [
            jax.make_jaxpr(lambda s, t, b, m: accumulate(clipped, s.params, t, b, m, s.norm))(
                state, sums, *first
            ),
            jax.make_jaxpr(lambda s, g, b, k: release(phase, self.optimizer, s, g, b, k, average))(
                state, sums.grads, sums.centred_bits, key
            ),
        ]


@functools.partial(jax.jit, static_argnames="mechanism")
def _noise_after(mechanism: Mechanism, state: State, grads: Any, key: Any) -> Any:
    """The noise's state after a step, whatever the step's sum was."""
    return mechanism.noise(state.norm).update(grads, state.noise, state.params, key=key)[1]
