"""One gradient in PyTorch: ordinary, and in each of Opacus's modes.

What is timed is the same as for hushgrad: forward, backward, and for Opacus the
clipped sum; no noise, no optimizer, no data loading.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from benchmarks.models import Model
from benchmarks.peers.torch_models import ARCHITECTURES

__all__ = ["ordinary", "private"]

torch.set_num_threads(os.cpu_count() or 1)


def ordinary(model: Model) -> Callable[[], object]:
    """Gradient of the mean loss."""
    network = _network(model, private=False)
    assert network is not None
    inputs, targets = _batch(model)
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        network.zero_grad()
        criterion(*_flat(network(inputs), targets)).backward()

    return step


def private(model: Model, mode: str) -> Callable[[], object] | None:
    """The sum of clipped gradients; None where Opacus or this mode cannot."""
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    network = _network(model, private=True)
    if network is None:
        return None
    step = _ghost(model, network) if mode == "ghost" else _hooks(model, network, mode)
    try:
        step()
    except Exception as error:  # whatever a mode does not support shows up here
        print(f"opacus {mode} on {model.name}: {type(error).__name__}: {str(error)[:200]}")
        return None
    return step


def _hooks(model: Model, network: nn.Module, mode: str) -> Callable[[], object]:
    from opacus.grad_sample import wrap_model  # pyright: ignore[reportMissingImports]
    from opacus.optimizers import DPOptimizer  # pyright: ignore[reportMissingImports]

    inputs, targets = _batch(model)
    wrapped = wrap_model(network, grad_sample_mode=mode, batch_first=True, loss_reduction="mean")
    optimizer = DPOptimizer(_sgd(network), **_settings(inputs))
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        criterion(*_flat(wrapped(inputs), targets)).backward()
        optimizer.clip_and_accumulate()
        optimizer.zero_grad()  # last, so that no mode's gradients lie about while another runs

    return step


def _ghost(model: Model, network: nn.Module) -> Callable[[], object]:
    from opacus.grad_sample import wrap_model  # pyright: ignore[reportMissingImports]
    from opacus.optimizers.optimizer_fast_gradient_clipping import (  # pyright: ignore
        DPOptimizerFastGradientClipping,
    )
    from opacus.utils.fast_gradient_clipping_utils import (  # pyright: ignore
        DPLossFastGradientClipping,
    )

    inputs, targets = _batch(model)
    wrapped = wrap_model(
        network,
        grad_sample_mode="ghost",
        batch_first=True,
        loss_reduction="mean",
        max_grad_norm=1.0,
        use_ghost_clipping=True,
    )
    optimizer = DPOptimizerFastGradientClipping(_sgd(network), **_settings(inputs))
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), "mean")

    def step() -> None:
        outputs = wrapped(inputs)
        shape = outputs.shape if outputs.ndim == 3 else None
        criterion(*_flat(outputs, targets), shape=shape).backward()
        optimizer.zero_grad()

    return step


def _network(model: Model, *, private: bool) -> nn.Module | None:
    """The network, after a check that it has as many weights as the JAX model."""
    assert model.architecture is not None
    torch.manual_seed(0)
    make = ARCHITECTURES[model.architecture][private]
    if make is None:
        return None
    network = make()
    count = sum(weight.numel() for weight in network.parameters())
    expected = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    if count != expected:
        raise ValueError(f"{model.name} has {expected} weights, but {count} in torch")
    return network.train()


def _batch(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = (np.array(array) for array in model.batch)
    if inputs.dtype == np.float32:  # images: channels come first in torch
        inputs = inputs[:, None] if inputs.ndim == 3 else np.moveaxis(inputs, -1, 1).copy()
    else:
        inputs = inputs.astype(np.int64)
    return torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.int64))


def _flat(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)


def _sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.1)


def _settings(inputs: torch.Tensor) -> dict[str, float]:
    return {"noise_multiplier": 0.0, "max_grad_norm": 1.0, "expected_batch_size": len(inputs)}
