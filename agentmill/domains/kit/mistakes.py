"""What an expert teacher gets wrong on purpose, so that the Evaluator has something to catch and the judge to refine.

    wrong_entity        the Understander hears another value, or does not hear it
    wrong_tool          the Planner calls a tool that does not serve the request
    missing_check       the Planner drops what guards a change; the Evaluator overlooks what is wrong
    incomplete          the Planner leaves out a call that is due and that no rule asks for
    needless            the Planner adds a harmless call that nobody asked for
    outdated            the Planner plans as if the business had not changed
    ungrounded_sentence the Explainer says what it was not told

All are made from the right answer and the domain's tables. Invariant: a mistake is one, never another right answer;
`spoil` gives None where an answer offers none. Whether the checks catch a mistake is theirs to say.
"""

import ast
import json
import random
from collections.abc import Mapping
from typing import Any, Literal

from agentmill.agents.state import DialogueState, Understanding
from agentmill.domains.base import Entity, Tool
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.policy import Frame, compact
from agentmill.domains.kit.writing import call, written
from agentmill.plans.compare import equivalent
from agentmill.plans.parse import Plan

Kind = Literal[
    "wrong_entity", "wrong_tool", "missing_check", "incomplete", "needless", "outdated", "ungrounded_sentence"
]  # fmt: skip
_PLANNED: dict[Kind, int] = {"missing_check": 12, "wrong_tool": 3, "incomplete": 3, "needless": 2}
_AFTER_A_CHANGE: dict[Kind, int] = {**_PLANNED, "outdated": 20}
_DRAWS = 8


