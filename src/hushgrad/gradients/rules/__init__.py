"""One small file per rule; this table is the one place where they are listed.

A rule takes an operation with a parameter as one of its operands and says how the
gradient of one example follows from what the operation saw (`records`) and the
gradient of its output. An operation without a rule is still exact: its parameter
operand is differentiated for every example (`direct`).
"""

from __future__ import annotations

from typing import Any

from hushgrad.gradients.program import Op
from hushgrad.gradients.rules.add import Addition
from hushgrad.gradients.rules.conv import Convolution
from hushgrad.gradients.rules.direct import Direct
from hushgrad.gradients.rules.dot_general import MatrixProduct
from hushgrad.gradients.rules.lookup import Lookup
from hushgrad.gradients.rules.moves import Move
from hushgrad.gradients.rules.pointwise import Pointwise
from hushgrad.gradients.rules.rule import Factors, Layout, Rule

__all__ = ["RULES", "Direct", "Factors", "Layout", "Lookup", "Rule", "find"]

# By the primitive's name.
RULES: dict[str, type[Rule]] = {
    "add": Addition,
    "concatenate": Move,
    "conv_general_dilated": Convolution,
    "div": Pointwise,
    "dot_general": MatrixProduct,
    "dynamic_slice": Lookup,
    "dynamic_update_slice": Move,
    "gather": Lookup,
    "max": Pointwise,
    "min": Pointwise,
    "mul": Pointwise,
    "pad": Move,
    "pow": Pointwise,
    "scatter": Move,
    "scatter-add": Move,
    "select_n": Pointwise,
    "stack": Move,
    "sub": Addition,
}


def find(op: Op, position: int, avals: tuple[Any, ...], out: Any) -> Rule | None:
    """The rule for `op` with its parameter at operand `position`, if there is one."""
    rule = RULES.get(op.primitive.name)
    return rule.match(op, position, avals, out) if rule else None
