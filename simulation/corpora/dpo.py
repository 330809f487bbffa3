"""Z_DPO: triples of a prompt, what should have been said (y*) and what was said (y), where the two really differ.

Texts are compared by what they mean: plans up to the names of their variables, JSON by value, replies word for word.
Invariant: no pair whose two sides mean the same, none whose better side the judge could not vouch for, and none whose
worse side a second judge found good.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agentmill.agents.frames import fold
from agentmill.plans.parse import unfenced
from simulation.corpora.rows import TRACES, Candidate, assistant, lineage
from simulation.corpora.traces import Talk
from simulation.metrics import same_plan, same_verdict


def dpo_rows(talk: Talk, run: str, left_out: Counter[str]) -> Iterator[Candidate]:
    """The pairs that the judge made of a conversation's calls."""
    for call in talk.calls:
        if call["verdict"] != "edit":
            continue
        if call["second_verdict"] == "keep":
            left_out["the second judge kept it"] += 1
            continue
        if not differ(call["agent"], call["refined"], call["output"]):
            left_out["no real difference"] += 1
            continue
        if not call["output"].strip():
            left_out["nothing was said"] += 1
            continue
        sides = {"chosen": assistant(call["refined"]), "rejected": assistant(call["output"])}
        origin = lineage(agent=call["agent"], call_id=call["call_id"], sid=talk.sid, source="judge", run=run)
        yield Candidate({"prompt": call["messages"], **sides, **origin}, talk.split, TRACES)


def differ(agent: str, better: str, worse: str) -> bool:
    """Whether two outputs of an agent differ in more than their form."""
    if agent == "planner":
        return not same_plan(better, worse)
    if agent == "evaluator":
        return not same_verdict(better, worse)
    if agent == "understander":
        first, second = _value(better), _value(worse)
        return first is None or second is None or first != second
    return fold(better) != fold(worse)


def _value(text: str) -> Any:
    """The JSON of an understanding in a form in which 1, 1.0 and true are three values; None where it is none."""
    try:
        return json.dumps(json.loads(unfenced(text)), sort_keys=True)
    except json.JSONDecodeError:
        return None
