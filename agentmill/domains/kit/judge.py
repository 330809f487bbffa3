"""The judge J in code: keeps an agent's output or writes it as it should have been.

An output is compared with what the error-free expert says for the same prompt, up to what does not matter: the order
of JSON keys, the names of variables in a plan, the wording of a reply that states the same facts and no others.
Invariant: what it returns as `output` is right and in the agent's exact format.
"""

import json
from typing import Any

from agentmill.agents.frames import parse_frame
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.policy import Frame, compact
from agentmill.domains.kit.rules import GROUNDED_ARGUMENT
from agentmill.plans.compare import equivalent
from agentmill.plans.parse import Plan, PlanError

Criteria = tuple[dict[str, bool], str]


def judge(answers: Answers, frame: Frame) -> str:
    """The judge's verdict on {"agent", "prompt", "output"} (JSON strings where they are JSON) as JSON text."""
    agent, prompt, output = frame["agent"], parse_frame(json.loads(frame["prompt"])), json.loads(frame["output"])
    right = answers.answer(agent, prompt)
    criteria, reason = _CRITERIA[agent](answers, prompt, output, right)
    keep = all(criteria.values())
    if keep and output.split() == right.split():
        output = right  # a frame folds runs of spaces, and with them a plan's indentation
    return compact(
        {
            "verdict": "keep" if keep else "edit",
            "output": output if keep else right,
            "criteria": criteria,
            "reason": "right and complete" if keep else reason,
        }
    )


def _understander(answers: Answers, prompt: Frame, output: str, right: str) -> Criteria:
    heard, expected = _object(output), json.loads(right)
    if heard is not None and heard.get("also") == []:
        del heard["also"]  # as good as left out
    if heard is None or heard.keys() != expected.keys():
        return _criteria(format=False), "not the object that was asked for"
    wrong = [name for name in expected if heard[name] != expected[name]]
    entities = heard["entities"] if isinstance(heard["entities"], dict) else {}
    invented = [name for name in entities if name not in expected["entities"]]
    ordered = compact(heard) == right if not wrong else True
    return _criteria(format=ordered, correct=not wrong, grounded=not invented), f"wrong: {', '.join(wrong) or 'order'}"


def _planner(answers: Answers, prompt: Frame, output: str, right: str) -> Criteria:
    try:
        parsed = Plan.parse(output)
    except PlanError as error:
        return _criteria(format=False), str(error)
    if equivalent(parsed, Plan.parse(right)):
        return _criteria(), ""
    codes = answers.broken(prompt, output)
    served = answers.serves(prompt, parsed)
    problem = (", ".join(codes) if served else "a wrong tool") or "another plan than is due"
    return _criteria(correct=False, grounded=GROUNDED_ARGUMENT not in codes), problem


def _evaluator(answers: Answers, prompt: Frame, output: str, right: str) -> Criteria:
    said, expected = _object(output), json.loads(right)
    if said is None or said.keys() != expected.keys():
        return _criteria(format=False), "not the object that was asked for"
    return _criteria(correct=said == expected), f"violations are {expected['violations']}"


def _explainer(answers: Answers, prompt: Frame, output: str, right: str) -> Criteria:
    if not output.strip() or "\n" in output.strip():
        return _criteria(format=False), "not one line"
    grounding = answers.policy.grounding
    invented = grounding.ungrounded(output, answers.context(prompt))
    if invented:
        return _criteria(grounded=False), f"not grounded: {', '.join(invented)}"
    said = set(grounding.facts_of(output))
    missing = [fact for fact in grounding.facts_of(right) if fact not in said]
    asks = output.rstrip().endswith("?") == right.endswith("?")
    reason = f"missing: {', '.join(missing)}" if missing else "asks where it should answer, or the other way round"
    return _criteria(correct=not missing and asks), reason


def _criteria(*, format: bool = True, correct: bool = True, grounded: bool = True) -> dict[str, bool]:
    return {"format": format, "correct": correct and format, "grounded": grounded and format}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


_CRITERIA = {
    "understander": _understander,
    "planner": _planner,
    "evaluator": _evaluator,
    "explainer": _explainer,
}
