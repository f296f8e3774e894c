"""One small file per rule; this table is the one place where they are listed.

A rule takes an operation with a parameter as one of its operands and says how the
gradient of one example follows from what the operation saw (`records`) and the
gradient of its output. An operation without a rule is still exact: its parameter
operand is differentiated for every example (`direct`).
"""

from __future__ import annotations

from typing import Any

from jax.extend.core import primitives as p

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.add import Addition
from hushgrad.gradients.rules.conv import Convolution
from hushgrad.gradients.rules.direct import Direct
from hushgrad.gradients.rules.dot_general import MatrixProduct
from hushgrad.gradients.rules.lookup import Lookup
from hushgrad.gradients.rules.pointwise import Pointwise
from hushgrad.gradients.rules.rule import Factors, Layout, Rule

__all__ = ["RULES", "Direct", "Factors", "Layout", "Lookup", "Rule", "find"]

RULES: dict[object, type[Rule]] = {
    p.add_p: Addition,
    p.conv_general_dilated_p: Convolution,
    p.div_p: Pointwise,
    p.dot_general_p: MatrixProduct,
    p.dynamic_slice_p: Lookup,
    p.gather_p: Lookup,
    p.max_p: Pointwise,
    p.min_p: Pointwise,
    p.mul_p: Pointwise,
    p.pow_p: Pointwise,
    p.select_n_p: Pointwise,
    p.sub_p: Addition,
}


def find(op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
    """The rule for `op` with its parameter at operand `position`, if there is one."""
    rule = RULES.get(op.primitive)
    return rule.match(op, position, avals, out) if rule else None
