"""What a judge says of one agent's output: the contract between whoever judges and whoever reads the verdict.

A verdict has named criteria (a fixed set for each agent, every one decided), a severity, the output as it should have
been and the reason. Invariants: `keep` goes with criteria that all hold, and an `edit` has a text; a verdict that
contradicts itself is none. What was refused is told in one sentence, so that the judge can be asked again.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmill.domains.base import Json
from agentmill.models.chat import AgentName
from agentmill.plans.parse import unfenced

Severity = Literal["none", "minor", "major", "critical"]
SEVERITIES: Mapping[Severity, str] = {
    "none": "nothing is wrong",
    "minor": "the form or the wording only; the customer would be served all the same",
    "major": "the customer would get a wrong or an incomplete answer, or be asked what they have said",
    "critical": "the world would be changed wrongly, a rule be broken, or something untrue be told as a fact",
}
_FORMAT = "it is in exactly the agent's form"
CRITERIA: Mapping[AgentName, Mapping[str, str]] = {
    "understander": {
        "format": _FORMAT,
        "intent": "`intent` and `also` are what the customer wants now",
        "entities": "every value that was said is there, right, and nothing was invented",
        "confirmed": "it is true only where the customer agreed to what was just proposed",
        "question": "it asks for the entity that is missing, and for nothing else",
    },
    "planner": {
        "format": "it is a plan of the plan language",
        "tools": "every tool serves the requests",
        "arguments": "the arguments are those of the frame or parts of a result",
        "rules": "every rule is kept, and nothing changes without the customer's confirmation",
        "complete": "it does all that was asked for, and nothing else",
    },
    "evaluator": {
        "format": _FORMAT,
        "codes": "the codes are those of what is wrong with the plan, all of them and no others",
    },
    "explainer": {
        "format": "it is one line of plain text",
        "grounded": "everything that it states stands in the frame",
        "complete": "it tells what the customer needs to know, and proposes or asks where that is due",
        "tone": "it is short, friendly and free of the inner workings",
    },
}
_REASON = 400


class Unreadable(ValueError):
    """An answer is no verdict. `because` tells one that cannot be read from one that contradicts itself."""

    def __init__(self, because: Literal["unreadable", "contradictory"], message: str) -> None:
        super().__init__(message)
        self.because = because


class Judgement(BaseModel):
    """A judge's verdict. `output` is the text as it should have been; "" where it is kept as the agent wrote it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    reason: str = ""
    criteria: dict[str, bool]
    severity: Severity
    verdict: Literal["keep", "edit"]
    output: str


def judgement_schema(agent: AgentName) -> Json:
    """The JSON schema of a verdict on this agent: what is to be decided stands before what follows from it."""
    criteria = {name: {"type": "boolean"} for name in CRITERIA[agent]}
    properties: Json = {
        "reason": {"type": "string", "maxLength": _REASON},
        "criteria": _closed(criteria),
        "severity": {"enum": list(SEVERITIES)},
        "verdict": {"enum": ["keep", "edit"]},
        "output": {"type": "string"},
    }
    return _closed(properties)


def read_judgement(agent: AgentName, text: str) -> Judgement:
    """The verdict in a judge's answer, its criteria in the order of the table.

    Raises:
        Unreadable: when it is no verdict on this agent, or contradicts itself.
    """
    try:
        said = Judgement.model_validate_json(unfenced(text))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "answer"
        raise Unreadable("unreadable", f"{where}: {problem['msg']}") from error
    undecided = [name for name in CRITERIA[agent] if name not in said.criteria]
    if undecided:
        raise Unreadable("unreadable", f"criteria: {', '.join(undecided)} is not decided")
    said.criteria = {name: said.criteria[name] for name in CRITERIA[agent]}
    if said.verdict == "edit" and not said.output.strip():
        raise Unreadable("contradictory", "the verdict is edit and output is empty")
    broken = [name for name, holds in said.criteria.items() if not holds]
    if said.verdict == "keep" and broken:
        raise Unreadable("contradictory", f"the verdict is keep and {', '.join(broken)} does not hold")
    return said


def _closed(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
