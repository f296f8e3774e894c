"""The run's secret, and what every step derives from it."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets

import numpy as np
from jaxtyping import UInt32

from hushgrad._check import whole

__all__ = ["RunSecret"]

_BYTES = 32


@dataclasses.dataclass(frozen=True, repr=False)
class RunSecret:
    """256 secret bits. Who holds them can repeat every batch and every noise.

    What a step needs is a keyed hash of its purpose and number: a function of
    (secret, purpose, step), so a resumed step repeats itself exactly, and no two
    steps or purposes share a key.
    """

    content: bytes

    @classmethod
    def fresh(cls) -> RunSecret:
        """From the operating system's entropy."""
        return cls(secrets.token_bytes(_BYTES))

    @classmethod
    def from_seed(cls, seed: int) -> RunSecret:
        """From a number, for tests: not private against whoever knows it."""
        text = str(whole("seed", seed, at_least=0)).encode()
        return cls(hashlib.blake2b(text, digest_size=_BYTES, person=b"hushgrad-seed").digest())

    def derive(self, purpose: str, step: int) -> bytes:
        """32 bytes for one purpose in one step."""
        message = f"{purpose}:{step}".encode()
        return hashlib.blake2b(
            message, key=self.content, digest_size=_BYTES, person=b"hushgrad-step"
        ).digest()

    def noise_key(self, step: int) -> UInt32[np.ndarray, "8"]:
        """The noise generator's key in one step."""
        return np.frombuffer(self.derive("noise", step), "<u4").astype(np.uint32)

    def sampling_generator(self, step: int) -> np.random.Generator:
        """The sampler's source of chance in one step: Philox, 128-bit key and counter."""
        return self.generator("batch", step)

    def generator(self, purpose: str, step: int) -> np.random.Generator:
        """A source of chance for one purpose in one step."""
        words = np.frombuffer(self.derive(purpose, step), "<u8").astype(np.uint64)
        counter = np.array([0, 0, *words[2:]], np.uint64)
        return np.random.Generator(np.random.Philox(key=words[:2], counter=counter))

    def authenticator(self) -> hashlib.blake2b:
        """A keyed hash, to be fed; its digest tells nothing to who lacks the secret."""
        return hashlib.blake2b(key=self.content, digest_size=16, person=b"hushgrad-data")
