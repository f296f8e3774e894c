"""ChaCha20: the stream of RFC 8439, word for word."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushgrad.noise.chacha import key_stream

KEY = bytes(range(32))


def random_bits(key, nonce, words: int):
    """The first words of the stream."""
    blocks = key_stream(key, nonce, jnp.arange(-(-words // 16), dtype=jnp.uint32))
    return jnp.stack(blocks, axis=1).reshape(-1)[:words]


# RFC 8439, section 2.3.2: key 00..1f, counter 1.
BLOCK_NONCE = bytes.fromhex("000000090000004a00000000")
BLOCK = bytes.fromhex("""
    10 f1 e7 e4 d1 3b 59 15 50 0f dd 1f a3 20 71 c4 c7 d1 f4 c7 33 c0 68 03 04 22 aa 9a c3 d4 6c 4e
    d2 82 64 46 07 9f aa 09 14 c2 d7 05 d9 8b 02 a2 b5 12 9c d1 de 16 4e b9 cb d0 83 e8 a2 50 3c 4e
""")

# Section 2.4.2: key 00..1f, the counter starts from 1; text, cipher text and key stream.
STREAM_NONCE = bytes.fromhex("000000000000004a00000000")
STREAM = bytes.fromhex("""
    22 4f 51 f3 40 1b d9 e1 2f de 27 6f b8 63 1d ed 8c 13 1f 82 3d 2c 06
    e2 7e 4f ca ec 9e f3 cf 78 8a 3b 0a a3 72 60 0a 92 b5 79 74 cd ed 2b
    93 34 79 4c ba 40 c6 3e 34 cd ea 21 2c 4c f0 7d 41 b7 69 a6 74 9f 3f
    63 0f 41 22 ca fe 28 ec 4d c4 7e 26 d4 34 6d 70 b9 8c 73 f3 e9 c5 3a
    c4 0c 59 45 39 8b 6e da 1a 83 2c 89 c1 67 ea cd 90 1d 7e 2b f3 63
""")
TEXT = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    b"future, sunscreen would be it."
)
CIPHER = bytes.fromhex("""
    6e 2e 35 9a 25 68 f9 80 41 ba 07 28 dd 0d 69 81 e9 7e 7a ec 1d 43 60 c2 0a 27 af cc fd 9f ae 0b
    f9 1b 65 c5 52 47 33 ab 8f 59 3d ab cd 62 b3 57 16 39 d6 24 e6 51 52 ab 8f 53 0c 35 9f 08 61 d8
    07 ca 0d bf 50 0d 6a 61 56 a3 8e 08 8a 22 b6 5e 52 bc 51 4d 16 cc f8 06 81 8c e9 1a b7 79 37 36
    5a f9 0b bf 74 a3 5b e6 b4 0b 8e ed f2 78 5e 42 87 4d
""")

# Appendix A.1, test vector 1: key, nonce and counter zero.
ZEROS = bytes.fromhex("""
    76 b8 e0 ad a0 f1 3d 90 40 5d 6a e5 53 86 bd 28 bd d2 19 b8 a0 8d ed 1a a8 36 ef cc 8b 77 0d c7
    da 41 59 7c 51 57 48 8d 77 24 e0 3f b8 d8 4a 37 6a 43 b8 f4 15 18 a1 1c c3 87 b6 69 b2 ee 65 86
""")


def reference_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """Section 2.3, one step at a time and in plain Python."""

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) % 2**32
            mixed = s[z] ^ s[x]
            s[z] = (mixed << turn | mixed >> (32 - turn)) % 2**32

    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    start += [counter, *struct.unpack("<3I", nonce)]
    s = list(start)
    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(
                diagonal,
                4 + (diagonal + 1) % 4,
                8 + (diagonal + 2) % 4,
                12 + (diagonal + 3) % 4,
            )
    return struct.pack("<16I", *((x + y) % 2**32 for x, y in zip(s, start, strict=True)))


compiled = jax.jit(random_bits, static_argnums=2)


def words_of(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<u4").astype(np.uint32)


def stream(key: bytes, nonce: bytes, words: int) -> bytes:
    """What the library makes, as bytes; its counter starts from 0."""
    made = compiled(words_of(key), words_of(nonce), words)
    assert made.shape == (words,)
    assert made.dtype == jnp.uint32
    return np.asarray(made).astype("<u4").tobytes()


def test_the_reference_itself():
    assert reference_block(KEY, 1, BLOCK_NONCE) == BLOCK
    assert reference_block(bytes(32), 0, bytes(12)) == ZEROS


def test_the_block_of_section_2_3_2():
    assert stream(KEY, BLOCK_NONCE, 32)[64:] == BLOCK


def test_the_key_stream_of_section_2_4_2():
    made = stream(KEY, STREAM_NONCE, 48)[64:]
    assert made[: len(STREAM)] == STREAM
    assert bytes(a ^ b for a, b in zip(TEXT, made, strict=False)) == CIPHER


def test_the_first_block_of_appendix_a_1():
    assert stream(bytes(32), bytes(12), 16) == ZEROS


@settings(max_examples=50, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=12, max_size=12),
    words=st.sampled_from([1, 16, 17, 70]),
)
def test_every_key_and_nonce_against_the_reference(key, nonce, words):
    blocks = b"".join(reference_block(key, counter, nonce) for counter in range(-(-words // 16)))
    assert stream(key, nonce, words) == blocks[: 4 * words]


def test_far_blocks_have_their_own_counter():
    made = stream(KEY, STREAM_NONCE, 16 * 70_001)
    for counter in (0, 1, 255, 256, 65_535, 65_536, 70_000):
        assert made[64 * counter :][:64] == reference_block(KEY, counter, STREAM_NONCE)


def test_no_words_are_no_words():
    assert stream(KEY, STREAM_NONCE, 0) == b""


@pytest.mark.parametrize("words", [1, 17])
def test_compiled_and_not_compiled_agree(words):
    key, nonce = jnp.array(words_of(KEY)), jnp.array(words_of(STREAM_NONCE))
    np.testing.assert_array_equal(compiled(key, nonce, words), random_bits(key, nonce, words))


def test_wide_types_change_nothing():
    plain = stream(KEY, STREAM_NONCE, 40)
    with jax.enable_x64(True):
        assert stream(KEY, STREAM_NONCE, 40) == plain
