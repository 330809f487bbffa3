"""Halstead's measures of a plan, counted over its own syntax tree.

Operators are what a plan does: `call` and each keyword of a call, `=`, `if`, `for`, the index, comparisons, `and`,
`or`, `not`, minus, and the list and dict displays. Operands are what it does it to: tools, variables and literals.
With n1, n2 distinct and N1, N2 total operators and operands (Halstead, Elements of Software Science, 1977):
volume = (N1 + N2) * log2(n1 + n2), difficulty = n1 / 2 * N2 / n2, effort = difficulty * volume.
Unlike counts over expression operators alone, a plan of many calls is more complex than a plan of one.
"""

import ast
import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from agentmill.plans.parse import Plan

Measure = Literal["volume", "difficulty", "effort"]


@dataclass(frozen=True)
class Halstead:
    """The four counts and what follows from them. A plan has at least one call, so no count is zero."""

    distinct_operators: int
    distinct_operands: int
    operators: int
    operands: int

    @property
    def length(self) -> int:
        return self.operators + self.operands

    @property
    def vocabulary(self) -> int:
        return self.distinct_operators + self.distinct_operands

    @property
    def volume(self) -> float:
        return self.length * math.log2(self.vocabulary) if self.vocabulary else 0.0

    @property
    def difficulty(self) -> float:
        return self.distinct_operators / 2 * self.operands / self.distinct_operands if self.distinct_operands else 0.0

    @property
    def effort(self) -> float:
        return self.difficulty * self.volume

    def of(self, measure: Measure) -> float:
        """The measure of that name."""
        return {"volume": self.volume, "difficulty": self.difficulty, "effort": self.effort}[measure]


def halstead(plan: Plan) -> Halstead:
    """Count a plan."""
    operators: Counter[str] = Counter()
    operands: Counter[str] = Counter()
    for node in ast.walk(plan.tree):
        operators.update(_operators(node))
        if isinstance(node, ast.Name):
            operands[node.id] += 1
        elif isinstance(node, ast.Constant):
            operands[repr(node.value)] += 1
    return Halstead(len(operators), len(operands), operators.total(), operands.total())


def _operators(node: ast.AST) -> list[str]:
    match node:
        case ast.Call(keywords=keywords):
            return ["call", *(f"{keyword.arg}=" for keyword in keywords)]
        case ast.Assign():
            return ["="]
        case ast.Subscript():
            return ["[]"]
        case ast.Compare(ops=ops):
            return [type(op).__name__ for op in ops]
        case ast.BoolOp(op=op, values=values):
            return [type(op).__name__] * (len(values) - 1)
        case ast.UnaryOp(op=op):
            return [type(op).__name__]
        case ast.If() | ast.For() | ast.List() | ast.Dict() | ast.Pass():
            return [type(node).__name__]
    return []
