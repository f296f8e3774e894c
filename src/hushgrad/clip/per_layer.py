"""A bound for each part of the parameters."""

from __future__ import annotations

import dataclasses
import math
import re
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hushgrad.clip.rule import Norm, Rule, in_range, shrink
from hushgrad.errors import InputError

__all__ = ["PerLayer"]

_NAME = re.compile(r"\['([^']*)'\]")


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class PerLayer(Rule):
    """Scales each example's gradient by each part of the parameters to a bound of its own.

    ```python
    hg.clip.PerLayer({"embedding": 0.5, "blocks": 1.0, "head": 0.5})  # each a joint norm
    hg.clip.PerLayer(total=1.0)  # every array 1 / sqrt(how many arrays there are)
    ```

    One loud part then cannot silence the others, as it does under one bound for
    all (McMahan et al. 2018, arXiv 1710.06963).

    Formal guarantee: adding or removing one example changes the sum by at most
    `sensitivity` in Euclidean norm over all parameters together: the root of the
    sum of the squared bounds, rounded up, which is `total` where that is given.

    Args:
      norms: a prefix of the parameters' pytree: dictionaries, lists and so on as
        there, and in place of a leaf or of a whole subtree the bound on its joint
        norm. Every parameter is under exactly one of them.
      total: instead, one number: each floating-point array of the parameters is a
        part, bounded by total / sqrt(number of parts).

    Raises:
      InputError: if not exactly one of the two is given, or a number is not between
        1e-6 and 1e15; on use, if `norms` is not a prefix of the parameters.
    """

    # Paths and numbers rather than the pytree itself: a dictionary can be changed.
    _norms: tuple[tuple[Any, float], ...]
    _structure: Any
    _total: float | None

    def __init__(self, norms: PyTree[float] | None = None, *, total: float | None = None) -> None:
        if (norms is None) == (total is None):
            raise InputError(
                "give one of norms (a bound for each part) and total (one to share out), got "
                f"norms={norms!r}, total={total!r}"
            )
        leaves, structure = [], None
        if total is None:
            # None is no leaf to JAX; here it would be a part without a bound.
            leaves, structure = jax.tree_util.tree_flatten_with_path(
                norms, is_leaf=lambda x: x is None
            )
            if not leaves:
                raise InputError(f"norms must hold at least one number, got {norms!r}")
        checked = tuple((path, in_range(_name(path), norm)) for path, norm in leaves)
        object.__setattr__(self, "_norms", checked)
        object.__setattr__(self, "_structure", structure)
        object.__setattr__(self, "_total", None if total is None else in_range("total", total))

    @property
    def norms(self) -> PyTree[float] | None:
        """The bounds as given, or None where `total` was."""
        if self._total is not None:
            return None
        return jax.tree.unflatten(self._structure, [norm for _, norm in self._norms])

    @property
    def total(self) -> float | None:
        """The bound that the parts share, or None where `norms` were given."""
        return self._total

    @property
    def sensitivity(self) -> float:
        """Largest change of the sum when one example is added or removed."""
        if self._total is not None:
            return self._total
        norms = [norm for _, norm in self._norms]
        root, square = math.hypot(*norms), sum(Fraction(norm) ** 2 for norm in norms)
        # The library promises neither a direction of rounding nor its size.
        while Fraction(root) ** 2 < square:
            root = math.nextafter(root, math.inf)
        return root

    def parts(self, params: PyTree) -> tuple[int, ...]:
        """For each leaf of `params` the number of the bound that it is under.

        Raises:
          InputError: if `norms` is not a prefix of `params`, or `total` leaves a part
            less than 1e-6.
        """
        leaves = jax.tree_util.tree_leaves_with_path(params)
        if self._total is not None:
            real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for _, leaf in leaves]
            _share(self._total, max(1, sum(real)))
            return tuple(sum(real[:i]) if is_real else 0 for i, is_real in enumerate(real))
        parts = tuple(self._part(path) for path, _ in leaves)
        for number, (path, _) in enumerate(self._norms):
            if number not in parts:
                raise InputError(
                    f"{_name(path)} bounds nothing: there is no params{_key(path)} with arrays; "
                    "leave it out, or name a part that is there"
                )
        return parts

    def _part(self, leaf: Any) -> int:
        for number, (path, _) in enumerate(self._norms):
            if leaf[: len(path)] == path:
                return number
        raise InputError(
            f"norms has no number for params{_key(leaf)}; give one in the same place, norms"
            f"{_key(leaf)}, or one in place of a subtree that holds it, got norms={self.norms!r}"
        )

    def coefficients(
        self,
        squared_norms: Float[Array, "batch parts"],
        slack: Float[Array, "batch parts"],
        norm: Norm = None,
    ) -> Float[Array, "batch parts"]:
        """What each example's gradient by each part is multiplied with.

        Raises:
          ValueError: if there are not as many parts as bounds.
        """
        self.current(norm)
        parts = squared_norms.shape[1]
        if self._total is not None:
            return shrink(squared_norms, slack, _share(self._total, parts))
        if parts != len(self._norms):
            raise ValueError(f"squared norms of {parts} parts for {len(self._norms)} bounds")
        bounds = jnp.asarray([norm for _, norm in self._norms], squared_norms.dtype)
        return shrink(squared_norms, slack, bounds)

    def describe(self) -> str:
        """The rule after "gradients"."""
        if self._total is not None:
            return f"clipped array by array to norm {self._total:g} in all"
        listed = ", ".join(f"{norm:g}" for _, norm in self._norms)
        return f"clipped part by part to norms {listed} ({self.sensitivity:g} in all)"

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data."""
        if self._total is not None:
            return {"kind": "per_layer", "total": self._total}
        return {"kind": "per_layer", "norms": {_key(path): norm for path, norm in self._norms}}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PerLayer:
        """The rule of what `to_dict` gave, where norms were given by names.

        Raises:
          InputError: if they were given by positions, which names do not tell.
        """
        if "total" in plain:
            return cls(total=plain["total"])
        norms: dict[str, Any] = {}
        for path, norm in plain["norms"].items():
            *outer, last = _names(path)
            inside = norms
            for name in outer:
                inside = inside.setdefault(name, {})
            inside[last] = norm
        return cls(norms)

    def __repr__(self) -> str:
        given = repr(self.norms) if self._total is None else f"total={self._total!r}"
        return f"PerLayer({given})"


def _names(path: str) -> list[str]:
    names = _NAME.findall(path)
    if "".join(f"[{name!r}]" for name in names) != path:
        raise InputError(f"norms must be given by names to be read again, got {path!r}")
    return names


def _key(path: Any) -> str:
    return jax.tree_util.keystr(path)


def _name(path: Any) -> str:
    return "norms" + _key(path)


def _share(total: float, parts: int) -> float:
    """The bound of one part, rounded so that all together stay within `total`."""
    share = total / math.sqrt(parts)
    while parts * Fraction(share) ** 2 > Fraction(total) ** 2:
        share = math.nextafter(share, 0)
    return in_range(f"each array's share of total={total!r} among {parts}", share)
