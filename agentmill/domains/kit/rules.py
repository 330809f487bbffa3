"""Checks that rules of many packs are made of, and the rules that every pack needs.

A check looks at a parsed plan, the dialogue state and the world's facts, and returns the sentence that tells the
Planner what to do, or None where the rule is kept.
"""

import ast
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Intent, Json, Rule, Tool
from agentmill.plans.check import CONFIRM_FIRST

if TYPE_CHECKING:
    from agentmill.plans.parse import Plan, ToolCall

GROUNDED_ARGUMENT = "GROUNDED_ARGUMENT"
ONE_CHANGE = "ONE_CHANGE"
Tools = Mapping[str, Tool]
_REFERENCES = (ast.Name, ast.Subscript, ast.Attribute)


def changing(plan: "Plan", tools: Tools) -> list[str]:
    """The tools of a plan that change the world, once for each call."""
    return [call.tool for call in plan.calls if call.tool in tools and tools[call.tool].changes]


def proven(call: "ToolCall", tool: str, key: str, *names: str) -> bool:
    """Whether `call` runs only where an earlier `tool`, given the same arguments `names`, said `key`."""
    return any(
        earlier.tool == tool and said == key and all(source(earlier, name) == source(call, name) for name in names)
        for earlier, said in call.proven
    )


def source(call: "ToolCall", name: str) -> str:
    """An argument as it is written in the plan, "" where it is not given."""
    expression = call.arguments.get(name)
    return "" if expression is None else ast.unparse(expression)


def confirm_first(tools: Tools) -> Rule:
    """Nothing that changes the world before the customer has confirmed it."""

    def broken(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
        found = changing(plan, tools)
        if state.confirmed or not found:
            return None
        return f"The customer has not confirmed yet: leave out {found[0]} and only check."

    return Rule(CONFIRM_FIRST, "Nothing changes the world before the customer has confirmed it.", broken)


def one_change(tools: Tools) -> Rule:
    """At most one call that changes the world for each request."""

    def broken(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
        count, requests = len(changing(plan, tools)), max(1, len(state.requests))
        return f"Make only one change for each request, not {count}." if count > requests else None

    return Rule(ONE_CHANGE, "A plan makes at most one change for each request.", broken)


def grounded_arguments(tools: Tools, intents: Mapping[str, Intent], lowered: Collection[str] = ()) -> Rule:
    """Every argument is a tool's result or what the customer said, and nothing that was said is left out.

    In the place of what was said a result stands only under the same name: a car's year is no credit score.
    Of the arguments named in `lowered` less may be given than was asked for, where a limit makes it necessary.
    """

    def broken(plan: "Plan", state: DialogueState, facts: Json) -> str | None:
        known = [intents[name] for name in state.requests if name in intents]
        slots = {slot for intent in known for slot in intent.required + intent.optional}
        said = {name: value for name, value in state.entities.items() if name in slots}
        for call in plan.calls:
            for name, expression in call.arguments.items():
                told = name in said
                if (told and call.value(name) == said[name]) or _from_result(expression, name, told):
                    continue
                if name in lowered and _less(call.value(name), said.get(name)):
                    continue
                return f"{call.tool} gets {name}={ast.unparse(expression)}, which the customer did not say."
            for name in tools[call.tool].parameters if call.tool in tools else ():
                if name in said and name not in call.arguments:
                    return f"Pass {name} to {call.tool}: the customer said it."
        return None

    return Rule(GROUNDED_ARGUMENT, "Arguments are what the customer said, all of it and nothing else.", broken)


def _from_result(expression: ast.expr, name: str, told: bool) -> bool:
    """Whether an argument is taken from a result; what the customer told, only from the part of the same name."""
    if not told:
        return isinstance(expression, _REFERENCES)
    return isinstance(expression, ast.Subscript) and ast.unparse(expression.slice) == repr(name)


def _less(given: object, asked: object) -> bool:
    return isinstance(given, int) and isinstance(asked, int) and 0 <= given < asked
