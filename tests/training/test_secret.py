"""The run's secret: what is derived from it never repeats, and gives nothing away.

Seeds are fixed, so these tests always give the same answer. Each bound is one that
true chance would miss with probability `ALARM` or less.
"""

import dataclasses
import itertools
import math
import random
import traceback

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hushgrad import noise
from hushgrad.errors import InputError
from hushgrad.sampling import Poisson
from hushgrad.training.secret import RunSecret

ALARM = 1e-6
SECRET = RunSecret.from_seed(7)
# What the first version derived from the secret 00..1f in step 3, and from the seed 0.
DERIVED = "cd9f391c8f05feba39520a00d9adb44120d1887f7c1088dad12ba1f5cad50859"
DRAWN = [890750554, 559777679, 252802377, 239007900]
FROM_SEED_0 = "cceb9f14919f4bfd588cd8dffe43e444757ba2124c99a7846be594a459126d97"
CONTENTS = st.binary(min_size=32, max_size=32)


def bits(content: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(content, np.uint8))


def generator_bytes(generator: np.random.Generator) -> bytes:
    return generator.bytes(32)


def test_derive_differs_by_purpose_and_step():
    purposes = ["noise", "batch", "init", "noise2", ""]
    derived = {SECRET.derive(p, step) for p in purposes for step in range(2000)}
    assert len(derived) == 5 * 2000
    assert {len(d) for d in derived} == {32}
    assert SECRET.content not in derived


@settings(max_examples=100)
@given(
    content=CONTENTS,
    one=st.integers(0, 2**70),
    other=st.integers(0, 2**70),
)
def test_steps_are_told_apart_however_large(content, one, other):
    secret = RunSecret(content)
    same = one == other
    assert (secret.derive("noise", one) == secret.derive("noise", other)) is same
    assert (secret.noise_key(one).tolist() == secret.noise_key(other).tolist()) is same


@settings(max_examples=50)
@given(content=CONTENTS, step=st.integers(0, 10**9))
def test_a_step_repeats_itself(content, step):
    one, two = RunSecret(content), RunSecret(bytes(content))
    assert one == two
    assert one.derive("x", step) == two.derive("x", step)
    np.testing.assert_array_equal(one.noise_key(step), two.noise_key(step))
    a, b = one.sampling_generator(step), two.sampling_generator(step)
    np.testing.assert_array_equal(a.random(8), b.random(8))


def test_derivation_is_the_same_in_every_version():
    """A run that another version began must go on with the same batches and noise."""
    secret = RunSecret(bytes(range(32)))
    assert secret.derive("noise", 3).hex() == DERIVED
    assert secret.noise_key(3).tolist() == list(np.frombuffer(bytes.fromhex(DERIVED), "<u4"))
    assert secret.sampling_generator(3).integers(0, 10**9, 4).tolist() == DRAWN
    assert RunSecret.from_seed(0).content.hex() == FROM_SEED_0


def test_a_seed_is_deterministic_and_seeds_differ():
    assert RunSecret.from_seed(3) == RunSecret.from_seed(3) == RunSecret.from_seed(np.int64(3))
    contents = [RunSecret.from_seed(seed).content for seed in range(1000)]
    assert len(set(contents)) == 1000
    assert {len(c) for c in contents} == {32}
    assert len(RunSecret.from_seed(2**200).content) == 32


@pytest.mark.parametrize("seed", [-1, 1.5, True, math.nan, "7", None])
def test_seeds_that_are_none(seed):
    with pytest.raises(InputError, match="seed must be a whole number of at least 0") as caught:
        RunSecret.from_seed(seed)
    assert repr(seed) in str(caught.value)


def test_fresh_secrets_differ_whatever_the_global_seeds():
    contents = []
    for _ in range(100):
        np.random.seed(0)
        random.seed(0)
        contents.append(RunSecret.fresh().content)
    assert len(set(contents)) == 100
    assert {len(c) for c in contents} == {32}
    # 25,600 fair coins.
    heads = sum(int(bits(c).sum()) for c in contents)
    low, high = stats.binom.ppf(ALARM / 2, 25_600, 0.5), stats.binom.isf(ALARM / 2, 25_600, 0.5)
    assert low <= heads <= high


def test_global_seeds_neither_influence_nor_are_influenced():
    seen = []
    for seed in (0, 1):
        np.random.seed(seed)
        random.seed(seed)
        before = np.random.get_state()[1].tolist(), random.getstate()  # pyright: ignore
        seen.append((SECRET.noise_key(4).tolist(), SECRET.sampling_generator(4).random(4).tolist()))
        RunSecret.fresh()
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # pyright: ignore
    assert seen[0] == seen[1]


