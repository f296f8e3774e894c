"""Adam without the noise's share in its second moment."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jobs import mechanism

import hushgrad as hg
from hushgrad.errors import InputError

M = mechanism()  # deviation 1 on the sum, 1/12 on the mean
VARIANCE = (1 / 12) ** 2


def run(optimizer, grads):
    """All updates of one array."""
    state, out = optimizer.init(jnp.zeros(grads.shape[1:])), []
    step = jax.jit(optimizer.update)
    for grad in grads:
        update, state = step(jnp.asarray(grad, jnp.float32), state)
        out.append(np.asarray(update))
    return np.array(out)


def test_it_is_the_papers_formula():
    grads = np.random.default_rng(0).normal(0.3, 0.2, (5, 3))
    got = run(hg.optimizers.dp_adam(0.1, M), grads)
    mean = square = np.zeros(3)
    for t, grad in enumerate(grads, start=1):
        mean = 0.9 * mean + 0.1 * grad
        square = 0.999 * square + 0.001 * grad**2
        spread = square / (1 - 0.999**t) - VARIANCE
        want = -0.1 * (mean / (1 - 0.9**t)) / np.sqrt(np.maximum(spread, 0.1 * VARIANCE))
        np.testing.assert_allclose(got[t - 1], want, rtol=1e-4)


def test_a_small_signal_under_noise_moves_as_far_as_a_large_one():
    """Means of 0.1 and 0.03 under noise of 0.083: plain Adam moves them apart.

    It divides by the root of mean square and noise together: 0.1 / 0.13 = 0.77, and 0.03 /
    0.089 = 0.34. Without the noise's share, both are divided by themselves.
    """
    rng = np.random.default_rng(1)
    noise = rng.normal(0, VARIANCE**0.5, (3000, 64))
    large = run(hg.optimizers.dp_adam(1.0, M), noise + 0.1)[-500:].mean()
    small = run(hg.optimizers.dp_adam(1.0, M), noise + 0.03)[-500:].mean()
    plain = [run(optax.adam(1.0), noise + mean)[-500:].mean() for mean in (0.1, 0.03)]
    # Adam's ideal is 1 whatever the scale. Corrected, both come near; plain, the small does not.
    assert -1.1 < large < -0.9
    assert -1.2 < small < -0.8
    assert -0.85 < plain[0] < -0.7
    assert -0.4 < plain[1] < -0.3


def test_pure_noise_never_passes_the_floor_by_much():
    noise = np.random.default_rng(2).normal(0, VARIANCE**0.5, (3000, 256))
    got = run(hg.optimizers.dp_adam(1.0, M, b1=0.0), noise)[-1]
    # Divided by sqrt(0.1) of the deviation: a standard normal times 3.2, never far more.
    assert np.abs(got).max() < 3.2 * 5


def test_it_trains(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    optimizer = hg.optimizers.dp_adam(optax.constant_schedule(0.05), M)
    start = {"w": np.zeros(4, np.float32), "b": np.float32(0)}
    from jobs import loss

    done = hg.train(loss, start, (x, x[:, 0]), M, optimizer=optimizer, directory=tmp_path / "r")
    assert np.isfinite(done.params["w"]).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"b1": 1.0}, "b1 must lie in"),
        ({"b2": -0.1}, "b2 must lie in"),
        ({"floor": 0}, "floor must be a positive"),
        ({"mechanism": "m"}, "mechanism must come from"),
        ({"mechanism": mechanism(clip=hg.clip.Adaptive())}, "noise that stays the same"),
        (
            {"mechanism": hg.schedule(M, mechanism(noise_multiplier=2.0))},
            "noise that stays the same",
        ),
    ],
)
def test_arguments_that_are_none(wrong, told):
    with pytest.raises(InputError, match=told):
        hg.optimizers.dp_adam(**{"learning_rate": 0.1, "mechanism": M, **wrong})
