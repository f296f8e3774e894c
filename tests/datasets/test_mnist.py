"""MNIST from a folder, the cache and a (pretended) mirror; never from the network."""

import gzip
import hashlib
import http.client
import io
import os
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from hushgrad.datasets import load_mnist, mnist
from hushgrad.errors import DataError

FILES = list(mnist._DIGESTS)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def idx_bytes(values: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def contents() -> dict[str, bytes]:
    """A small stand-in for MNIST: 12 training and 5 test images."""
    random = np.random.default_rng(7)
    made = {}
    for n, images, labels in [(12, TRAIN_IMAGES, TRAIN_LABELS), (5, TEST_IMAGES, TEST_LABELS)]:
        made[images] = idx_bytes(random.integers(0, 256, (n, 28, 28)))
        made[labels] = idx_bytes(np.arange(n) % 10)
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a network that fails the test when it is touched."""
    monkeypatch.setenv("HUSHGRAD_CACHE", str(tmp_path / "cache"))

    def touched(*args, **kwargs):
        pytest.fail(f"the network was touched: {args}")

    monkeypatch.setattr("urllib.request.urlopen", touched)
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def expect(monkeypatch, contents):
    """Take the digests of `contents`, as they are when called, for MNIST's."""

    def change() -> None:
        monkeypatch.setattr(mnist, "_DIGESTS", {k: sha256(v) for k, v in contents.items()})

    change()
    return change


def write_all(folder: Path, contents: dict[str, bytes], level: int = 9) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content, level))
    return folder


@pytest.fixture
def serve(monkeypatch):
    """Pretend to be the mirrors: a function from URL to the bytes of its answer."""

    def start(answer) -> list[str]:
        asked: list[str] = []

        def urlopen(url, timeout):
            assert timeout > 0
            asked.append(url)
            return io.BytesIO(answer(url))

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return asked

    return start


def unreachable(url):
    raise urllib.error.URLError("no route to host")


def error_of(data_dir=None) -> str:
    with pytest.raises(DataError) as caught:
        load_mnist(data_dir)
    return str(caught.value)


def check(data, contents):
    assert (data.name, data.classes) == ("mnist", 10)
    for (images, labels), name in [(data.train, TRAIN_IMAGES), (data.test, TEST_IMAGES)]:
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert images.shape == (len(labels), 28, 28)
        pixels = np.frombuffer(contents[name][16:], np.uint8).reshape(images.shape)
        np.testing.assert_allclose(images, pixels / 255, rtol=1e-6)
        np.testing.assert_array_equal(labels, np.arange(len(labels)) % 10)


@pytest.mark.parametrize("level", [0, 9])
def test_a_folder_is_read_whatever_its_gzip_wrapper(tmp_path, contents, expect, level):
    folder = write_all(tmp_path / "data", contents, level)
    check(load_mnist(folder), contents)
    check(load_mnist(str(folder)), contents)


def test_missing_files_are_named_with_their_digests(tmp_path, contents, expect, cache):
    write_all(cache, contents)  # not looked at: data_dir means there only
    folder = write_all(tmp_path / "data", contents)
    (folder / TEST_LABELS).unlink()
    message = error_of(folder)
    assert f"{TEST_LABELS}  {sha256(contents[TEST_LABELS])}" in message
    assert str(folder) in message
    assert TRAIN_IMAGES not in message


def test_a_missing_folder_names_all_four(tmp_path):
    message = error_of(tmp_path / "absent")
    for name in FILES:
        assert name in message


def test_another_checksum_gives_both_digests(tmp_path, contents, expect):
    other = bytearray(contents[TEST_IMAGES])
    other[-1] ^= 1
    folder = write_all(tmp_path / "data", contents | {TEST_IMAGES: bytes(other)})
    message = error_of(folder)
    assert str(folder / TEST_IMAGES) in message
    assert f"expected SHA-256 {sha256(contents[TEST_IMAGES])}" in message
    assert f"found {sha256(bytes(other))}" in message


