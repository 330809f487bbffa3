"""The error-free expert, agent by agent: the frame of a prompt -> the right answer, as text.

What is right depends on the frame alone, so the judge can ask the same policy about any recorded call.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentmill.agents.state import DialogueState
from agentmill.domains.automotive.canonical import canonical_plan
from agentmill.domains.automotive.intents import ENTITIES, INTENTS, names_of
from agentmill.domains.automotive.reading import understand
from agentmill.domains.automotive.replies import explain
from agentmill.domains.automotive.rules import RULES
from agentmill.domains.automotive.tools import TOOLS
from agentmill.plans.parse import Plan, PlanError

Frame = Mapping[str, str]
_NOT_TO_CHANGE = ("OPENING_HOURS", "EXECUTION")


def compact(value: Any) -> str:
    """JSON as every agent writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def state_of(frame: Frame) -> DialogueState:
    """The dialogue state that a frame shows."""
    intent = frame.get("intent", "none")
    entities = {name: ENTITIES[name].kind(frame[name]) for name in names_of(intent) if name in frame}
    return DialogueState(intent=intent, entities=entities, confirmed=frame.get("confirmed") == "yes")


def answer(agent: str, frame: Frame) -> str:
    """The right answer of an agent.

    Raises:
        ValueError: for an agent without a policy, or a frame that no such agent gets.
    """
    match agent:
        case "understander":
            return compact(understand(frame))
        case "planner":
            return plan(frame)
        case "evaluator":
            return verdict(frame)
        case "explainer":
            return explain(frame)
        case _:
            raise ValueError(f"agent={agent!r} has no policy; it is one of understander, planner, evaluator, explainer")


def plan(frame: Frame) -> str:
    """The plan for a state; only a check where the refused plan could not be carried out."""
    state = state_of(frame)
    stopped = any(code in frame.get("violation", "") for code in _NOT_TO_CHANGE)
    return canonical_plan(state.intent, state.entities, confirmed=state.confirmed and not stopped)


def verdict(frame: Frame) -> str:
    """Whether the plan in the frame keeps the rules, as far as the frame tells (no opening hours)."""
    codes = broken_rules(frame, frame.get("plan", ""))
    return compact({"ok": not codes, "violations": codes})


def broken_rules(frame: Frame, text: str) -> list[str]:
    """The codes of the rules that a plan breaks in the state that the frame shows."""
    try:
        parsed = Plan.parse(text)
    except PlanError:
        return ["GROUNDED_ARGUMENT"]
    state = state_of(frame)
    return [rule.code for rule in RULES if rule.check(parsed, state, {}) is not None]


def serves(frame: Frame, parsed: Plan) -> bool:
    """Whether every tool of a plan is one of the intent's."""
    allowed = INTENTS[frame["intent"]].tools if frame.get("intent") in INTENTS else tuple(TOOLS)
    return all(call.tool in allowed for call in parsed.calls)
