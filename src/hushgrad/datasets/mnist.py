"""MNIST: 70,000 handwritten digits, 28x28, ten classes.

The four files are read from a folder the user names, or from a cache that is filled
from public mirrors. What is checked is the SHA-256 of the uncompressed content,
because the same file circulates in different gzip wrappers.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import platformdirs

from hushgrad.datasets.dataset import Dataset
from hushgrad.datasets.idx import parse_idx, read_content, uncompress
from hushgrad.errors import DataError

__all__ = ["load_mnist"]

_CLASSES = 10
_TIMEOUT_SECONDS = 30.0
_CACHE_VARIABLE = "HUSHGRAD_CACHE"

_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)

_TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
_TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
_TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
_TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

# File -> SHA-256 of its uncompressed content.
_DIGESTS = {
    _TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    _TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    _TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    _TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load MNIST from a folder, from the cache, or from a public mirror.

    ```python
    mnist = load_mnist(data_dir="data/mnist")
    images, labels = mnist.train  # float32[60000, 28, 28] in [0, 1], int32[60000]
    ```

    Args:
        data_dir: the folder with the four `.gz` files; nothing else is then read and
            nothing is downloaded. `None` takes the user's cache folder, or the folder
            `mnist` under the environment variable `HUSHGRAD_CACHE`, and downloads
            what is missing or damaged there.

    Returns:
        60,000 training and 10,000 test images of shape [28, 28], labels 0 to 9.

    Raises:
        DataError: a file is missing, damaged or not MNIST's, or cannot be downloaded;
            the message says which file, what was expected, and what to do.
    """
    arrays = _read_cached(_cache_folder()) if data_dir is None else _read_folder(Path(data_dir))
    return Dataset(
        name="mnist",
        train=_as_examples(arrays, _TRAIN_IMAGES, _TRAIN_LABELS),
        test=_as_examples(arrays, _TEST_IMAGES, _TEST_LABELS),
        classes=_CLASSES,
    )


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    """The four arrays from a folder that the user named."""
    missing = [name for name in _DIGESTS if not os.path.exists(folder / name)]
    if missing:
        raise DataError(
            f"data_dir {str(folder)!r} lacks {len(missing)} of the four MNIST files; expected "
            f"there, with the SHA-256 of the uncompressed content, but found no file:\n"
            f"{_list_files(missing)}"
        )
    return {name: _read_verified(folder / name) for name in _DIGESTS}


def _read_cached(folder: Path) -> dict[str, np.ndarray]:
    """The four arrays from the cache, downloading those it lacks or that are damaged."""
    arrays = {}
    for name in _DIGESTS:
        try:
            arrays[name] = _read_verified(folder / name)
        except DataError:
            arrays[name] = _download(name, folder)
    return arrays


def _read_verified(path: Path) -> np.ndarray:
    return _verify(path.name, read_content(path), str(path))


def _verify(name: str, content: bytes, source: str) -> np.ndarray:
    """Parse first, so that a damaged file is reported as what it is; then the digest."""
    array = parse_idx(content, source)
    found = hashlib.sha256(content).hexdigest()
    if found != _DIGESTS[name]:
        raise DataError(
            f"{source}: this is not MNIST's {name}: expected SHA-256 {_DIGESTS[name]} of the "
            f"uncompressed content, found {found}"
        )
    return array


def _download(name: str, folder: Path) -> np.ndarray:
    """Fetch one file from the first mirror that has it whole, and keep it in `folder`."""
    failures = []
    for mirror in _MIRRORS:
        url = mirror + name
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
                raw = response.read()
            array = _verify(name, uncompress(raw, url), url)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            failures.append(f"{url}: {error}")
        except DataError as error:
            failures.append(str(error))
        else:
            _write_atomically(folder / name, raw)
            return array
    reasons = "\n".join(f"  {failure}" for failure in failures)
    raise DataError(
        f"MNIST is not in the cache and cannot be downloaded:\n{reasons}\n"
        f"Put these four files, with the SHA-256 of the uncompressed content,\n"
        f"{_list_files(list(_DIGESTS))}\n"
        f"into the folder {folder}, or name the folder that holds them with --data-dir "
        f"(in Python: data_dir=)."
    )


def _write_atomically(path: Path, raw: bytes) -> None:
    """Write beside the target and rename: another process sees all of the file or none."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(raw)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path}: the downloaded file cannot be kept in the cache: {error}; name a writable "
            f"folder in the environment variable {_CACHE_VARIABLE}, or use --data-dir"
        ) from error


def _cache_folder() -> Path:
    """Where the four files are kept when the user names no folder."""
    chosen = os.environ.get(_CACHE_VARIABLE)
    root = Path(chosen) if chosen else platformdirs.user_cache_path("hushgrad")
    return root / "mnist"


def _as_examples(
    arrays: dict[str, np.ndarray], images_name: str, labels_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Check that images and labels belong together; scale the images to [0, 1]."""
    images, labels = arrays[images_name], arrays[labels_name]
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_name}: expected uint8 images of shape [n, 28, 28], found {images.dtype} of "
            f"shape {list(images.shape)}"
        )
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_name}: expected one label for each of the {len(images)} images of "
            f"{images_name}, found shape {list(labels.shape)}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= _CLASSES):
        raise DataError(
            f"{labels_name}: expected labels 0 to {_CLASSES - 1}, found {labels.min()} to "
            f"{labels.max()}"
        )
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int32)


def _list_files(names: list[str]) -> str:
    return "\n".join(f"  {name}  {_DIGESTS[name]}" for name in names)
