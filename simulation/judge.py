"""The judge J: reads one agent's output and keeps it, or writes it as it should have been (y -> y*).

In goes a recorded call; out comes Judged: verdict, refined output, reason, criteria. Invariant: a judge that does not
answer, or whose answer cannot be read, gives `unjudged` with the reason. That is a status of its own: never a score
and never a silent drop.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmill.agents.asking import derived_seed
from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain
from agentmill.models.chat import AgentName, ChatModel, ChatReply, ChatRequest, Message, ModelError, Sampling
from agentmill.plans.parse import unfenced
from simulation.models import ModelSettings
from simulation.tables import compact

Verdict = Literal["keep", "edit", "unjudged"]
TRAINABLE: tuple[AgentName, ...] = ("understander", "planner", "evaluator", "explainer")


class Judgement(BaseModel):
    """What the judge's JSON must be. `output` is the refined output, the same as it was where it is kept."""

    model_config = ConfigDict(extra="ignore")

    verdict: Literal["keep", "edit"]
    output: str
    reason: str = ""
    criteria: dict[str, bool | int | float | str] = {}


@dataclass(frozen=True)
class Judged:
    """The judge's word on one output. `refined` is "" and `reason` says why where it is unjudged.

    `failed` tells a judge that did not do its work from an output that it read and could not be used.
    """

    verdict: Verdict
    refined: str = ""
    reason: str = ""
    criteria: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


class Judge:
    """Asks the judge's model, a bounded number of times."""

    def __init__(
        self, domain: Domain, model: ChatModel, settings: ModelSettings, *, attempts: int, max_tokens: int
    ) -> None:
        self.domain = domain
        self.model = model
        self.settings = settings
        self.attempts = attempts
        self.max_tokens = max_tokens

    async def judge(self, agent: AgentName, prompt: str, output: str, *, seed: int = 0, truth: str = "") -> Judged:
        """Judge the output that `agent` gave for the user frame `prompt`; `truth` is what is known to be right."""
        domain = self.domain.under(self.domain.changed_in(parse_frame(prompt)))
        system = Message(role="system", content=domain.prompts[self.settings.prompts]["judge"])
        messages = (system, Message(role="user", content=judge_frame(agent, prompt, output, truth)))
        problem = "not asked"
        for attempt in range(self.attempts):
            sampling = Sampling(
                temperature=self.settings.temperature, max_tokens=self.max_tokens, seed=derived_seed(seed, attempt)
            )
            try:
                reply = await self.model.complete(ChatRequest(agent="judge", messages=messages, sampling=sampling))
            except ModelError as error:
                problem = f"the judge did not answer: {error}"
                if not error.retryable:
                    break
                continue
            said, problem = _read(reply)
            if said is not None:
                return _agreed(agent, output, said)
        return Judged("unjudged", reason=problem, failed=True)


def judge_frame(agent: AgentName, prompt: str, output: str, truth: str = "") -> str:
    """The judge's user message. Texts stand as JSON strings, so that a plan keeps its lines and its indentation."""
    lines = [f"agent: {agent}", f"prompt: {compact(prompt)}"]
    if truth:
        lines.append(f"truth: {compact(truth)}")
    return "\n".join([*lines, f"output: {compact(output)}"])


def canonical_output(agent: AgentName, text: str) -> str:
    """The output in the agent's exact format: JSON compact with its keys in order, a plan and a reply stripped.

    Text that is no JSON object where one is due is given back as it is: the verification refuses it.
    """
    if agent in ("planner", "explainer"):
        return unfenced(text)
    try:
        value = json.loads(unfenced(text))
    except json.JSONDecodeError:
        return text
    keys = {"understander": ("intent", "entities", "confirmed", "question"), "evaluator": ("ok", "violations")}[agent]
    if not isinstance(value, dict) or set(value) != set(keys):
        return text
    return compact({key: value[key] for key in keys})


def _agreed(agent: AgentName, output: str, said: Judgement) -> Judged:
    refined = canonical_output(agent, said.output if said.verdict == "edit" or said.output else output)
    changed = refined != canonical_output(agent, output)
    verdict: Verdict = "edit" if changed else "keep"  # the text decides, whatever the judge called it
    return Judged(verdict, refined, said.reason, dict(said.criteria))


def _read(reply: ChatReply) -> tuple[Judgement | None, str]:
    if reply.finish_reason == "length":
        return None, f"the judge's answer was cut after {reply.completion_tokens} tokens"
    try:
        said = Judgement.model_validate_json(unfenced(reply.text))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "answer"
        return None, f"the judge's answer cannot be read: {where}: {problem['msg']}"
    if said.verdict == "edit" and not said.output.strip():
        return None, "the judge asked for an edit and gave none"
    return said, ""
