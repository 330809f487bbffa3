"""The judge J in code: keeps an agent's output or writes it as it should have been.

An output is compared with what the error-free expert says for the same prompt, up to what does not matter: the order
of JSON keys, the names of variables in a plan, the wording of a reply that states the same facts and no others.
Invariant: what it returns as `output` is right and in the agent's exact format.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentmill.agents.frames import parse_frame
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.policy import Frame, compact
from agentmill.domains.kit.rules import GROUNDED_ARGUMENT
from agentmill.judgement import CRITERIA, Severity
from agentmill.models.chat import AgentName
from agentmill.plans.check import CONFIRM_FIRST
from agentmill.plans.compare import calls_of, equivalent
from agentmill.plans.parse import Plan, PlanError

_TOOLS = ("UNKNOWN_TOOL", "WRONG_TOOL", "SHADOWED_TOOL", "UNKNOWN_NAME")
_ARGUMENTS = ("UNKNOWN_ARGUMENT", "MISSING_ARGUMENT", "WRONG_TYPE", GROUNDED_ARGUMENT)
_INNER = re.compile(r"[{}]|\b[a-z]+_[a-z_]+\b|\b[A-Z]+_[A-Z_]+\b")  # JSON, names of tools, codes


@dataclass(frozen=True)
class Found:
    """What is wrong with an output: the criteria that do not hold, how bad that is and why."""

    wrong: frozenset[str] = frozenset()
    severity: Severity = "none"
    reason: str = field(default="right and complete")


_RIGHT = Found()


def judge(answers: Answers, frame: Frame) -> str:
    """The judge's verdict on {"agent", "prompt", "output"} (JSON strings where they are JSON) as JSON text."""
    agent: AgentName = frame["agent"]  # type: ignore[assignment]
    prompt, output = parse_frame(json.loads(frame["prompt"])), json.loads(frame["output"])
    right = answers.answer(agent, prompt)
    found = _JUDGES[agent](answers, prompt, output, right)
    keep = not found.wrong
    if keep and output.split() == right.split():
        output = right  # a frame folds runs of spaces, and with them a plan's indentation
    return compact(
        {
            "reason": found.reason,
            "criteria": {name: name not in found.wrong for name in CRITERIA[agent]},
            "severity": found.severity,
            "verdict": "keep" if keep else "edit",
            "output": output if keep else right,
        }
    )


def _unusable(agent: AgentName, reason: str) -> Found:
    """An output that is not in the agent's form at all: nothing else of it holds either."""
    return Found(frozenset(CRITERIA[agent]), "major", reason)


def _understander(answers: Answers, prompt: Frame, output: str, right: str) -> Found:
    heard, expected = _object(output), json.loads(right)
    if heard is not None and heard.get("also") == []:
        del heard["also"]  # as good as left out
    if heard is None or heard.keys() - {"also"} != expected.keys() - {"also"}:
        return _unusable("understander", "not the object that was asked for")
    names = ("intent", "entities", "confirmed", "question")
    wrong = {name for name in names if heard[name] != expected[name]}
    if heard.get("also") != expected.get("also"):
        wrong.add("intent")
    if wrong:
        bad = bool(heard["confirmed"]) and not expected["confirmed"]
        ordered = [name for name in names if name in wrong]
        return Found(frozenset(wrong), "critical" if bad else "major", f"wrong: {', '.join(ordered)}")
    if compact(heard) != right:
        return Found(frozenset(("format",)), "minor", "wrong: order")
    return _RIGHT


def _planner(answers: Answers, prompt: Frame, output: str, right: str) -> Found:
    try:
        parsed = Plan.parse(output)
    except PlanError as error:
        return _unusable("planner", str(error))
    due = Plan.parse(right)
    if equivalent(parsed, due):
        return _RIGHT
    codes, made, wanted = answers.broken(prompt, output), calls_of(parsed), calls_of(due)
    wrong = {"tools"} if not answers.serves(prompt, parsed) else set()
    wrong |= {"arguments" for code in codes if code in _ARGUMENTS}
    wrong |= {"rules" for code in codes if code not in (*_TOOLS, *_ARGUMENTS)}
    if made != wanted or not wrong:
        wrong.add("complete")
    tools = answers.domain_of(prompt).tools
    changes = any(tools[call.tool].changes for call in parsed.calls if call.tool in tools)
    bad = "rules" in wrong or CONFIRM_FIRST in codes or (changes and "arguments" in wrong)
    reason = ", ".join(codes) or ("a wrong tool" if "tools" in wrong else "another plan than is due")
    return Found(frozenset(wrong), "critical" if bad else "major", reason)


def _evaluator(answers: Answers, prompt: Frame, output: str, right: str) -> Found:
    said, expected = _object(output), json.loads(right)
    if said is None or said.keys() != expected.keys():
        return _unusable("evaluator", "not the object that was asked for")
    if said == expected:
        return _RIGHT
    severity: Severity = "critical" if said["ok"] else "major"  # a bad plan let through, a good one sent back
    return Found(frozenset(("codes",)), severity, f"violations are {expected['violations']}")


def _explainer(answers: Answers, prompt: Frame, output: str, right: str) -> Found:
    if not output.strip() or "\n" in output.strip():
        return _unusable("explainer", "not one line")
    grounding = answers.policy.grounding
    invented = grounding.ungrounded(output, answers.context(prompt))
    if invented:
        return Found(frozenset(("grounded",)), "critical", f"not grounded: {', '.join(invented)}")
    said = set(grounding.facts_of(output))
    missing = [fact for fact in grounding.facts_of(right) if fact not in said]
    if missing:
        return Found(frozenset(("complete",)), "major", f"missing: {', '.join(missing)}")
    if output.rstrip().endswith("?") != right.endswith("?"):
        return Found(frozenset(("complete",)), "major", "asks where it should answer, or the other way round")
    if _INNER.search(output) and not _INNER.search(right):
        return Found(frozenset(("tone",)), "minor", "shows the inner workings")
    return _RIGHT


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


_JUDGES: dict[str, Callable[[Answers, Frame, str, str], Found]] = {
    "understander": _understander,
    "planner": _planner,
    "evaluator": _evaluator,
    "explainer": _explainer,
}
