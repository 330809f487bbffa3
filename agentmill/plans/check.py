"""What is wrong with a plan before it runs: names, signatures and types, then the confirmation and the domain's rules.

A violation has a code and a sentence that the Planner can act on. Types of written-out arguments are checked against
the tools' own annotations; values that are known only at run time are checked at the sandbox's boundary again.
Nothing that changes the world passes without the customer's confirmation, whatever the domain's rules say.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from agentmill.config import nearest
from agentmill.domains.base import Domain, Json, Tool, Violation
from agentmill.plans.parse import NOT_LITERAL, Plan, ToolCall

if TYPE_CHECKING:
    from agentmill.agents.state import DialogueState

CONFIRM_FIRST = "CONFIRM_FIRST"


@lru_cache(maxsize=1024)
def arguments_model(tool: Tool) -> type[BaseModel]:
    """The strict model of a tool's arguments: no unknown name, no value guessed from another type."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in tool.parameters.items()
    }
    config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    return create_model(tool.name, __config__=config, **fields)


def check(plan: Plan, domain: Domain, state: "DialogueState", facts: Json) -> list[Violation]:
    """Everything that is wrong with `plan` in `state`; an empty list lets it run.

    Rules are asked only when names, signatures and types are right, so that they may rely on them. Tools and rules are
    those that hold with the state's switches in force.
    """
    domain = domain.under(state.switches)
    violations = [*_names(plan, domain), *_tools(plan, domain, state)]
    if violations:
        return violations
    violations = list(_unconfirmed(plan, domain.tools, state))
    for rule in domain.rules:
        sentence = rule.check(plan, state, facts)
        if sentence is not None and all(found.code != rule.code for found in violations):
            violations.append(Violation(code=rule.code, message=sentence))
    return violations


def _names(plan: Plan, domain: Domain) -> Iterator[Violation]:
    called = {id(call.node.func) for call in plan.calls}
    stored = {n.id for n in ast.walk(plan.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for name in sorted(stored & set(domain.tools)):
        yield Violation(code="SHADOWED_TOOL", message=f"{name} is a tool; give the variable another name")
    for node in ast.walk(plan.tree):
        if isinstance(node, ast.Name) and id(node) not in called and node.id not in stored:
            yield Violation(code="UNKNOWN_NAME", message=f"{node.id} is not assigned before it is used")


def _tools(plan: Plan, domain: Domain, state: "DialogueState") -> Iterator[Violation]:
    allowed = domain.tools_of(state.requests) or tuple(domain.tools)
    for call in plan.calls:
        if call.tool not in domain.tools:
            close = nearest(call.tool, allowed)
            hint = f"did you mean {close}?" if close else f"use one of {', '.join(allowed)}"
            yield Violation(code="UNKNOWN_TOOL", message=f"there is no tool {call.tool}; {hint}")
        elif call.tool not in allowed:
            sentence = f"{call.tool} does not serve {' and '.join(state.requests)}; use one of {', '.join(allowed)}"
            yield Violation(code="WRONG_TOOL", message=sentence)
        else:
            yield from _signature(call, domain.tools[call.tool])


def _signature(call: ToolCall, tool: Tool) -> Iterator[Violation]:
    """Check every written-out argument; one that is known only at run time counts as given and right."""
    later = {name for name in call.arguments if call.value(name) is NOT_LITERAL}
    given = {name: call.value(name) for name in call.arguments if name not in later}
    for name in later - set(tool.parameters):
        yield Violation(code="UNKNOWN_ARGUMENT", message=f"{tool.name} has no argument {name}")
    try:
        arguments_model(tool).model_validate(given)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            name = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                yield Violation(code="UNKNOWN_ARGUMENT", message=f"{tool.name} has no argument {name}")
            elif problem["type"] == "missing" and len(problem["loc"]) == 1:
                if name not in later:
                    yield Violation(code="MISSING_ARGUMENT", message=f"{tool.name} needs the argument {name}")
            else:
                sentence = f"{tool.name} got {name}={given[name]!r}: {problem['msg']}"
                yield Violation(code="WRONG_TYPE", message=sentence)


def _unconfirmed(plan: Plan, tools: Mapping[str, Tool], state: "DialogueState") -> Iterator[Violation]:
    changing = [call.tool for call in plan.calls if tools[call.tool].changes]
    if changing and not state.confirmed:
        sentence = f"The customer has not confirmed yet: leave out {changing[0]} and only check."
        yield Violation(code=CONFIRM_FIRST, message=sentence)
