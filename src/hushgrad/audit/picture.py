"""The picture of attacks' curves, beside what a promise allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hushgrad import accounting
from hushgrad.audit.roc import Roc
from hushgrad.errors import InputError

__all__ = ["draw"]

_POINTS = 2000


def draw(
    rocs: Mapping[str, Roc],
    file: str | Path,
    *,
    promise: Any | None = None,
    epsilon: float | None = None,
    delta: float = 0.0,
) -> None:
    """Draws curves on logarithmic axes, which show the few who are found for certain.

    ```python
    hg.audit.draw({a.attack: a.roc for a in found.attacks}, "roc.png", promise=m)
    ```

    Args:
      rocs: by the names that the legend shows.
      file: PNG, PDF or SVG, by its ending.
      promise: a mechanism: shades what its whole trade-off curve allows.
      epsilon: shades what (epsilon, delta) alone allows, in place of `promise`.
      delta: of `epsilon`.

    Raises:
      InputError: if matplotlib is not installed, there is no curve, both promises are given or
        the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "draw needs matplotlib; install it with: pip install 'hushgrad[plot]'"
        ) from error
    if not rocs:
        raise InputError("rocs must be of one curve at least, got none")
    if promise is not None and epsilon is not None:
        raise InputError(f"promise and epsilon={epsilon!r} exclude each other; give one of them")
    least = 1 / max(max(roc.members, roc.non_members) for roc in rocs.values())
    least = min(10 ** math.floor(math.log10(least)), 0.1)
    x = np.geomspace(least, 1, _POINTS)
    figure = Figure(figsize=(5.5, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    allowed = _allowed(promise, epsilon, delta, x)
    if allowed is not None:
        label, most = allowed
        axes.fill_between(x, least, np.maximum(most, least), color="0.88", label=label, zorder=0)
    axes.plot([least, 1], [least, 1], color="0.4", linestyle="--", linewidth=1, label="guessing")
    for name, roc in rocs.items():
        # Steps, as no threshold lies between two scores; of a million points some show the same.
        places = np.searchsorted(roc.false_positives, x * (1 + 1e-9), side="right") - 1
        shown = np.concatenate([[least], np.maximum(roc.true_positives[places], least)])
        label = f"{name} (AUC {roc.auc:.3f})"
        axes.step(np.append(least, x), shown, where="post", label=label)
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
    axes.set_xlabel("non-members accused (false positive rate)")
    axes.set_ylabel("members found (true positive rate)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise InputError(f"file {str(file)!r} cannot be written: {error}") from error


def _allowed(
    promise: Any | None, epsilon: float | None, delta: float, x: Float[np.ndarray, " n"]
) -> tuple[str, Float[np.ndarray, " n"]] | None:
    """What it is called, and the most true positives by false positives."""
    if promise is not None:
        most = 1 - accounting.trade_off(promise, list(x)).false_negative
        return "what the promise allows", most
    if epsilon is None:
        return None
    if not epsilon >= 0 or not 0 <= delta < 1:
        raise InputError(
            f"epsilon must be zero or more and delta in [0, 1), got {epsilon!r} and {delta!r}"
        )
    factor = math.exp(min(epsilon, 700.0))
    most = np.minimum(factor * x + delta, 1 - (1 - delta - x) / factor)
    return f"what epsilon {epsilon:g} allows", np.clip(most, 0, 1)
