"""JAX-Privacy's `clipped_grad` on the very loss that hushgrad gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax_privacy import clipping  # pyright: ignore[reportMissingImports]

from benchmarks.models import Model

__all__ = ["step"]


def step(model: Model) -> Callable[[], Any]:
    """One clipped gradient, compiled."""
    clipped = clipping.clipped_grad(
        model.loss,
        l2_clip_norm=1.0,
        batch_argnums=tuple(range(1, 1 + len(model.batch))),
        keep_batch_dim=False,
    )
    compiled = jax.jit(clipped).lower(model.params, *model.batch).compile()
    return lambda: jax.block_until_ready(compiled(model.params, *model.batch))
