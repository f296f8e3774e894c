"""What every lowering is checked against: the operation itself, under vmap and grad."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hushgrad.gradients import lowerings


class Traced(NamedTuple):
    """The one operation of a function, as the engine would hand it over."""

    primitive: Any
    params: dict[str, Any]

    def bind(self, *args: Any) -> Any:
        out = self.primitive.bind(*args, **self.params)
        return out[0] if self.primitive.multiple_results else out


def operation(function: Callable[..., Any], *args: Any) -> Traced:
    """The last operation that `function` is made of."""
    eqn = jax.make_jaxpr(function)(*args).eqns[-1]
    return Traced(eqn.primitive, dict(eqn.params))


def lower(function: Callable[..., Any], *examples: Any) -> Callable[..., Any] | None:
    """The lowering of a one-operation function of one example, if one applies."""
    avals = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in examples)
    found = lowerings.find(operation(function, *avals), avals, "cpu")
    return found and (lambda *args: found(*args)[0])


@pytest.fixture(scope="session")
def lowered() -> Callable[..., Any]:
    """`lower`: the lowering of a one-operation function of one example, or None."""
    return lower


@pytest.fixture(scope="session")
def check() -> Callable[..., None]:
    """Asserts that a lowering applies, and agrees with XLA in value and gradient.

    The last operand has no batch axis, if `shared`, as weights have none.
    """

    def check(function: Callable, *batch: Any, shared: tuple = (), tolerance: float = 0) -> None:
        run = lower(function, *(x[0] for x in batch), *shared)
        assert run is not None

        def outcome(way: Callable) -> Any:
            def one(*example: Any) -> Any:
                out, back = jax.vjp(lambda *xs: way(*xs, *shared), *example)
                cotangent = np.random.default_rng(7).integers(-4, 5, out.shape)
                return out, back(jnp.asarray(cotangent, out.dtype))

            return jax.jit(jax.vmap(one))(*batch)

        for ours, theirs in zip(
            jax.tree.leaves(outcome(run)), jax.tree.leaves(outcome(function)), strict=True
        ):
            assert ours.dtype == theirs.dtype
            ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)

    return check