class Mistakes:
    """The mistakes that one domain offers."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def spoil(self, agent: str, frame: Frame, right: str, rng: random.Random) -> tuple[Kind, str] | None:
        """A wrong answer made from the right one, with its kind."""
        match agent:
            case "understander":
                return self._wrong_entity(frame, right, rng)
            case "planner":
                return self._wrong_plan(frame, right, rng)
            case "evaluator":
                return None if json.loads(right)["ok"] else ("missing_check", compact({"ok": True, "violations": []}))
            case "explainer":
                return self._ungrounded(frame, right, rng)
        return None

    def _wrong_entity(self, frame: Frame, right: str, rng: random.Random) -> tuple[Kind, str] | None:
        heard, state, domain = json.loads(right), self.answers.state_of(frame), self.answers.domain
        names = list(heard["entities"])
        for name in rng.sample(names, len(names)):
            entities = dict(heard["entities"])
            value = _other_value(domain.entities[name], entities.pop(name), state, rng)
            if value is not None:
                entities = {key: value if key == name else kept for key, kept in heard["entities"].items()}
            wrong = {**heard, "entities": entities}
            if self._understood(state, wrong) != self._understood(state, heard):
                return "wrong_entity", compact(wrong)
        return None

    def _understood(self, state: DialogueState, heard: dict[str, Any]) -> tuple[Any, ...]:
        after = state.updated(Understanding.model_validate(heard), self.answers.domain)
        return after.requests, after.entities, after.confirmed

    def _wrong_plan(self, frame: Frame, right: str, rng: random.Random) -> tuple[Kind, str] | None:
        kinds = dict(_AFTER_A_CHANGE if "changes" in frame else _PLANNED)
        while kinds:
            kind = rng.choices(list(kinds), weights=list(kinds.values()))[0]
            del kinds[kind]
            candidates = {
                "missing_check": self._unguarded,
                "wrong_tool": self._wrong_tools,
                "incomplete": self._incomplete,
                "needless": self._needless,
                "outdated": self._outdated,
            }[kind](frame, right)
            if candidates:
                return kind, rng.choice(candidates)
        return None

    def _wrong_tools(self, frame: Frame, right: str) -> list[str]:
        state, domain = self.answers.state_of(frame), self.answers.domain_of(frame)
        allowed = domain.tools_of(state.requests)
        others = [tool for name, tool in sorted(domain.tools.items()) if name not in allowed and not tool.changes]
        return [f"found = {call(tool.name, state.entities, *tool.parameters)}" for tool in others]

    def _unguarded(self, frame: Frame, right: str) -> list[str]:
        """The plan without one part of the condition of a change, nor the check that it asks about."""
        tools = self.answers.domain_of(frame).tools
        guards = [node for node in ast.walk(ast.parse(right)) if isinstance(node, ast.If) and _changes(node, tools)]
        parts = [(place, part) for place, guard in enumerate(guards) for part in range(len(_parts(guard.test)))]
        return [_without_part(right, place, part, tools) for place, part in parts]

    def _outdated(self, frame: Frame, right: str) -> list[str]:
        """The plan that was due before the business changed, where it is another one."""
        before = {name: text for name, text in frame.items() if name != "changes"}
        plan = self.answers.plan(before)
        return [] if equivalent(Plan.parse(plan), Plan.parse(right)) else [plan]

    def _incomplete(self, frame: Frame, right: str) -> list[str]:
        calls = len(Plan.parse(right).calls)
        texts = [_without_call(right, place) for place in range(calls)] if calls > 1 else []
        return [text for text in texts if text and self._judged_only(frame, text)]

    def _needless(self, frame: Frame, right: str) -> list[str]:
        state, plan, domain = self.answers.state_of(frame), Plan.parse(right), self.answers.domain_of(frame)
        offered = [domain.tools[name] for name in domain.tools_of(state.requests)]
        able = [
            tool
            for tool in offered
            if not tool.changes
            and all(p.default is not p.empty or name in state.entities for name, p in tool.parameters.items())
        ]
        called = {made.tool for made in plan.calls}
        fresh = [tool for tool in able if tool.name not in called]
        texts = [f"{right}\nextra = {call(tool.name, state.entities, *tool.parameters)}" for tool in fresh or able]
        return [text for text in texts if self._judged_only(frame, text)]

    def _judged_only(self, frame: Frame, text: str) -> bool:
        """Whether a plan passes every check and is not the one that is due."""
        return (
            not self.answers.broken(frame, text) and not json.loads(self.answers.verdict({**frame, "plan": text}))["ok"]
        )

    def _ungrounded(self, frame: Frame, right: str, rng: random.Random) -> tuple[Kind, str] | None:
        for _ in range(_DRAWS):
            text = f"{right} {_invented(rng)}"
            if self.answers.policy.grounding.ungrounded(text, self.answers.context(frame)):
                return "ungrounded_sentence", text
        return None


def _changes(guard: ast.If, tools: Mapping[str, Tool]) -> bool:
    names = {node.func.id for node in ast.walk(guard) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return any(name in tools and tools[name].changes for name in names)


def _without_part(right: str, place: int, part: int, tools: Mapping[str, Tool]) -> str:
    """The plan without one part of the condition of a change, nor what that part was about."""
    tree = ast.parse(right)
    guard = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _changes(node, tools)][place]
    kept = _parts(guard.test)
    dropped = kept.pop(part)
    if kept:
        guard.test = ast.BoolOp(ast.And(), kept) if len(kept) > 1 else kept[0]
        body = tree.body
    else:
        body = _replaced(tree.body, guard, guard.body)
    gone = _variables(dropped) - {name for node in body for name in _used(node)}
    return written([node for node in body if _assigned(node) not in gone], right)


def _other_value(entity: Entity, value: Any, state: DialogueState, rng: random.Random) -> Any:
    """Another value of the same kind; None for what only the customer can say, which is then not heard."""
    if entity.choices:
        others: list[Any] = [choice for choice in entity.choices if choice != value]
    elif isinstance(value, bool):
        others = [not value]
    elif isinstance(value, int | float):
        others = [value + 1, value + 2, value * 10 or 5]
    else:
        others = [other for other in state.memory.get(entity.name, []) if other != value]
    return rng.choice(others) if others else None


def _parts(test: ast.expr) -> list[ast.expr]:
    return list(test.values) if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


def _variables(expression: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def _used(node: ast.AST) -> set[str]:
    called = {id(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
    loads = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load))
    return {part.id for part in loads if id(part) not in called}


def _assigned(node: ast.stmt) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else ""


def _replaced(body: list[ast.stmt], old: ast.stmt, new: list[ast.stmt]) -> list[ast.stmt]:
    """The statements with `new` in the place of `old`, wherever it is nested; an emptied block goes with it."""
    done: list[ast.stmt] = []
    for node in body:
        if node is old:
            done += new
            continue
        if isinstance(node, ast.If):
            node.orelse = _replaced(node.orelse, old, new)
        if isinstance(node, ast.If | ast.For):
            node.body = _replaced(node.body, old, new)
            if not node.body:
                continue
        done.append(node)
    return done


def _without_call(right: str, place: int) -> str:
    """The plan without one of its calls; "" where others need its result."""
    tree = ast.parse(right)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.Expr) and isinstance(n.value, ast.Call)]
    left_out = calls[place]
    body = _replaced(tree.body, left_out, [])
    needed = {name for node in body for name in _used(node)}
    return "" if _assigned(left_out) in needed else written(body, right)


def _invented(rng: random.Random) -> str:
    price, phone, days = rng.randint(2, 40) * 50, rng.randint(1000, 9999), rng.choice((12, 24, 36))
    return rng.choice(
        (
            f"This offer ends in {days} days.",
            f"This week there is ${price} off.",
            f"Call us on 555-{phone} for more.",
            f"Ask for Gregor, who has {rng.randint(3, 30)} years of experience.",
        )
    )
