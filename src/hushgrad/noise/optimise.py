"""The search for a strategy, and where what it found is kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
from jaxtyping import Float
from scipy import optimize
from threadpoolctl import threadpool_limits

__all__ = ["cached", "descended", "minimised"]

Vector = Float[np.ndarray, " numbers"]
# A new number for each change of what a search finds.
_VERSION = 3


def minimised(
    value_and_slopes: Callable[[Vector], tuple[float, Vector]],
    start: Vector,
    bounds: list[tuple[float, float]] | None = None,
) -> Vector:
    """Where a smooth function is least, by L-BFGS; never worse than the start.

    Where SciPy's meets a value that is not finite, of which it makes an end, and there are no
    bounds, `descended` goes on.
    """
    if not len(start):
        return start

    met = False

    def bordered(point: Vector) -> tuple[float, Vector]:
        nonlocal met
        value, slopes = value_and_slopes(point)
        if np.isfinite(value) and np.isfinite(slopes).all():
            return value, slopes
        met = True
        return np.inf, slopes

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-9, "gtol": 1e-7, "maxcor": 20}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # Of a step too far, which is taken back.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = optimize.minimize(
            bordered, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        better = np.isfinite(found.fun) and found.fun <= value_and_slopes(start)[0]
        best = np.asarray(found.x) if better else start
        return descended(bordered, best) if met and bounds is None else best


def descended(
    value_and_slopes: Callable[[Vector], tuple[float, Vector]],
    start: Vector,
    *,
    memory: int = 20,
    most: int = 2000,
) -> Vector:
    """Where a convex function is least that is infinite outside some open set.

    L-BFGS (Nocedal and Wright 2006, algorithm 7.4) whose steps are halved until they are inside
    and lead down: SciPy's, which fits a cubic to what it meets, stops at an infinite value.
    """
    point = start
    value, slopes = value_and_slopes(point)
    pairs: list[tuple[Vector, Vector]] = []
    quiet = 0
    for _ in range(most):
        way = -_by_inverse_hessian(slopes, pairs[-memory:])
        downhill, length = float(way @ slopes), 1.0
        if not downhill < 0:
            return point
        if not pairs:
            length = min(1.0, 1 / np.abs(slopes).sum())
        while (there := value_and_slopes(point + length * way))[
            0
        ] > value + 1e-4 * length * downhill:
            length /= 2
            if length < 1e-12:
                return point
        moved, turned = length * way, there[1] - slopes
        quiet = quiet + 1 if value - there[0] < 1e-9 * max(1.0, abs(value)) else 0
        point, value, slopes = point + moved, there[0], there[1]
        if quiet == 3:
            break
        if moved @ turned > 0:
            pairs = [*pairs[1 - memory :], (moved, turned)]
    return point


def _by_inverse_hessian(slopes: Vector, pairs: list[tuple[Vector, Vector]]) -> Vector:
    way, shares = slopes.copy(), []
    for moved, turned in reversed(pairs):
        shares.append((moved @ way) / (moved @ turned))
        way -= shares[-1] * turned
    if pairs:
        moved, turned = pairs[-1]
        way *= (moved @ turned) / (turned @ turned)
    for (moved, turned), share in zip(pairs, reversed(shares), strict=True):
        way += (share - (turned @ way) / (moved @ turned)) * moved
    return way


def cached(kind: str, facts: dict[str, object], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` gives, from disk where it was made before from the same facts.

    What is there is no secret, and no guarantee rests on it: what a strategy costs is computed from
    its numbers, wherever they come from. A file that cannot be read is made again, and a folder
    that cannot be written is done without.
    """
    text = json.dumps({"kind": kind, "version": _VERSION, **facts}, sort_keys=True)
    folder = os.environ.get("HUSHGRAD_CACHE_DIR")
    root = Path(folder) if folder else platformdirs.user_cache_path("hushgrad", appauthor=False)
    file = root / "strategies" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"
    try:
        found = np.load(file, allow_pickle=False)
        if found.dtype == np.float32 and np.all(np.isfinite(found)):
            return found
    except (OSError, ValueError, EOFError):
        pass
    # As wide as it will be used: the noise is in float32, and what it costs follows from the same.
    # Matrices are small: threads that wait for each other take longer than one alone.
    with threadpool_limits(1):
        made = make().astype(np.float32)
    _keep(file, made)
    return made


def _keep(file: Path, made: np.ndarray) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            np.save(part, made, allow_pickle=False)
        os.replace(part.name, file)
    except OSError:
        return
