"""idx files: what is written is read back, and every damage is named."""

import contextlib
import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest

from hushgrad.datasets import read_idx
from hushgrad.errors import DataError

KINDS = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx_bytes(values: np.ndarray, kind: int) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return head + values.astype(KINDS[kind]).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


SMALL = idx_bytes(np.arange(24).reshape(2, 3, 4), 0x08)


@pytest.mark.parametrize("name", ["a.gz", "a"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_element_type_is_read_back_in_native_order(tmp_path, kind, name):
    values = np.array([[-3, 0, 7], [100, 5, -100]]).astype(KINDS[kind])
    read = read_idx(write(tmp_path / name, idx_bytes(values, kind)))
    np.testing.assert_array_equal(read, values)
    assert read.dtype == values.dtype.newbyteorder("=")
    assert read.dtype.isnative
    assert read.flags.writeable


@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3), (2, 3, 4), (1, 2, 3, 4), (0, 28, 28)])
def test_every_shape_is_read_back(tmp_path, shape):
    values = np.arange(np.prod(shape)).reshape(shape)
    read = read_idx(write(tmp_path / "a.gz", idx_bytes(values, 0x0C)))
    np.testing.assert_array_equal(read, values)
    assert read.shape == shape


def test_gzip_is_recognised_without_its_suffix(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(SMALL))
    assert read_idx(str(path)).shape == (2, 3, 4)


def error_of(path: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path):
    assert "there is no such file" in error_of(tmp_path / "absent.gz")


def test_a_folder_or_an_impossible_name_is_no_file(tmp_path):
    assert "cannot be read" in error_of(tmp_path)
    assert "cannot be read" in error_of("a\0b")


@pytest.mark.parametrize("raw", [b"", b"<html>not found</html>", SMALL])
def test_not_gzip(tmp_path, raw):
    path = tmp_path / "a.gz"
    path.write_bytes(raw)
    assert "not a gzip file" in error_of(path)


def test_gzip_truncated_anywhere(tmp_path):
    whole = gzip.compress(SMALL)
    path = tmp_path / "a.gz"
    for length in range(2, len(whole)):
        path.write_bytes(whole[:length])
        assert f"truncated: it ends after {length} bytes" in error_of(path)


def test_gzip_damaged_anywhere_is_an_error_or_harmless(tmp_path):
    whole = gzip.compress(SMALL)
    path = tmp_path / "a.gz"
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        # The time stamp does not matter; else the checksum vouches for the content.
        with contextlib.suppress(DataError):
            np.testing.assert_array_equal(read_idx(path), np.arange(24).reshape(2, 3, 4))


def test_xz_is_read_by_its_suffix_or_content(tmp_path):
    for name in ("images.xz", "images"):
        path = tmp_path / name
        path.write_bytes(lzma.compress(SMALL))
        np.testing.assert_array_equal(read_idx(path), read_idx(write(tmp_path / "a", SMALL)))


def test_xz_truncated_damaged_or_none(tmp_path):
    path, packed = tmp_path / "a.xz", lzma.compress(SMALL)
    for raw in (b"", SMALL, packed[:5], packed[:-1], packed[:20] + b"x" + packed[21:]):
        path.write_bytes(raw)
        assert "the xz file is damaged or cut short" in error_of(path)


def test_gzip_with_garbage_behind_it(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(SMALL) + b"garbage")
    assert "damaged" in error_of(path)


@pytest.mark.parametrize(
    "magic",
    ["01000801", "00010801", "00000a01", "00000800", "000008ff", "3c68746d"],
)
def test_wrong_magic(tmp_path, magic):
    start = bytes.fromhex(magic)
    message = error_of(write(tmp_path / "a.gz", start + b"\x00\x00\x00\x01" * 300))
    assert f"wrong magic number {start.hex(' ')}" in message


@pytest.mark.parametrize("change", [-1, 1, -24])
def test_wrong_length_says_expected_and_found(tmp_path, change):
    content = SMALL[:change] if change < 0 else SMALL + b"\0" * change
    message = error_of(write(tmp_path / "a", content))
    assert f"expected {len(SMALL)} bytes (uncompressed), found {len(SMALL) + change}" in message


@pytest.mark.parametrize(("length", "expected"), [(0, 4), (3, 4), (4, 16), (15, 16)])
def test_cut_in_the_header(tmp_path, length, expected):
    message = error_of(write(tmp_path / "a", SMALL[:length]))
    assert f"expected at least {expected} bytes" in message
    assert f"found {length}" in message


def test_huge_announced_shapes_neither_allocate_nor_leak(tmp_path):
    huge = struct.pack(">BBBB3I", 0, 0, 0x0E, 3, *[2**32 - 1] * 3)
    assert "wrong length" in error_of(write(tmp_path / "a", huge))
    empty = struct.pack(">BBBB4I", 0, 0, 0x0E, 4, 0, *[2**32 - 1] * 3)
    assert "cannot be held" in error_of(write(tmp_path / "b", empty))


def test_real_mnist_labels(real_data):
    path = real_data / "mnist" / "t10k-labels-idx1-ubyte.gz"
    if not path.exists():
        pytest.skip(f"no real data: {path} is absent")
    labels = read_idx(path)
    assert labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
