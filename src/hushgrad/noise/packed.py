"""Arrays as short text, so that a strategy is plain data that can be compared and written."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np

from hushgrad.errors import InputError

__all__ = ["packed", "unpacked"]


def packed(array: np.ndarray) -> str:
    """The numbers of an array, in its own type, little-endian, deflated, in base 64."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(plain.tobytes(), 9)).decode()


def unpacked(name: str, text: str, dtype: type[np.floating], count: int) -> np.ndarray:
    """What `packed` wrote, in float64.

    Raises:
      InputError: if it is not so many finite numbers.
    """
    size = count * np.dtype(dtype).itemsize
    try:
        opened = zlib.decompressobj()
        # Text from a file must not fill the memory.
        plain = opened.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise InputError(f"{name} is not what a strategy wrote: {error}") from error
    if len(plain) != size:
        raise InputError(f"{name} must hold {count:,} numbers, got {text[:40]!r}...")
    made = np.frombuffer(plain, np.dtype(dtype).newbyteorder("<")).astype(float)
    if not np.all(np.isfinite(made)):
        raise InputError(f"{name} must hold finite numbers")
    return made
