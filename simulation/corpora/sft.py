"""Y_SFT: what each agent should have said, as the judge left it, with the prompt that it was asked.

Invariant: only what the judge kept or rewrote is taught (y*), and the verdicts of checks in code.
"""

import json
from collections import Counter
from collections.abc import Iterator

from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain
from agentmill.plans.parse import Plan
from simulation.corpora.rows import TRACES, Candidate, Messages, Row, assistant, lineage
from simulation.corpora.traces import Talk
from simulation.tables import compact


def sft_rows(
    talk: Talk, domain: Domain, run: str, *, rule_verdicts: bool, left_out: Counter[str]
) -> Iterator[Candidate]:
    """The rows that a conversation gives."""
    for call in talk.calls:
        if call["verdict"] == "unjudged":
            left_out["unjudged"] += 1
        else:
            source = "teacher" if call["verdict"] == "keep" else "refined"
            yield _candidate(talk, call["messages"], call["refined"], call["agent"], call, source, run)
        if rule_verdicts and call["agent"] == "planner":
            found = _rule_verdict(call, domain)
            if found is not None:
                yield _candidate(talk, *found, "evaluator", call, "rules", run)


def _rule_verdict(call: Row, domain: Domain) -> tuple[Messages, str] | None:
    """What the Evaluator is asked, and should say, of a recorded plan that breaks the domain's rules alone."""
    system, frame = call["messages"][0]["content"], call["messages"][-1]["content"]
    domain = domain.under(domain.changed_in(parse_frame(frame)))
    codes = json.loads(call["violations_json"] or "[]")
    if not codes or not set(codes) <= {rule.code for rule in domain.rules}:
        return None
    styles = [style for style, texts in domain.prompts.items() if texts["planner"] == system]
    if not styles:
        return None
    asked = [*_state_lines(frame), f"plan: {Plan.parse(call['output']).text}"]
    prompt = [
        {"role": "system", "content": domain.prompts[styles[0]]["evaluator"]},
        {"role": "user", "content": "\n".join(asked)},
    ]
    return prompt, compact({"ok": False, "violations": list(dict.fromkeys(codes))})


def _state_lines(frame: str) -> list[str]:
    """The lines of a Planner's frame but for the refused plan: as the Evaluator sees them above the next plan."""
    return [f"{key}: {value}" for key, value in parse_frame(frame).items() if key != "plan"]


def _candidate(
    talk: Talk, prompt: Messages, completion: str, agent: str, call: Row, source: str, run: str
) -> Candidate:
    origin = lineage(agent=agent, call_id=call["call_id"], sid=talk.sid, source=source, run=run)
    return Candidate({"prompt": prompt, "completion": assistant(completion), **origin}, talk.split, TRACES)
