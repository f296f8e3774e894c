"""The idx format: the container in which MNIST and its relatives are published.

A file is four bytes of magic number (0, 0, element type, number of dimensions),
one big-endian uint32 per dimension, and the elements in big-endian, C order.
"""

import gzip
import lzma
import math
import os
import zlib
from pathlib import Path

import numpy as np

from hushgrad.errors import DataError

__all__ = ["parse_idx", "read_content", "read_idx", "uncompress"]

_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\x00"

# The third byte of the magic number -> how one element is stored.
_ELEMENTS = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

_MAX_DIMENSIONS = 32  # what every supported NumPy can hold


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one idx file, compressed by gzip or xz, or plain.

    ```python
    labels = read_idx("train-labels-idx1-ubyte.gz")  # uint8[60000]
    ```

    Args:
        path: the file. It is taken for gzip when its name ends in `.gz` or its
            content starts as gzip does; for xz likewise.

    Returns:
        An array with the file's shape and element type (uint8, int8, int16, int32,
        float32 or float64), in the machine's byte order, owned by the caller.

    Raises:
        DataError: the file is missing, unreadable, not gzip, truncated, or is not
            an idx file of the length that its header announces.
    """
    return parse_idx(read_content(path), os.fspath(path))


def read_content(path: str | os.PathLike[str]) -> bytes:
    """Read a file and undo its gzip or xz compression, if it has one.

    Raises:
        DataError: the file is missing, unreadable, not gzip though its name ends
            in `.gz` (xz and `.xz` likewise), or truncated.
    """
    source = os.fspath(path)
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{source}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{source}: the file cannot be read: {error}") from error
    if source.endswith(".gz") or raw.startswith(_GZIP_MAGIC):
        return uncompress(raw, source)
    if source.endswith(".xz") or raw.startswith(_XZ_MAGIC):
        try:
            return lzma.decompress(raw)
        except lzma.LZMAError as error:
            raise DataError(
                f"{source}: the xz file is damaged or cut short ({error}); download it again"
            ) from error
    return raw


def uncompress(raw: bytes, source: str) -> bytes:
    """Undo gzip; `source` names the bytes in messages.

    Raises:
        DataError: the bytes are not gzip, or are cut short or damaged.
    """
    if not raw.startswith(_GZIP_MAGIC):
        raise DataError(
            f"{source}: not a gzip file: it starts with {_hex(raw[:4])}, not {_hex(_GZIP_MAGIC)}; "
            "download it again, or gzip it if it is already uncompressed"
        )
    try:
        return gzip.decompress(raw)
    except EOFError as error:
        raise DataError(
            f"{source}: the gzip file is truncated: it ends after {len(raw)} bytes, in the middle "
            "of its content; download it again"
        ) from error
    except (OSError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(
            f"{source}: the gzip file is damaged ({error}); download it again"
        ) from error


def parse_idx(content: bytes, source: str) -> np.ndarray:
    """Parse the uncompressed bytes of an idx file; `source` names them in messages.

    Returns:
        As `read_idx`.

    Raises:
        DataError: the magic number is wrong, or the length is not what the header
            announces.
    """
    element, shape = _parse_header(content, source)
    header = 4 + 4 * len(shape)
    expected = header + math.prod(shape) * element.itemsize
    if len(content) != expected:
        raise DataError(
            f"{source}: wrong length: the header announces shape {list(shape)} of "
            f"{element.newbyteorder('=')}, so expected {expected} bytes (uncompressed), "
            f"found {len(content)}"
        )
    try:
        array = np.frombuffer(content, dtype=element, offset=header).reshape(shape)
    except ValueError as error:  # such as [0, 2**32 - 1, 2**32 - 1, 2**32 - 1]
        raise DataError(f"{source}: shape {list(shape)} cannot be held: {error}") from error
    return array.astype(element.newbyteorder("="), copy=True)


def _parse_header(content: bytes, source: str) -> tuple[np.dtype, tuple[int, ...]]:
    """Element type and shape that the head of an idx file announces."""
    if len(content) < 4:
        raise DataError(
            f"{source}: wrong length: expected at least 4 bytes for the idx magic number, "
            f"found {len(content)}"
        )
    element = _ELEMENTS.get(content[2])
    dimensions = content[3]
    if content[:2] != b"\x00\x00" or element is None or not 1 <= dimensions <= _MAX_DIMENSIONS:
        kinds = ", ".join(f"{kind:02x}" for kind in _ELEMENTS)
        raise DataError(
            f"{source}: not an idx file: wrong magic number {_hex(content[:4])}; expected 00 00, "
            f"an element type ({kinds}), and 01 to {_MAX_DIMENSIONS:02x} dimensions"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(
            f"{source}: wrong length: expected at least {header} bytes for a header of "
            f"{dimensions} dimensions, found {len(content)}"
        )
    sizes = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)
    return element, tuple(int(size) for size in sizes)


def _hex(data: bytes) -> str:
    return data.hex(" ") or "nothing (the file is empty)"
