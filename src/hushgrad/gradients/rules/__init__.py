"""One small file per rule; this table is the one place where they are listed.

A rule takes an operation that is linear in one of its operands, the parameter,
and says how the gradient of one example follows from what the operation saw
(`records`) and the gradient of its output. An operation without a rule is still
exact: its parameter operand is differentiated for every example (`direct`).
"""

from __future__ import annotations

from jax.extend.core import primitives as p

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.add import Addition
from hushgrad.gradients.rules.conv import Convolution
from hushgrad.gradients.rules.direct import Direct
from hushgrad.gradients.rules.dot_general import MatrixProduct
from hushgrad.gradients.rules.rule import Rule

__all__ = ["RULES", "Direct", "Rule", "find"]

RULES: dict[object, type[Rule]] = {
    p.add_p: Addition,
    p.conv_general_dilated_p: Convolution,
    p.dot_general_p: MatrixProduct,
}


def find(op: Op, position: int, avals: tuple) -> Rule | None:
    """The rule for `op` with its parameter at operand `position`, if there is one."""
    rule = RULES.get(op.primitive)
    return rule.match(op, position, avals) if rule else None
