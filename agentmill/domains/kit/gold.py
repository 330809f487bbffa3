"""What is known for certain about a recorded prompt: outputs with their right verdicts, and what a customer has said.

A gold case is the error-free answer, the same in other words where the form allows it, or that answer with one of the
deliberate mistakes. A judge is measured by them. Invariant: the cases of a prompt depend on it and the seed alone.
"""

import ast
import json
import random
from collections.abc import Sequence

from agentmill.agents.evaluator import JUDGED
from agentmill.agents.frames import parse_frame, render_frame
from agentmill.agents.understander import reply_tail
from agentmill.domains.base import GoldCase, Json
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.mistakes import Mistakes
from agentmill.domains.kit.policy import compact
from agentmill.models.chat import AgentName

FALSE_ALARM = "false_alarm"


def gold(answers: Answers, agent: AgentName, frame: str, seed: int) -> list[GoldCase]:
    """The cases of one recorded prompt: right ones first."""
    rng = random.Random(f"gold {seed} {agent} {frame}")
    fields = parse_frame(frame)
    right = answers.answer(agent, fields)
    cases = [GoldCase(agent, frame, right, right)]
    if agent == "planner":
        cases.append(GoldCase(agent, frame, renamed(right), right))
    spoiled = Mistakes(answers).spoil(agent, fields, right, rng)
    if spoiled is not None:
        cases.append(GoldCase(agent, frame, spoiled[1], right, spoiled[0]))
    elif agent == "evaluator" and json.loads(right)["ok"]:
        code = rng.choice([*(rule.code for rule in answers.domain_of(fields).rules), *JUDGED])
        cases.append(GoldCase(agent, frame, compact({"ok": False, "violations": [code]}), right, FALSE_ALARM))
    return cases


def renamed(plan: str) -> str:
    """The same plan with other names for its variables."""
    tree = ast.parse(plan)
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = f"the_{node.id}"
    return ast.unparse(tree)


def heard(answers: Answers, utterance: str, before: Sequence[str], assistant: str) -> Json:
    """What a customer says with an utterance, as the error-free Understander hears it without any memory."""
    fields: Json = {"intent": before[0] if before else "none"}
    if before[1:]:
        fields["also"] = ", ".join(before[1:])
    fields |= {"assistant": reply_tail(assistant), "customer": utterance}
    return answers.policy.understand(parse_frame(render_frame(fields)))
