"""Phases of one run: composed exactly, and each run as it is accounted for."""

import dataclasses

import dp_accounting as dpa
import jax
import numpy as np
import optax
import pytest
from jobs import EXAMPLES, WIDTH, Stop, loss, mechanism

import hushgrad as hg
from hushgrad import accounting
from hushgrad.errors import InputError, ResumeError
from hushgrad.training.secret import RunSecret

SETTINGS = {"examples": 2000, "delta": 1e-5}
ROUGH = hg.dp_sgd(**SETTINGS, batch_size=20, steps=30, noise_multiplier=2.0, clip=2.0)
FINE = hg.dp_sgd(**SETTINGS, batch_size=100, steps=20, noise_multiplier=1.0)


def test_phases_compose_exactly():
    m = hg.schedule(ROUGH, FINE)
    assert (m.steps, m.examples, m.delta, m.unit) == (50, 2000, 1e-5, "example")
    assert m.event == dpa.ComposedDpEvent([ROUGH.event, FINE.event])
    assert max(ROUGH.epsilon(), FINE.epsilon()) < m.epsilon() < ROUGH.epsilon() + FINE.epsilon()
    assert m.delta_at(m.epsilon()) == pytest.approx(1e-5, rel=1e-3)
    assert m.epsilon(steps=30) == ROUGH.epsilon()
    assert m.epsilon(steps=10) == ROUGH.epsilon(steps=10)
    assert m.after(None) is m
    # One that does not change is the mechanism itself.
    halves = hg.schedule(FINE.after(10), FINE.after(10))
    assert halves.epsilon() == pytest.approx(FINE.epsilon(), rel=1e-9)


def test_a_step_knows_its_phase():
    m = hg.schedule(ROUGH, FINE)
    assert [m.at(step) for step in (0, 29)] == [(ROUGH, 0)] * 2
    assert [m.at(step) for step in (30, 49)] == [(FINE, 30)] * 2
    assert FINE.at(7) == (FINE, 0)


def test_after_so_many_steps():
    m = hg.schedule(ROUGH, FINE)
    assert [p.steps for p in m.after(35).phases] == [30, 5]
    assert [p.steps for p in m.after(3).phases] == [3, 0]
    # More than was planned, as a mechanism alone may say too: of the last phase.
    assert [p.steps for p in m.after(60).phases] == [30, 30]


def test_noise_for_an_epsilon_is_scaled_together():
    m = hg.schedule(ROUGH, FINE, epsilon=1.5)
    assert 1.4985 <= m.epsilon() <= 1.5
    noises = [p.noise_multiplier for p in m.phases]
    assert noises[0] == pytest.approx(2 * noises[1])
    assert [dataclasses.replace(p, noise_multiplier=1.0) for p in m.phases] == [
        dataclasses.replace(p, noise_multiplier=1.0) for p in (ROUGH, FINE)
    ]


def test_the_statement_tells_every_phase():
    m = hg.schedule(ROUGH, FINE)
    text = " ".join(m.statement(max_examples_per_user=2).split())
    assert "2 phases: (1) 30 steps" in text
    assert "(2) 20 steps" in text
    assert f"epsilon = {m.epsilon():.4f}" in text
    facts = accounting.statement_facts(m, steps=35)
    assert facts["steps"] == 35
    assert facts["readings"][0]["epsilon"] == m.epsilon(steps=35)
    text = " ".join(accounting.statement(m, steps=35).split())
    assert "2 phases, of which 35 steps were made" in text
    long = hg.schedule(*[dataclasses.replace(FINE, steps=n) for n in range(1, 10)])
    assert "and 4 more" in " ".join(long.statement().split())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"examples": 3000}, "same examples"),
        ({"delta": 1e-6}, "same delta"),
        ({"unit": "user"}, "same unit"),
        ({"sampling": hg.sampling.Shuffle}, "same neighbouring_relation"),
        ({"clip": hg.clip.Adaptive()}, "either all phases clip adaptively"),
    ],
)
def test_phases_that_do_not_fit(changed, told):
    settings = {**SETTINGS, "batch_size": 100, "steps": 20, "noise_multiplier": 1.0, **changed}
    with pytest.raises(InputError, match=told):
        hg.schedule(FINE, hg.dp_sgd(**settings))


def test_what_is_no_phase():
    for phases in ((), (FINE, None), (hg.schedule(FINE),)):
        with pytest.raises(InputError, match="phases must be mechanisms"):
            hg.schedule(*phases)
    with pytest.raises(InputError, match="epsilon"):
        hg.schedule(FINE, epsilon=-1.0)


PHASES = (
    mechanism(steps=3, noise_multiplier=0.5),
    mechanism(steps=2, batch_size=30, clip=0.2, noise_multiplier=2.0),
    mechanism(steps=3, batch_size=30, clip=0.2, sampling=hg.sampling.BallsInBins),
)


def data():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(EXAMPLES, WIDTH)).astype(np.float32)
    return x, (x.sum(axis=1) + 1).astype(np.float32)


def start():
    return {"w": np.zeros(WIDTH, np.float32), "b": np.float32(0)}


def by_hand(secret: RunSecret):
    """Each step with its phase's sample, clip, noise and divisor, without the loop."""
    params, (x, y), step = start(), data(), 0
    for m in PHASES:
        first, clipped, noise = step, jax.jit(hg.clipped_grad(loss, m.clip)), m.noise()
        noised = jax.jit(
            lambda g, k, noise=noise: noise.update(g, noise.init(start()), start(), key=k)[0]
        )
        for own in range(m.steps):
            rows = m.sampling.batch(
                own, EXAMPLES, lambda n, first=first: secret.sampling_generator(first + n)
            )
            drawn = np.isin(np.arange(EXAMPLES), rows)
            grads = clipped(params, x, y, mask=drawn).grads
            noisy = noised(grads, secret.noise_key(step))
            params = jax.tree.map(lambda p, g, m=m: p - 0.1 * g / m.batch_size, params, noisy)
            step += 1
    return params


def trained(directory, m, callback=None):
    return hg.train(
        loss,
        start(),
        data(),
        m,
        optimizer=optax.sgd(0.1),
        directory=directory,
        seed=3,
        options=hg.Options(checkpoint_every=1),
        callback=callback,
    )


def test_each_phase_runs_as_it_is_accounted_for(tmp_path):
    m = hg.schedule(*PHASES)
    run = trained(tmp_path / "run", m)
    want = by_hand(RunSecret.from_seed(3))
    for name in want:
        np.testing.assert_allclose(run.params[name], want[name], rtol=2e-5, atol=2e-6)
    assert run.steps == m.steps == 8
    assert run.epsilon == m.epsilon()
    assert "3 phases" in run.statement()


def test_a_schedule_goes_on_in_the_middle_of_a_phase(tmp_path):
    m = hg.schedule(*PHASES)
    whole = trained(tmp_path / "whole", m)

    def stop(progress):
        if progress.step == 4:
            raise Stop

    with pytest.raises(Stop):
        trained(tmp_path / "run", m, stop)
    with pytest.raises(ResumeError, match="another mechanism"):
        trained(tmp_path / "run", hg.schedule(*PHASES[:2]))
    again = trained(tmp_path / "run", m)
    for name in whole.params:
        np.testing.assert_array_equal(again.params[name], whole.params[name])


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(InputError, match="must have a step"):
        trained(tmp_path / "run", hg.schedule(FINE.after(0)))
    assert not (tmp_path / "run").exists()
