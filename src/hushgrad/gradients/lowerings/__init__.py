"""Faster ways to run single operations; this table is the one place where they are listed.

The engine runs the user's program one operation at a time, so it may run an
operation in another way than XLA would, wherever the result is the same (to
rounding), the gradient too (the same choice among ties), and it was measured to
be faster on that backend. Each file says by how much, for which shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.extend.core import primitives as p

from hushgrad.gradients.lowerings import convolution, max_pool
from hushgrad.gradients.lowerings.lowering import Lowering, Operation

__all__ = ["LOWERINGS", "Lowering", "find"]

LOWERINGS: dict[object, tuple[Lowering, ...]] = {
    p.reduce_window_max_p: (max_pool.SEPARABLE,),
    p.conv_general_dilated_p: (convolution.POINTWISE, convolution.PHASES),
}


def find(
    op: Operation, avals: tuple[Any, ...], backend: str
) -> Callable[..., tuple[Any, ...]] | None:
    """Another way to run `op` that is faster on `backend`, or None.

    Args:
      op: an operation of the program.
      avals: shape and dtype of each operand, for one example.
      backend: as in `jax.default_backend()`.

    Returns:
      A function of the operation's operands that returns a tuple of its results;
      it can be transformed like any JAX function.
    """
    for lowering in LOWERINGS.get(op.primitive, ()):
        if backend in lowering.backends:
            run = lowering.match(op.params, avals)
            if run is not None:
                return lambda *args, run=run: (run(*args),)
    return None
