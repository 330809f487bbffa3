"""The dealership's business rules: each looks at a parsed plan, the dialogue state and the world's facts.

A check returns the sentence that tells the Planner what to do, or None where the rule is kept.
"""

import ast
from typing import TYPE_CHECKING

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.intents import names_of
from agentmill.domains.automotive.tools import TOOLS
from agentmill.domains.base import Json, Rule

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan, ToolCall

_REFERENCES = (ast.Name, ast.Subscript, ast.Attribute)


def _changing(plan: "Plan") -> list[str]:
    return [call.tool for call in plan.calls if call.tool in TOOLS and TOOLS[call.tool].changes]


def _confirm_first(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    changing = _changing(plan)
    if state.confirmed or not changing:
        return None
    return f"The customer has not confirmed yet: leave out {changing[0]} and only check."


def _proven_by(booking: "ToolCall", tool: str, key: str) -> bool:
    """Whether `booking` runs only where `tool`, asked about the same values, said `key`."""
    return any(
        earlier.tool == tool
        and said == key
        and all(_source(earlier, name) == _source(booking, name) for name in TOOLS[tool].parameters)
        for earlier, said in booking.proven
    )


def _source(call: "ToolCall", name: str) -> str:
    expression = call.arguments.get(name)
    return "" if expression is None else ast.unparse(expression)


def _booked_unproven(plan: "Plan", tool: str, key: str) -> bool:
    return any(call.tool == "book_test_drive" and not _proven_by(call, tool, key) for call in plan.calls)


def _licence_check(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    if not _booked_unproven(plan, "verify_licence", "verified"):
        return None
    return 'Call verify_licence for this driver first and book only under if check["verified"].'


def _slot_check(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    if not _booked_unproven(plan, "check_slot", "free"):
        return None
    return 'Call check_slot for this slot first and book only under if slot["free"].'


def _opening_hours(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    hours = facts.get("hours", {})
    for call in plan.calls:
        day, time = call.value("day"), call.value("time")
        if call.tool != "book_test_drive" or day not in hours or not isinstance(time, str):
            continue
        if hours[day] is None or not hours[day][0] <= time < hours[day][1]:
            return f"The dealership is closed on {day} at {time}: leave out book_test_drive and only check the slot."
    return None


def _grounded_argument(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    said = {name: state.entities[name] for name in names_of(state.intent) if name in state.entities}
    for call in plan.calls:
        for name, expression in call.arguments.items():
            if isinstance(expression, _REFERENCES) or (name in said and call.value(name) == said[name]):
                continue
            return f"{call.tool} gets {name}={ast.unparse(expression)}, which the customer did not say."
        for name in TOOLS[call.tool].parameters if call.tool in TOOLS else ():
            if name in said and name not in call.arguments:
                return f"Pass {name} to {call.tool}: the customer said it."
    return None


def _one_change(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
    count = len(_changing(plan))
    return f"Make only one change in a plan, not {count}." if count > 1 else None


RULES: tuple[Rule, ...] = (
    Rule("CONFIRM_FIRST", "Nothing changes the world before the customer has confirmed it.", _confirm_first),
    Rule("LICENCE_CHECK", "A test drive is booked only under an if on verify_licence's verified.", _licence_check),
    Rule("SLOT_CHECK", "A test drive is booked only under an if on check_slot's free.", _slot_check),
    Rule("OPENING_HOURS", "Test drives are booked inside the opening hours.", _opening_hours),
    Rule("GROUNDED_ARGUMENT", "Arguments are what the customer said, all of it and nothing else.", _grounded_argument),
    Rule("ONE_CHANGE", "A plan makes at most one change.", _one_change),
)
