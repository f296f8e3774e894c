"""The models whose steps are measured: a loss of one example, parameters, a batch."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.models.images import cnn, mlp, resnet
from benchmarks.models.model import Model
from benchmarks.models.text import gpt, lstm, tied, transformer

__all__ = ["LARGE", "MODELS", "Model"]

MODELS: dict[str, Callable[[], Model]] = {
    "cnn": cnn,
    "lstm": lstm,
    "transformer": transformer,
    "mlp": mlp,
    "tied": tied,
    "resnet": resnet,
    "gpt": gpt,
}

# Run where there is an accelerator, or when asked for by name.
LARGE = frozenset({"gpt"})