@pytest.mark.parametrize("what", ["derive", "noise_key", "sampling_generator", "authenticator"])
def test_all_256_bits_count(what):
    """Flipping any bit of the secret changes about half of what is derived from it."""

    def derived(content: bytes) -> bytes:
        secret = RunSecret(content)
        if what == "derive":
            return secret.derive("noise", 5)
        if what == "noise_key":
            return secret.noise_key(5).tobytes()
        if what == "sampling_generator":
            return generator_bytes(secret.sampling_generator(5))
        hashed = secret.authenticator()
        hashed.update(b"rows")
        return hashed.digest()

    original, changed = derived(SECRET.content), []
    for bit in range(256):
        content = bytearray(SECRET.content)
        content[bit // 8] ^= 1 << bit % 8
        changed.append(derived(bytes(content)))
    assert len({original, *changed}) == 257
    size = 8 * len(original)
    flipped = [int((bits(c) ^ bits(original)).sum()) for c in changed]
    alarm = ALARM / 2 / 256
    assert min(flipped) >= stats.binom.ppf(alarm, size, 0.5)
    assert max(flipped) <= stats.binom.isf(alarm, size, 0.5)


def test_every_bit_of_a_noise_key_is_a_fair_coin():
    keys = [SECRET.noise_key(step) for step in range(4000)]
    assert {(k.shape, k.dtype.name) for k in keys} == {((8,), "uint32")}
    heads = np.stack([bits(k.tobytes()) for k in keys]).sum(axis=0)
    alarm = ALARM / 2 / 256
    assert heads.min() >= stats.binom.ppf(alarm, 4000, 0.5)
    assert heads.max() <= stats.binom.isf(alarm, 4000, 0.5)


def test_noise_and_batches_do_not_share_bits():
    for step in range(200):
        key = SECRET.noise_key(step).tobytes()
        state = SECRET.sampling_generator(step).bit_generator.state["state"]
        batch = state["key"].tobytes() + state["counter"].tobytes()
        words = {key[i : i + 8] for i in range(0, 32, 8)}
        assert not words & {batch[i : i + 8] for i in range(0, len(batch), 8)}


def test_a_generator_holds_all_256_bits():
    """128 as Philox's key, 128 as where its counter starts."""
    state = SECRET.sampling_generator(9).bit_generator.state["state"]
    held = {int(w) for w in (*state["key"], *state["counter"])}
    assert {int(w) for w in np.frombuffer(SECRET.derive("batch", 9), "<u8")} <= held


def test_the_noise_of_steps_is_independent():
    transformation = noise.gaussian(1.0)
    x = np.stack(
        [
            np.asarray(transformation.update(jnp.zeros(2**15), (), key=SECRET.noise_key(step))[0])
            for step in range(5)
        ]
    )
    # Correlation of independent samples times sqrt(n) is close to standard normal.
    bound = stats.norm.isf(ALARM / 2) / math.sqrt(2**15)
    for one, other in itertools.combinations(x, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < bound


def test_the_batches_of_steps_are_independent():
    """Every step has its own generator: as a sampler, together, they must be Poisson's."""
    sampler, joined = Poisson(0.1), np.zeros((2000, 300), bool)
    for step, row in enumerate(joined):
        row[sampler.draw(300, SECRET.sampling_generator(step))] = True
    pairs = joined[0::2] & joined[1::2]
    columns = joined[:, 0::2] & joined[:, 1::2]
    for seen, chance in ((joined, 0.1), (pairs, 0.01), (columns, 0.01)):
        low, high = (
            stats.binom.ppf(ALARM / 2, seen.size, chance),
            stats.binom.isf(ALARM / 2, seen.size, chance),
        )
        assert low <= seen.sum() <= high


def test_noise_keys_are_what_the_noise_takes():
    key = SECRET.noise_key(0)
    out, _ = noise.gaussian(1.0).update(jnp.zeros(3), (), key=key)
    assert (np.asarray(out) != 0).all()


def test_the_secret_is_not_shown():
    secret = RunSecret(b"do not show this to anyone, ever")
    try:
        secret.content = b""  # pyright: ignore
    except dataclasses.FrozenInstanceError:
        raised = traceback.format_exc()
    else:
        raise AssertionError("a secret can be changed")
    shown = [repr(secret), str(secret), f"{secret}", f"{[secret]!r}", f"{ {'s': secret} }", raised]
    for text in shown:
        for leak in ("do not show", secret.content.hex(), repr(secret.content), "content=b"):
            assert leak not in text


def test_the_authenticator_is_keyed():
    def digest(secret: RunSecret, content: bytes) -> bytes:
        hashed = secret.authenticator()
        hashed.update(content)
        return hashed.digest()

    assert digest(SECRET, b"a") == digest(RunSecret.from_seed(7), b"a")
    different = {digest(SECRET, b"a"), digest(SECRET, b"b"), digest(RunSecret.from_seed(8), b"a")}
    assert len(different) == 3
    assert {len(d) for d in different} == {16}


def test_what_is_public_does_not_tell_the_rest():
    """The data's fingerprint, which is stored, is none of the derived keys."""
    hashed = SECRET.authenticator()
    assert hashed.digest() not in SECRET.derive("noise", 0) + SECRET.derive("batch", 0)
    assert hashed.digest() not in SECRET.content