def test_damage_is_reported_as_what_it_is(tmp_path, contents, expect):
    folder = write_all(tmp_path / "data", contents)
    path = folder / TRAIN_IMAGES
    path.write_bytes(gzip.compress(contents[TRAIN_IMAGES][:-10]))
    assert "wrong length" in error_of(folder)
    path.write_bytes(gzip.compress(contents[TRAIN_IMAGES])[:-10])
    assert "truncated" in error_of(folder)
    path.write_bytes(b"<html>")
    assert "not a gzip file" in error_of(folder)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (TRAIN_LABELS, np.arange(11) % 10, "one label for each of the 12 images"),
        (TEST_LABELS, np.array([0, 1, 2, 3, 10]), "expected labels 0 to 9, found 0 to 10"),
        (TEST_IMAGES, np.zeros((5, 28, 27)), "found uint8 of shape [5, 28, 27]"),
        (TEST_IMAGES, np.zeros((5, 784)), "expected uint8 images of shape [n, 28, 28]"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, contents, expect, name, values, words):
    contents[name] = idx_bytes(values)
    expect()
    message = error_of(write_all(tmp_path / "data", contents))
    assert words in message
    assert name in message


def test_a_full_cache_needs_no_network(contents, expect, cache):
    write_all(cache, contents)
    check(load_mnist(), contents)


def test_the_cache_is_the_users_unless_chosen(monkeypatch, tmp_path, contents, expect):
    monkeypatch.delenv("HUSHGRAD_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "user" / name)
    write_all(tmp_path / "user" / "hushgrad" / "mnist", contents)
    check(load_mnist(), contents)


def test_downloads_fill_the_cache_once(contents, expect, cache, serve):
    asked = serve(lambda url: gzip.compress(contents[url.rsplit("/", 1)[1]]))
    check(load_mnist(), contents)
    assert asked == [mnist._MIRRORS[0] + name for name in FILES]
    check(load_mnist(), contents)
    assert len(asked) == 4
    assert sorted(path.name for path in cache.iterdir()) == sorted(FILES)


def test_a_damaged_cache_file_alone_is_fetched_again(contents, expect, cache, serve):
    write_all(cache, contents)
    (cache / TEST_IMAGES).write_bytes(b"damaged")
    asked = serve(lambda url: gzip.compress(contents[url.rsplit("/", 1)[1]]))
    check(load_mnist(), contents)
    assert asked == [mnist._MIRRORS[0] + TEST_IMAGES]


@pytest.mark.parametrize("fault", ["wrong content", "not gzip", "unreachable", "cut short"])
def test_the_second_mirror_stands_in(contents, expect, serve, fault):
    def answer(url):
        if url.startswith(mnist._MIRRORS[0]):
            if fault == "unreachable":
                unreachable(url)
            if fault == "cut short":
                raise http.client.IncompleteRead(b"half")
            return b"<html>" if fault == "not gzip" else gzip.compress(idx_bytes(np.arange(3)))
        return gzip.compress(contents[url.rsplit("/", 1)[1]])

    asked = serve(answer)
    check(load_mnist(), contents)
    assert len(asked) == 8


def test_offline_says_what_to_put_where(cache, serve):
    serve(unreachable)
    message = error_of()
    for name, digest in mnist._DIGESTS.items():
        assert f"{name}  {digest}" in message
    assert str(cache) in message
    assert "--data-dir" in message
    assert "no route to host" in message
    assert not cache.exists()


def test_nothing_half_written_stays(contents, expect, cache, serve, monkeypatch):
    serve(lambda url: gzip.compress(contents[url.rsplit("/", 1)[1]]))

    def replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", replace)
    message = error_of()
    assert "disk full" in message
    assert "HUSHGRAD_CACHE" in message
    assert list(cache.iterdir()) == []


def test_real_mnist(real_data):
    folder = real_data / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent")
    data = load_mnist(folder)
    images, labels = data.train
    assert images.shape == (60_000, 28, 28)
    assert data.test[0].shape == (10_000, 28, 28)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert images.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)
    assert images.std(dtype=np.float64) == pytest.approx(0.3081, abs=1e-4)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(labels).tolist() == counts
