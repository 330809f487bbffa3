"""The dealership's business rules: each looks at a parsed plan, the dialogue state and the world's facts.

A check returns the sentence that tells the Planner what to do, or None. What a call is guarded by are the conditions
that must hold for it to run: the conjuncts of every enclosing `if`, as (tool whose result is tested, key) pairs.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.intents import names_of
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.base import Json, Rule

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan

_MISSING = object()


@dataclass(frozen=True)
class GuardedCall:
    """One tool call in a plan: its tool, its keyword arguments and what must hold for it to run."""

    tool: str
    arguments: dict[str, ast.expr]
    guards: frozenset[tuple[str, str]]

    def literal(self, name: str) -> Any:
        """The argument's value where it is written out, else a marker that equals nothing."""
        try:
            return ast.literal_eval(self.arguments[name])
        except (KeyError, ValueError):
            return _MISSING


def guarded_calls(tree: ast.Module) -> list[GuardedCall]:
    """Every tool call of the plan, in order, with its guards."""
    return list(_calls(tree.body, frozenset(), {}))


def _calls(
    body: list[ast.stmt], guards: frozenset[tuple[str, str]], assigned: dict[str, str]
) -> Iterator[GuardedCall]:
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _calls_in(statement.test, guards)
            held = guards | frozenset(_conjuncts(statement.test, assigned))
            yield from _calls(statement.body, held, dict(assigned))
            yield from _calls(statement.orelse, guards, dict(assigned))
        elif isinstance(statement, ast.For):
            yield from _calls_in(statement.iter, guards)
            yield from _calls(statement.body, guards, dict(assigned))
        else:
            yield from _calls_in(statement, guards)
            if isinstance(statement, ast.Assign):
                _assign(statement, assigned)


def _assign(statement: ast.Assign, assigned: dict[str, str]) -> None:
    value = statement.value
    for target in statement.targets:
        if isinstance(target, ast.Name):
            assigned.pop(target.id, None)
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                assigned[target.id] = value.func.id


def _calls_in(node: ast.AST, guards: frozenset[tuple[str, str]]) -> Iterator[GuardedCall]:
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            arguments = {keyword.arg: keyword.value for keyword in part.keywords if keyword.arg}
            yield GuardedCall(part.func.id, arguments, guards)


def _conjuncts(test: ast.expr, assigned: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The (tool, key) pairs that are true wherever `test` is true."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for value in test.values:
            yield from _conjuncts(value, assigned)
    elif isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        other = test.comparators[0]
        if isinstance(other, ast.Constant) and other.value is True:
            yield from _conjuncts(test.left, assigned)
    elif isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name):
        if test.value.id in assigned:
            yield assigned[test.value.id], test.attr
    elif isinstance(test, ast.Subscript) and isinstance(test.value, ast.Name):
        key = test.slice.value if isinstance(test.slice, ast.Constant) else None
        if test.value.id in assigned and isinstance(key, str):
            yield assigned[test.value.id], key


def _confirm_first(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    if state.confirmed:
        return None
    for call in guarded_calls(plan.tree):
        if call.tool in TOOLS and TOOLS[call.tool].changes:
            return f"The customer has not confirmed yet: leave out {call.tool} and only check."
    return None


def _booking_guard(plan: "Plan", tool: str, key: str, variable: str) -> str | None:
    for call in guarded_calls(plan.tree):
        if call.tool == "book_test_drive" and (tool, key) not in call.guards:
            return f'Call {tool} first and book only under if {variable}["{key}"].'
    return None


def _licence_check(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    return _booking_guard(plan, "verify_licence", "verified", "check")


def _slot_check(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    return _booking_guard(plan, "check_slot", "free", "slot")


def _opening_hours(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    hours = facts.get("hours", {})
    for call in guarded_calls(plan.tree):
        day, time = call.literal("day"), call.literal("time")
        if call.tool != "book_test_drive" or day not in hours or not isinstance(time, str):
            continue
        if hours[day] is None or not hours[day][0] <= time < hours[day][1]:
            return f"The dealership is closed on {day} at {time}: leave out book_test_drive and only check the slot."
    return None


def _grounded_argument(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    relevant = {name: state.entities[name] for name in names_of(state.intent) if name in state.entities}
    for call in guarded_calls(plan.tree):
        if call.tool not in TOOLS:
            continue
        for name, expression in call.arguments.items():
            if isinstance(expression, ast.Constant | ast.UnaryOp | ast.List | ast.Dict):
                if call.literal(name) != relevant.get(name, _MISSING):
                    return f"{call.tool} gets {name}={ast.unparse(expression)}, which the customer did not say."
        for name in TOOLS[call.tool].parameters:
            if name in relevant and name not in call.arguments:
                return f"Pass {name} to {call.tool}: the customer said it."
    return None


def _one_change(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    changing = [call.tool for call in guarded_calls(plan.tree) if call.tool in TOOLS and TOOLS[call.tool].changes]
    return f"Make only one change in a plan, not {len(changing)}." if len(changing) > 1 else None


RULES: tuple[Rule, ...] = (
    Rule("CONFIRM_FIRST", "Nothing changes the world before the customer has confirmed it.", _confirm_first),
    Rule("LICENCE_CHECK", "A test drive is booked only under an if on verify_licence's verified.", _licence_check),
    Rule("SLOT_CHECK", "A test drive is booked only under an if on check_slot's free.", _slot_check),
    Rule("OPENING_HOURS", "Test drives are booked inside the opening hours.", _opening_hours),
    Rule("GROUNDED_ARGUMENT", "Arguments are what the customer said, all of it and nothing else.", _grounded_argument),
    Rule("ONE_CHANGE", "A plan makes at most one change.", _one_change),
)
